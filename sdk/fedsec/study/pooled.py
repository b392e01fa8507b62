"""The baseline `central`: one model trained on all sites' notes pooled, in an experiment that may do that."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from fedsec.data.schema import Example
from fedsec.site.identity import Progress
from fedsec.study.folder import RunFolder
from fedsec.training.adapter import AdapterState, initial_adapter, load_peft
from fedsec.training.loop import train_round
from fedsec.training.public_step import adapter_of, between_rounds
from fedsec.training.replicas import Replicas
from fedsec.training.round import StepInfo
from fedsec_secure.codec import sha256


def pooled_adapter(
    folder: RunFolder, models: Replicas, training: Mapping[str, Sequence[Example]], progress: Progress
) -> AdapterState:
    """All sites' notes pooled, with as many steps a round as all sites took together. A comparison that only a
    plan and every policy that name it allow. ``training``: examples by site.
    """
    plan = folder.plan
    pooled = [example for name in sorted(training) for example in training[name]]
    spec = plan.training
    if spec.examples_per_round is not None:
        spec = spec.model_copy(update={"examples_per_round": spec.examples_per_round * len(training)})
    adapter = initial_adapter(models.base, plan.lora, plan.seed)
    for index in range(plan.rounds):
        done = folder.path / f"central-{index}"
        if done.is_dir():
            adapter = load_peft(done)
            continue
        path = folder.path / f"central-{index}.checkpoint"

        def on_step(step: StepInfo, index: int = index) -> None:
            progress(
                {"event": "central", "site": "pooled notes", "round": index, "step": step.step, "steps": step.steps}
            )

        adapter = train_round(
            models.base,
            adapter,
            pooled,
            spec,
            plan.lora,
            round_index=index,
            rounds=plan.rounds,
            seed_material=sha256(b"fedsec/central/v1\0", plan.digest()),
            checkpoint=path,
            on_step=on_step,
        ).adapter
        adapter = between_rounds(plan, adapter)
        part = done.with_name(f".{done.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        adapter.save_peft(part, plan.model, plan.lora)
        part.rename(done)  # whole or not at all: it is what a resumed run goes on from
        path.unlink(missing_ok=True)
    return adapter_of(adapter)
