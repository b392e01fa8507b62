"""Builds with one fault each, to show that the audits find them. Nothing else imports this module.

A fault replaces one function of what is installed, inside a ``with`` block and in this process only. The faults are
those that libraries and papers had: losses averaged over a batch's tokens, batches shuffled where Poisson sampling is
accounted for, too little noise, clipping of parts or of the sum, noise from a seed, records charged as if they were
patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final
from unittest import mock

import numpy as np
import numpy.typing as npt

from fedsec.audits import path
from fedsec.audits.epsilons import of_records, of_shared, of_units
from fedsec.audits.mechanism import audit, noise_and_sampling, seeds, shared_noise
from fedsec.audits.outcome import Row, Watch, unseen
from fedsec.audits.setting import Setting
from fedsec.plan import cost
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.objective import RecordLosses
from fedsec.training.private import loop, mechanism
from fedsec.training.private.clipping import Clipped, clip_and_sum
from fedsec.training.private.mechanism import NoisySum
from fedsec_secure.accounting.events import Event
from fedsec_secure.numeric.discrete_gaussian import DiscreteGaussian, Integers
from fedsec_secure.numeric.poisson_sampling import PoissonSampler

if TYPE_CHECKING:
    import torch

    from fedsec.data.schema import Example
    from fedsec.plan.specs import DpSpec

Mask = npt.NDArray[np.bool_]
_sample = PoissonSampler.sample
_release = NoisySum.release
_event: Callable[[DistributedStep], Event] = vars(DistributedStep)["event"].fget


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: what is wrong.
        part: the part of the audit that has to find it.
        found_by: in which row.
        plant: what is installed inside the block that it opens.
    """

    name: str
    part: Callable[[Setting, Watch], list[Row]]
    found_by: str
    plant: Callable[[], AbstractContextManager[object]]


def _less_noise(factor: Fraction) -> Callable[[], AbstractContextManager[object]]:
    return lambda: mock.patch.object(mechanism, "DiscreteGaussian", lambda sigma: DiscreteGaussian(sigma * factor))


def _coupled(losses: RecordLosses) -> torch.Tensor:
    return losses.sums / losses.tokens.sum()


def _tensor_by_tensor(gradients: Mapping[str, torch.Tensor], bound: float) -> Clipped:
    each = {name: clip_and_sum({name: gradient}, bound) for name, gradient in gradients.items()}
    return Clipped({name: part.total[name] for name, part in each.items()}, next(iter(each.values())).norms)


def _the_sum(gradients: Mapping[str, torch.Tensor], bound: float) -> Clipped:
    return clip_and_sum({name: gradient.sum(0, keepdim=True) for name, gradient in gradients.items()}, bound)


def _shuffled(sampler: PoissonSampler, units: int) -> Mask:
    """Batches of one size from a shuffled list of all units, until it is used up."""
    size = max(1, round(units * sampler.accounted))
    left: list[int] = sampler.__dict__.setdefault("shuffled", [])
    if len(left) < size:
        left[:] = np.random.default_rng().permutation(units).tolist()
    mask: Mask = np.zeros(units, np.bool_)
    mask[left[:size]] = True
    del left[:size]
    return mask


def _never_empty(sampler: PoissonSampler, units: int) -> Mask:
    while not (mask := _sample(sampler, units)).any():
        pass
    return mask


class _Seeded(DiscreteGaussian):
    """Noise from numpy's global generator."""

    def sample(self, size: int) -> Integers:
        return np.rint(np.random.normal(0, float(self.variance) ** 0.5, size)).astype(np.int64)


def _once(noisy: NoisySum, total: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same noise on every tensor; those of the audits are of one size."""
    noise = noisy._noised(next(iter(total.values())) * 0).reshape(-1)
    return {name: tensor + noise[: tensor.numel()].reshape(tensor.shape) for name, tensor in total.items()}


def _all_but_one(noisy: NoisySum, total: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A coordinate that a loop over slices left out."""
    released = _release(noisy, total)
    name = next(iter(total))
    released[name].reshape(-1)[-1] = total[name].reshape(-1)[-1]
    return released


def _path(setting: Setting, watch: Watch) -> list[Row]:
    return path.audit(watch)


def _seeds(setting: Setting, watch: Watch) -> list[Row]:
    return [seeds(setting)]


def _records(setting: Setting, watch: Watch) -> list[Row]:
    return [of_records(setting, watch)]


def _as_one_record(dp: DpSpec) -> int:
    """What a unit is charged for that is sampled as a whole."""
    return 1


def _all_records(examples: Sequence[Example], dp: DpSpec) -> list[list[int]]:
    return loop.units_of(examples, "record")


class _Repeated(DiscreteGaussian):
    """Noise that a site drew once and keeps."""

    def sample(self, size: int) -> Integers:
        return np.rint(np.random.default_rng(0).normal(0, float(self.variance) ** 0.5, size)).astype(np.int64)


def _kept(step: DistributedStep) -> DiscreteGaussian:
    return _Repeated(step.sigma)


def _one_record_charged(step: DistributedStep) -> Event:
    return _event(step if step.records == 1 else replace(step, records=1))


def _counted_on_all(step: DistributedStep) -> int:
    return step.survivors


_ON_ALL, _ON_RECORDS, _SIZES = "ε of a step on all units", "ε of a step on sampled records", "sampling: batch sizes"
FAULTS: Final = (
    Fault(
        "loss: mean over batch tokens",
        _path,
        "one unit: a long answer",
        lambda: mock.patch.object(RecordLosses, "per_record", _coupled),
    ),
    Fault("noise: half", of_units, _ON_ALL, _less_noise(Fraction(1, 2))),
    Fault("noise: 10 % low", noise_and_sampling, "noise: variance, relative", _less_noise(Fraction(9, 10))),
    Fault(
        "clipping: tensor by tensor",
        _path,
        "one unit: like its mates",
        lambda: mock.patch.object(loop, "clip_and_sum", _tensor_by_tensor),
    ),
    Fault(
        "clipping: only the sum",
        of_units,
        _ON_ALL,
        lambda: mock.patch.object(loop, "clip_and_sum", _the_sum),
    ),
    Fault(
        "sampling: shuffled batches",
        noise_and_sampling,
        _SIZES,
        lambda: mock.patch.object(PoissonSampler, "sample", _shuffled),
    ),
    Fault(
        "sampling: no empty batches",
        noise_and_sampling,
        _SIZES,
        lambda: mock.patch.object(PoissonSampler, "sample", _never_empty),
    ),
    Fault(
        "noise: from a seed",
        _seeds,
        "no seed repeats a step",
        lambda: mock.patch.object(mechanism, "DiscreteGaussian", _Seeded),
    ),
    Fault(
        "noise: same for all tensors",
        noise_and_sampling,
        "noise: independent",
        lambda: mock.patch.object(NoisySum, "release", _once),
    ),
    Fault(
        "noise: none on one coordinate",
        noise_and_sampling,
        "noise: law",
        lambda: mock.patch.object(NoisySum, "release", _all_but_one),
    ),
    Fault(
        "records: charged as one a patient",
        _records,
        _ON_RECORDS,
        lambda: mock.patch.object(cost, "records_sampled", _as_one_record),
    ),
    Fault(
        "records: no limit a patient",
        _records,
        _ON_RECORDS,
        lambda: mock.patch.object(loop, "drawn_units", _all_records),
    ),
    Fault(
        "shared noise: the same in every step",
        of_shared,
        "ε of 4 shared steps on samples",
        lambda: mock.patch.object(DistributedStep, "noise", property(_kept)),
    ),
    Fault(
        "shared noise: records charged as one a patient",
        of_shared,
        "ε of a shared step on sampled records",
        lambda: mock.patch.object(DistributedStep, "event", property(_one_record_charged)),
    ),
    Fault(
        "shared noise: sized for all who survive",
        shared_noise,
        "shared noise: variance, relative",
        lambda: mock.patch.object(DistributedStep, "honest", property(_counted_on_all)),
    ),
)


def find_all(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """A row for the build as it is, held where nothing refutes it, and one for each fault, held where it is found."""
    refuted = [row for row in audit(setting, watch) if not row.held]
    got = "; ".join(f"{row.name}: {row.got}" for row in refuted) or "nothing refuted"
    as_it_is = Row("none: the build as it is", "nothing refuted", got, not refuted)
    return [as_it_is, *(find(fault, setting, watch) for fault in FAULTS)]


def find(fault: Fault, setting: Setting, watch: Watch = unseen) -> Row:
    """Whether the audit finds this fault where it has to."""

    def told(what: str, done: int, total: int) -> None:
        watch(f"{fault.name}: {what}", done, total)

    with fault.plant():
        (row,) = [row for row in fault.part(setting, told) if row.name == fault.found_by]
    return Row(fault.name, f"refuted by {row.name}", row.got, not row.held, row.numbers)
