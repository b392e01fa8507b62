"""DP-SGD at one site: Poisson samples of units, clipped gradients, exact noise, AdamW (Abadi et al. 2016).

* Units are examples or patients; a patient's gradient is the mean over at most k of its examples, drawn anew each time,
  and is clipped as one (Chua et al. 2024, "Mind the privacy unit", user-level sampling). Or examples are drawn and
  clipped one by one, of at most k fixed ones a patient (Charles et al. 2024, example-level sampling).
* Sampling, dropout and noise come from the operating system: no seed changes them, and nothing repeats them. A round
  that was killed goes on from its last checkpoint with fresh ones; what was lost never left the site.
* A step that drew nobody is a step: it adds its noise and is charged.
* The noisy sum is divided by the plan's number, not by a count of the site's. AdamW sees nothing else of the notes.
* Every gradient is that of the example's own mean loss, at a width that its own length fixes (`buckets`).

On one thread: with more, products are cut by how many rows there are, and batch-mates would move a gradient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsec.data.schema import Example
from fedsec.plan.cost import PrivateSteps
from fedsec.plan.specs import DpSpec, LoraSpec, TrainingSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.batches import encode
from fedsec.training.objective import record_losses
from fedsec.training.private.buckets import (
    LEAST_ROWS,
    bucket_width,
    collate_bucket,
    group_by_bucket,
    records_together,
)
from fedsec.training.private.clipping import MAX_RECORDS, clip_and_sum
from fedsec.training.private.engine import PerSampleEngine, engine_of
from fedsec.training.private.mechanism import MATES, SLACK, NoisySum
from fedsec.training.private.refusals import require_base
from fedsec.training.round import Measured, Position, Round, StepInfo, TrainResult
from fedsec_secure.codec import sha256
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from fedsec.training.base_model import BaseModel

Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Private:
    """How a round is made private: the plan's numbers, and the engine that computes gradients."""

    dp: DpSpec
    engine: str = "own"


def train_private_round(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    spec: TrainingSpec,
    lora: LoraSpec,
    *,
    private: Private,
    round_index: int,
    rounds: int,
    checkpoint: Path | None = None,
    checkpoint_every: int = 25,
    gradient_checkpointing: bool = False,
    on_step: Callable[[StepInfo], None] | None = None,
) -> TrainResult:
    """Train round ``round_index`` (from 0) of ``rounds`` from ``adapter`` with ``private.dp.steps`` private steps.

    The adapter is (epsilon, delta)-private for what `fedsec.plan.cost` says; everything else in the result is about the
    notes and stays at the site. Raises ConfigError for examples or models that do not fit.
    """
    run = PrivateRound(base, adapter, examples, spec, lora, private, Position(round_index, rounds))
    return run.run(checkpoint, checkpoint_every, gradient_checkpointing, on_step)


def units_of(examples: Sequence[Example], unit: str) -> list[list[int]]:
    """Positions of examples by unit: each by itself, or all of a patient's together."""
    if unit == "record":
        return [[i] for i in range(len(examples))]
    found: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        found.setdefault(example.patient_id, []).append(i)
    return list(found.values())


def drawn_units(examples: Sequence[Example], dp: DpSpec) -> list[list[int]]:
    """What the coins of a step are for: units, or with sampling record single examples, at most k of each unit."""
    units = units_of(examples, dp.unit)
    if dp.sampling == "unit":
        return units

    def rank(i: int) -> tuple[bytes, int]:
        """Which ones depends on the patient's own examples only, and is the same in every round."""
        return sha256(b"fedsec records of a patient v1\0", examples[i].example_id.encode()), i

    return [[i] for unit in units for i in sorted(unit, key=rank)[: dp.max_records]]


class PrivateRound(Round):
    """The state of one round."""

    def __init__(
        self,
        base: BaseModel,
        adapter: AdapterState,
        examples: Sequence[Example],
        spec: TrainingSpec,
        lora: LoraSpec,
        private: Private,
        position: Position,
    ) -> None:
        encoded = [encode(base.tokenizer, example, spec.max_tokens) for example in examples]
        super().__init__(base, adapter, encoded, spec, lora, position)
        self.dp, self.engine_name = private.dp, private.engine
        self.planned = PrivateSteps.of(private.dp, private.dp.steps)
        self.units = drawn_units(examples, private.dp)
        require_small_batches(len(self.units), private.dp, spec.batch_size)

    @property
    def steps(self) -> int:
        """The plan's, whoever is drawn."""
        return self.planned.count

    @property
    def threads(self) -> int:
        """One: see the module."""
        return 1

    def settings(self) -> object:
        """The plan's privacy, and who is one unit."""
        return [self.dp.model_dump(mode="json"), self.units, self.engine_name]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """With the engine on the model, and the mechanism made for what is trained."""
        require_base(self.model, self.spec.batch_size, self.spec.max_tokens)
        with engine_of(self.engine_name)(self.model) as engine:
            dimension = sum(p.numel() for p in self.trained.values())
            slack = SLACK if self.spec.batch_size > 1 else Fraction(0)
            self._mechanism = NoisySum(self.dp.clipping_norm, self.planned.noise_multiplier, dimension, slack)
            self.gradients = UnitGradients(self, engine)
            yield

    def drawn(self) -> list[list[int]]:
        """The examples of each unit of a fresh Poisson sample."""
        chosen = np.flatnonzero(self.planned.sampler.sample(len(self.units)))
        return [self._records_of(self.units[i]) for i in chosen]

    def backward(self) -> Measured:
        """The noisy mean gradient of a fresh Poisson sample."""
        total, seen = self.gradients.clipped_sum(self.drawn())
        noisy = self._mechanism.release(total)
        for name, parameter in self.trained.items():
            parameter.grad = (noisy[name] / self.dp.expected_batch).to(parameter.dtype)
        return seen

    def _records_of(self, unit: list[int]) -> list[int]:
        """At most k of a unit's examples, at random. Coins of the operating system, though these hide nothing."""
        if len(unit) <= self.dp.max_records:
            return unit
        order = np.frombuffer(os.urandom(8 * len(unit)), dtype="<u8").argsort(kind="stable")
        return [unit[i] for i in order[: self.dp.max_records]]


class UnitGradients:
    """Units' gradients, a few units at a time, and their clipped sum.

    Memory: besides the model's, one gradient for each example of a physical batch and each unit of a group.
    """

    def __init__(self, run: PrivateRound, engine: PerSampleEngine) -> None:
        self._base, self._encoded, self._engine = run.base, run.encoded, engine
        self._factors, self._trained = run.factors, run.trained
        self._physical, self._bound = records_together(run.spec.batch_size), run.dp.clipping_norm
        self._loss, self._tokens = 0.0, 0

    def each(self, units: Sequence[list[int]]) -> Iterator[Tensors]:
        """Group by group, in canonical order: name -> float32[units of the group, *shape]."""
        self._loss, self._tokens = 0.0, 0
        for group in self._groups(units):
            found = self._gradients(group)
            yield {name: found[name] for name in self._trained}

    def clipped_sum(self, units: Sequence[list[int]]) -> tuple[Tensors, Measured]:
        """Name -> float64[*shape], zero for no units; and what their examples' loss was."""
        import torch

        total = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in self._trained.items()}
        self._loss, self._tokens = 0.0, 0
        for gradients in self.each(units):
            for name, part in clip_and_sum(gradients, self._bound).total.items():
                total[name] += part.cpu()
        return total, Measured(self._loss / self._tokens if self._tokens else math.nan, self._tokens)

    def _groups(self, units: Sequence[list[int]]) -> Iterator[list[list[int]]]:
        """So many units as fit a physical batch, those of one width together."""

        def widest(unit: list[int]) -> int:
            return max(bucket_width(len(self._encoded[i])) for i in unit)

        if all(len(unit) == 1 for unit in units):
            for members in group_by_bucket([len(self._encoded[unit[0]]) for unit in units], self._physical):
                yield [units[i] for i in members]
            return
        ordered = sorted(units, key=widest)
        for start in range(0, len(ordered), self._physical):
            yield ordered[start : start + self._physical]

    def _gradients(self, group: Sequence[list[int]]) -> Tensors:
        """Name -> float32[units, *shape]: each unit's mean over its examples."""
        records = [i for unit in group for i in unit]
        owner = [number for number, unit in enumerate(group) for _ in unit]
        share = [1 / len(unit) for unit in group for _ in unit]
        found: Tensors = {}
        batches = group_by_bucket([len(self._encoded[i]) for i in records], self._physical)
        for members in batches:
            part = self._pass([records[i] for i in members])
            if len(batches) == 1 and len(records) == len(group):
                return {name: gradient[np.argsort(members)] for name, gradient in part.items()}
            for name, gradient in part.items():
                mean = found.setdefault(name, gradient.new_zeros((len(group), *gradient.shape[1:])))
                for row, i in zip(gradient, members, strict=True):
                    mean[owner[i]].add_(row, alpha=share[i])
        return found

    def _pass(self, records: Sequence[int]) -> Tensors:
        """Each record's own gradient: one forward and one backward pass over records of one width."""
        batch = collate_bucket([self._encoded[i] for i in records], self._base.pad_token)
        least_rows = LEAST_ROWS if self._physical > 1 else 0  # a record that is always alone has the same rows always

        def losses() -> torch.Tensor:
            found = record_losses(self._base, batch, least_rows)
            finite = found.sums.detach().isfinite()
            self._loss += float(found.sums.detach()[finite].sum())
            self._tokens += int(found.tokens[finite].sum())
            return found.per_record()

        return self._factors.gradients(self._engine.gradients([os.urandom(16) for _ in records], losses))


def require_small_batches(units: int, dp: DpSpec, batch_size: int) -> None:
    """The numbers of `mechanism`, `clipping` and `distributed` hold for so many units in a step; ConfigError where more
    than half as many are expected.

    How many a site has is no matter: of 8,192 expected, 9,032 or more are drawn with a probability below 2^-60
    (Bernstein's inequality), and twice as many with one below 2^-4000; twice 450 with one below 2^-240 (Chernoff's).
    """
    physical = 1 if dp.mode == "distributed" else batch_size
    expected = units * dp.sampling_rate
    most = MATES / 2 if physical > 1 else MAX_RECORDS / 2
    if expected > most:
        raise ConfigError(
            # Without this site's count: of a round that is asked for, the refusal is told to the coordinator.
            f"dp.sampling_rate {dp.sampling_rate:g}: expected at most {most:g} units in a step, found more here: lower "
            "the rate" + (", or set training.batch_size = 1" if physical > 1 else "")
        )
