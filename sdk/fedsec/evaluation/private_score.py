"""A site's score from its own held-out notes: one number, bounded for every unit, with exact noise.

Each unit's loss, the mean over its examples in nats per answer token, is clipped to [0, 4]. Less 2 it lies in [-2, 2],
so one unit more or less moves the sum by at most 2, and `NoisySum` adds noise for that. The sum is divided by the
plan's number, not by a count of the site's. What comes out is a Gaussian release of every held-out unit, once a round;
the ledger charges it to all units of the data set, whether they are held out or trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import torch

from fedsec.data.schema import Example
from fedsec.evaluation.loss import example_losses
from fedsec.plan.model import Plan
from fedsec.plan.specs import LoraSpec, PrivateScore
from fedsec.training.adapter import AdapterState
from fedsec.training.private.loop import units_of
from fedsec.training.private.mechanism import NoisySum

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

MIDDLE: Final = 2.0
"""Of the range that losses are clipped to, in nats, and half its width: what one unit can move the sum by."""


def noisy_loss(
    base: BaseModel, adapter: AdapterState, examples: Sequence[Example], plan: Plan, score: PrivateScore
) -> float:
    """Nats per answer token, noise included; any number."""
    losses = unit_losses(base, adapter, plan.lora, examples, max_tokens=plan.training.max_tokens, unit=plan.dp.unit)
    return noisy_mean(losses, score)


def unit_losses(
    base: BaseModel, adapter: AdapterState, lora: LoraSpec, examples: Sequence[Example], *, max_tokens: int, unit: str
) -> list[float]:
    """Of each unit the mean over its examples. Examples are computed one at a time: none moves another's."""
    found = example_losses(base, adapter, lora, examples, max_tokens=max_tokens, batch_size=1)
    return [math.fsum(found[i].nats for i in members) / len(members) for members in units_of(examples, unit)]


def noisy_mean(losses: Sequence[float], score: PrivateScore) -> float:
    """The mean of ``losses``, a number for each unit, as if there were ``score.expected_units`` of them.

    What is not finite counts as the middle of the range, so that its influence is bounded whatever a unit holds. Of no
    units it is noise alone.
    """
    total = math.fsum(min(max(x, 0.0), 2 * MIDDLE) - MIDDLE for x in losses if math.isfinite(x))
    mechanism = NoisySum(MIDDLE, score.noise_multiplier, 1, Fraction(0))
    released = mechanism.release({"loss": torch.tensor([total], dtype=torch.float64)})
    return MIDDLE + float(released["loss"][0]) / score.expected_units
