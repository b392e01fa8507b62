"""One site's part of a private step over all sites' units: integers with a share of the noise.

The sum over the sites is what pooled data would give: every site draws its units at the common rate, clips each unit's
gradient, rounds it to the common grid without exceeding the common norm, and adds its share of the noise (Kairouz, Liu
and Steinke 2021). What leaves the site is masked; by itself it has too little noise, and by design nobody sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsec.data.schema import Example
from fedsec.plan.model import Plan
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.adapter import AdapterState
from fedsec.training.private.loop import Private, PrivateRound
from fedsec.training.round import Position
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.lanes import Ints

if TYPE_CHECKING:
    import torch

    from fedsec.training.base_model import BaseModel


def noisy_integers(
    base: BaseModel, adapter: AdapterState, examples: Sequence[Example], plan: Plan, step: DistributedStep
) -> Ints:
    """int32[d] of the shared tensors in canonical order, in grid steps: fresh sample, fresh coins, fresh noise.

    Nothing of it may leave unmasked. Examples are computed one at a time, whatever training.batch_size says: a gradient
    that moved a little with its batch-mates would be rounded otherwise, and no noise is sized for that. Raises
    ConfigError for examples or models that do not fit the plan.
    """
    alone = plan.training.model_copy(update={"batch_size": 1})
    run = PrivateRound(base, adapter, examples, alone, plan.lora, Private(plan.dp), Position(0, 1))
    with run.started():
        return take_share(run, step)


def take_share(run: PrivateRound, step: DistributedStep) -> Ints:
    """The same of a round that has begun and computes its examples one at a time."""
    found = sum(p.numel() for p in run.trained.values())
    if found != step.dimension:
        raise ConfigError(f"dp.dimension is {step.dimension}; expected the {found} coordinates that are trained")
    drawn = run.drawn()
    _require_room(len(drawn), step)
    total = np.zeros(step.dimension, dtype=np.int64)
    for gradients in run.gradients.each(drawn):
        for unit in range(len(next(iter(gradients.values())))):
            values = _clipped([tensor[unit] for tensor in gradients.values()], step)
            if values is not None:
                total += step.rounding.round(values)
    total += step.noise.sample(step.dimension)
    return total.astype(np.int32)


def _clipped(tensors: Sequence[torch.Tensor], step: DistributedStep) -> np.ndarray | None:
    """One unit's gradient in grid steps, float64[d], of norm at most the clip; None where it is not finite."""
    import torch

    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).double().cpu().numpy()
    norm = math.sqrt(math.fsum(float(np.dot(part, part)) for part in np.array_split(flat, 1 + len(flat) // (1 << 20))))
    if not math.isfinite(norm):
        return None
    if norm > step.clip:
        flat *= step.clip * (1 - 2.0**-40) / norm  # shorter by more than float64 can be off
    flat /= step.grid
    return flat


def _require_room(drawn: int, step: DistributedStep) -> None:
    """OverflowError unless int32 holds the sum of so many units, all in one coordinate, and the noise at 14 deviations.

    A coordinate that wrapped around here would do so with this site's share of the noise alone, and the sum over the
    sites would no longer be a function of the sum of their integers, as it is where a lane overflows. Every plan leaves
    room for 13,000 units: its lanes hold 14 deviations of three sites' noise (`distributed_step`). At most 2^13 are
    expected (`require_small_batches`), so this is met with a probability below 2^-1700. No error of the protocol: the
    site stops, and nobody else hears why.
    """
    if drawn * step.sensitivity + 14 * step.sigma >= 2**31:
        raise OverflowError(
            f"a step drew {drawn} units: expected fewer, as their sum may exceed 2^31 grid steps; nothing was sent. "
            "Chance does not do this: check dp.sampling_rate against how many units there are"
        )
