"""A hospital that was not in the study makes a run's adapter its own, from few records (arXiv 2601.22124, low-resource
new site).

Nothing is sent anywhere, and nothing is charged to a ledger: what is made is made to stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedsec.data.schema import Example
from fedsec.data.templates import NONE
from fedsec.evaluation.loss import example_losses, mean_loss
from fedsec.evaluation.scores import KINDS, Interval, Kind, Scores, paired_bootstrap
from fedsec.plan.model import Plan
from fedsec.plan.specs import TrainingSpec
from fedsec.plan.versions import software_versions
from fedsec.site.work import TestSet, score_tests
from fedsec.study.adapted import Adapted, HeldOut, Origin, Records, Unfinished
from fedsec.study.local_notes import LocalNotes
from fedsec.study.starting import Start, require_fits
from fedsec.training.adapter import AdapterState
from fedsec.training.base_model import load_base
from fedsec.training.loop import train_round
from fedsec.training.replicas import Replicas
from fedsec.training.round import StepInfo, TrainResult
from fedsec_secure.codec import sha256
from fedsec_secure.errors import ConfigError

LEARNING_RATE: Final = 5e-4
RECORDS: Final = 50
"""From so many records on; with fewer the rate is lower in proportion (docs/decisions/few-records-gently.md)."""
ZERO_SHOT, RUN, ADAPTED = "zero-shot", "run", "adapted"
_STEPS: Final = 60
_EPOCHS: Final = (2, 10)
_CHECKPOINT_EVERY: Final = 5

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, of how much."""


@dataclass(frozen=True)
class Settings:
    """What the hospital chose; None: the default for so many records."""

    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    zero_shot: bool = False
    base: str | None = None
    """Where the base model is, if not where the plan says."""


@dataclass(frozen=True)
class Outcome:
    """The new folder's record, and how it was trained."""

    record: Adapted
    trained: TrainResult


def adapt(start: Start, notes: LocalNotes, settings: Settings, out: Unfinished, progress: Progress) -> Outcome:
    """Train, score and write the folder.

    A kill at any point loses the steps since the last checkpoint: called again with the same inputs, it ends in the
    same bits (on the same kind of processor).

    Raises:
        VerificationError: the base model's weights are not the plan's.
        ConfigError: the adapter is not of the plan's shape, or a note does not fit ``training.max_tokens``.
    """
    model = start.plan.model
    model = model if settings.base is None else model.model_copy(update={"base": settings.base})
    progress("loading the base model", 0, 1)
    models = Replicas(load_base(model))
    require_fits(start, models.base)
    measure = _Measure(models, start.plan, notes.held_out, progress)
    found: dict[str, tuple[HeldOut, Scores]] = {}
    if notes.held_out is not None:
        if settings.zero_shot:
            found[ZERO_SHOT] = measure(ZERO_SHOT, None)
        found[RUN] = measure(RUN, start.adapter)
    examples = balanced(notes.train)
    spec = training_spec(start.plan.training, len(notes.train), settings)
    trained = _train(models, start, examples, spec, settings, out, progress)
    if notes.held_out is not None:
        found[ADAPTED] = measure(ADAPTED, trained.adapter)
    record = Adapted(
        origin=Origin(
            plan_sha256=start.plan.digest().hex(),
            run=start.run,
            adapter_sha256=start.adapter.digest().hex(),
            evidence=start.evidence,
            pinned=start.pinned,
            unverified=start.unverified,
        ),
        base=model.base,
        base_weights_sha256=models.base.weights_sha256,
        adapter_sha256=trained.adapter.digest().hex(),
        records=Records(
            trained=len(examples),
            of=notes.of,
            patients=len({e.patient_id for e in examples}),
            empty=sum(e.answer == NONE for e in notes.train),
            left_out=len(notes.train) - len(examples),
            held_out=0 if notes.held_out is None else len(notes.held_out.examples),
            entity_types=notes.entity_types,
            relation_types=notes.relation_types,
        ),
        seed=settings.seed,
        lora=start.plan.lora,
        training=spec,
        truncated=trained.truncated,
        held_out={system: said for system, (said, _) in found.items()},
        gains=_gains(found),
        versions=software_versions(),
    )
    out.finish(trained.adapter, start.plan, record)
    return Outcome(record, trained)


def balanced(examples: Sequence[Example]) -> list[Example]:
    """What is trained on: of the examples whose answer is that there is nothing only the first, half as many as others.

    Few examples that are mostly such teach to answer just that. ConfigError where all are.
    """
    empty = [e.example_id for e in examples if e.answer == NONE]
    others = len(examples) - len(empty)
    if not others:
        raise ConfigError(f"none of the {len(examples)} records to train on holds anything; annotate some that do")
    spare = set(empty[max(1, others // 2) :])
    return [e for e in examples if e.example_id not in spare]


def training_spec(training: TrainingSpec, records: int, settings: Settings) -> TrainingSpec:
    """The plan's ``training``, over all records in one round; ``records``: how many were chosen, the empty ones too.

    Few records are seen more often, for about 60 steps in all but each 2 to 10 times; the rate is below a study's own,
    because the adapter is trained already, and lower still for fewer than `RECORDS`.
    """
    least, most = _EPOCHS
    steps = -(-records // training.batch_size)
    epochs = settings.epochs or min(most, max(least, -(-_STEPS // steps)))
    rate = LEARNING_RATE * min(records, RECORDS) / RECORDS
    changes = {
        "epochs": epochs,
        "learning_rate": settings.learning_rate or min(rate, training.learning_rate),
        "examples_per_round": None,
    }
    return training.model_copy(update=changes)


def _train(
    models: Replicas,
    start: Start,
    examples: Sequence[Example],
    spec: TrainingSpec,
    settings: Settings,
    out: Unfinished,
    progress: Progress,
) -> TrainResult:
    """Both factors are trained whatever the plan's strategy: nothing is summed here, so nothing has to stay frozen."""

    def on_step(step: StepInfo) -> None:
        progress("training", step.step, step.steps)

    seed = sha256(b"fedsec/adapt/v1\0", start.plan.digest(), settings.seed.to_bytes(8, "big"))
    with models.take() as base:
        return train_round(
            base,
            start.adapter,
            examples,
            spec,
            start.plan.lora.model_copy(update={"strategy": "fedit"}),
            round_index=0,
            rounds=1,
            seed_material=seed,
            checkpoint=out.checkpoint,
            checkpoint_every=_CHECKPOINT_EVERY,
            on_step=on_step,
        )


@dataclass(frozen=True)
class _Measure:
    """Loss and scores of one adapter on the held-out records."""

    models: Replicas
    plan: Plan
    test: TestSet | None
    progress: Progress

    def __call__(self, system: str, adapter: AdapterState | None) -> tuple[HeldOut, Scores]:
        assert self.test is not None

        def on_batch(done: int, of: int) -> None:
            self.progress(f"scoring: {system}", done, of)

        with self.models.take() as base:
            losses = example_losses(
                base, adapter, self.plan.lora, self.test.examples, max_tokens=self.plan.training.max_tokens
            )
        (scores,) = score_tests(self.models, adapter, self.plan, [self.test], None, on_batch).values()
        return HeldOut(loss=mean_loss(losses), scores=scores.figures()), scores


def _gains(found: Mapping[str, tuple[HeldOut, Scores]]) -> dict[Kind, Interval]:
    if ADAPTED not in found:
        return {}
    after, before = ({"held-out": found[system][1]} for system in (ADAPTED, RUN))
    return {
        kind: paired_bootstrap(after, before, kind=kind)
        for kind in KINDS
        if after["held-out"].f1(kind, "strict") is not None
    }
