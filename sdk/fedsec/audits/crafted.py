"""The real private step, `PrivateRound.backward`, on units whose gradients an auditor made up.

Sampling, grouping, clipping, summing, noise and division are those of every private run. What comes before, forward and
backward pass, and after, the optimiser, is left out: so a canary has the worst gradient there is, what is seen is all
that the optimiser sees, and a step takes a millisecond or two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from fedsec.data.schema import Example
from fedsec.plan.cost import DEFAULT_DELTA
from fedsec.plan.specs import DpSpec, LoraSpec, ModelSpec, TrainingSpec
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.adapter import initial_adapter
from fedsec.training.base_model import TINY_RANDOM, load_base
from fedsec.training.private.distributed import take_share
from fedsec.training.private.engine import PerSampleEngine
from fedsec.training.private.loop import Private, PrivateRound, UnitGradients
from fedsec.training.round import Position
from fedsec.training.strategies import shared_names
from fedsec_secure.numeric.lanes import Ints, Lanes, pack_into, unpack

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]
PHYSICAL = 64
SPEC = TrainingSpec(batch_size=PHYSICAL, threads=1, warmup_fraction=0.0, schedule="constant", learning_rate=1e-3)


@dataclass(frozen=True)
class Seen:
    """One step as an auditor sees it: the strongest that DP promises something against."""

    released: Vector
    """float64[d]: the noisy sum, before the division by the plan's batch."""
    drawn: tuple[int, ...]
    """Which units were drawn, by their rows. No accountant lets it be known of the canary itself."""


def tiny_base() -> BaseModel:
    """``tiny-random``, in float32."""
    return load_base(ModelSpec(base=TINY_RANDOM, dtype="float32"))


def dimension(base: BaseModel, lora: LoraSpec) -> int:
    """How many values d a step of this shape releases."""
    start = initial_adapter(base, lora, 0)
    return sum(start[name].size for name in shared_names(lora.strategy, start, 0))


def dp_of(noise_multiplier: float, sampling_rate: float, steps: int, delta: float, **more: object) -> DpSpec:
    """The part of a plan that a step is made from; the target is not used by it."""
    return DpSpec.model_validate(
        {
            "mode": "local", "unit": "record", "target_epsilon": 1.0, "target_delta": delta, "expected_batch": 4,
            "noise_multiplier": noise_multiplier, "sampling_rate": sampling_rate, "steps": steps, **more,
        }
    )  # fmt: skip


def sampled_records(records: int) -> dict[str, object]:
    """What `dp_of` takes more where records are sampled, of which a patient has so many at most; from 1."""
    return {"unit": "patient", "sampling": "record", "max_records": records}


def take_steps(
    base: BaseModel, lora: LoraSpec, dp: DpSpec, gradients: Matrix, owners: Sequence[int] | None = None
) -> Iterator[Seen]:
    """``dp.steps`` private steps at a site of n records.

    ``gradients``: float64[n, d], what each record's gradient is, whatever the model. ``owners``: the patient of each;
    every record's own where it is left out. Raises as `train_private_round`.
    """
    run = _CraftedRound(base, lora, dp, gradients, owners)
    with run.started():
        for _ in range(run.steps):
            run.backward()
            yield run.seen()


def take_shares(
    lora: LoraSpec, step: DistributedStep, sites: Sequence[Matrix], owners: Sequence[Sequence[int]] | None = None
) -> Iterator[Seen]:
    """Steps with distributed noise, without end: the decoded sum of the ``sites``' integers, in the gradient's unit.

    ``sites``: for each, float64[n, d], its records' gradients; ``owners``: for each, its records' patients, of whom
    ``step.records`` are used at most, as in `take_steps`. ``Seen.drawn`` counts rows through all of them.
    """
    more = {} if owners is None else sampled_records(step.records)
    dp = dp_of(step.noise_multiplier, step.rate, 1, DEFAULT_DELTA, clipping_norm=step.clip, **more)
    owned = owners if owners is not None else [None] * len(sites)
    runs = [_CraftedRound(tiny_base(), lora, dp, *site) for site in zip(sites, owned, strict=True)]
    first = np.cumsum([0, *(len(gradients) for gradients in sites)])
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.started())
        while True:
            total = _decoded_sum([take_share(run, step) for run in runs]) * step.grid
            drawn = tuple(int(at) + row for run, at in zip(runs, first[:-1], strict=True) for row in run.last)
            yield Seen(total, drawn)


def _decoded_sum(shares: Sequence[Ints]) -> Vector:
    """Each site's integers as words of the widest ring, added modulo 2^64 and taken apart; masks would add to zero."""
    lanes, values = Lanes.named("2x32"), len(shares[0])
    total = np.zeros(lanes.words(values), np.uint64)
    for share in shares:
        padded, packed = np.zeros(lanes.count * len(total), np.int32), np.empty_like(total)
        padded[:values] = share
        pack_into(lanes, np.split(padded, lanes.count), packed)
        total += packed
    return np.concatenate(unpack(lanes, total))[:values].astype(np.float64)


class _CraftedRound(PrivateRound):
    """A round whose units have given gradients, and whose steps are looked at."""

    def __init__(
        self, base: BaseModel, lora: LoraSpec, dp: DpSpec, gradients: Matrix, owners: Sequence[int] | None
    ) -> None:
        units = [_nobody(i, i if owners is None else owners[i]) for i in range(len(gradients))]
        super().__init__(base, initial_adapter(base, lora, 0), units, SPEC, lora, Private(dp), Position(0, 1))
        self._table, self.last = gradients, tuple[int, ...]()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """With the auditor's gradients in the place of the model's."""
        with super().attached():
            self.gradients = _Crafted(self, self.gradients._engine, self._table)
            yield

    def drawn(self) -> list[list[int]]:
        """A fresh sample, written down."""
        units = super().drawn()
        self.last = tuple(unit[0] for unit in units)
        return units

    def seen(self) -> Seen:
        """What the last step left for the optimiser."""
        flat = torch.cat([p.grad.reshape(-1) for p in self.trained.values() if p.grad is not None])
        return Seen(flat.double().numpy() * self.dp.expected_batch, self.last)


class _Crafted(UnitGradients):
    """Gradients from a table."""

    def __init__(self, run: PrivateRound, engine: PerSampleEngine, gradients: Matrix) -> None:
        super().__init__(run, engine)
        self._table = split(gradients, run.trained)

    def _gradients(self, group: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        rows = [unit[0] for unit in group]
        return {name: table[rows] for name, table in self._table.items()}


def split(gradients: Matrix, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Float64[n, d] as name -> float32[n, *shape], tensors in order."""
    found, at = {}, 0
    for name, parameter in parameters.items():
        part = torch.from_numpy(gradients[:, at : at + parameter.numel()].astype(np.float32))
        found[name], at = part.reshape(len(gradients), *parameter.shape), at + parameter.numel()
    return found


def _nobody(number: int, owner: int) -> Example:
    """Stands for a record of which only the gradient is used."""
    return Example(
        example_id=str(number), document_id=str(number), patient_id=str(owner), text="x", offset=0, entities=(),
        relations=None, prompt="x", answer="x",
    )  # fmt: skip
