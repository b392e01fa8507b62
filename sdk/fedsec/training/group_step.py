"""From the sums of groups to one update: the same bits at the coordinator and at every site.

Each group's sum decodes to the mean of its survivors. What is added to the adapter is their weighted mean, times the
step that the coordinator chose from a fixed list by the loss of what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from fedsec.plan.group_checks import is_grouped
from fedsec.plan.model import Plan
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import adapter_of, after_sum
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.vector import decode_sum
from fedsec_secure.numeric.lanes import Floats, Words
from fedsec_secure.weighting.groups import STEPS, GroupInfluence

Loss = Callable[[AdapterState], float]
"""Of an adapter on the plan's validation set, in nats an answer token."""


def group_rule(plan: Plan) -> GroupInfluence:
    """How losses of groups' sums become weights."""
    if not is_grouped(plan):
        raise LocalMisuseError(f"expected a plan that weighs groups, found weighting.rule {plan.weighting.rule}")
    spec = plan.weighting
    return GroupInfluence(Fraction(str(spec.cap)), Fraction(str(spec.effective_cohort)))


def combined(sums: Iterable[tuple[Words, int]], parameters: SumParameters, factors: Sequence[Fraction]) -> Floats:
    """Σ factor · mean over groups, float32[d]: products and sums rounded to float32, in order.

    ``sums``: words and number of survivors of each group; lanes are range-checked (PeerViolationError).
    """
    total: Floats | None = None
    for (words, survivors), factor in zip(sums, factors, strict=True):
        mean = decode_sum(parameters, words, survivors, survivors).mean
        mean *= np.float32(float(factor))
        total = mean if total is None else np.add(total, mean, out=total)
    if total is None:
        raise LocalMisuseError("expected at least one group")
    return total


def stepped(mean: Floats, step: Fraction) -> Floats:
    """The mean times one of the steps, each product rounded to float32."""
    moved: Floats = mean * np.float32(float(step))
    return moved


def losses_of_groups(
    plan: Plan,
    index: int,
    state: AdapterState,
    sums: Iterable[tuple[Words, int]],
    parameters: SumParameters,
    loss: Loss,
) -> list[float]:
    """Of the adapter that each group's mean alone would lead to."""
    alone = (combined([one], parameters, [Fraction(1)]) for one in sums)
    return [loss(adapter_of(after_sum(plan, index, state, mean))) for mean in alone]


def losses_of_steps(plan: Plan, index: int, state: AdapterState, mean: Floats, loss: Loss) -> Mapping[Fraction, float]:
    """Of the adapter after each step that may be taken. ``mean``: weighted, float32[d]."""
    return {step: loss(adapter_of(after_sum(plan, index, state, stepped(mean, step)))) for step in STEPS}
