"""What two lots of published levels tell: how well a guess from one level does, and whether the lots can tell anything.

The measure is the area under the ROC curve of a guess from the level alone: 0.5 is chance, 1 is certainty. Its interval
is Newcombe's (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2",
method 5), which has a width where all levels are the same too, and where no two lots overlap; ties make it too wide.

An area of 0.5 shows privacy only where levels could have moved. Levels are clipped and coarse, so a model that is bad
enough states the worst one whatever it has seen: lots that are nearly constant, or at an end of the scale, are
*flat*, and a row about them does not hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy import optimize, stats

from fedsec.audits.outcome import Row
from fedsec.plan.cost import RELATION
from fedsec.privacy.accountant import PldAccountant
from fedsec_secure.accounting.events import Event
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL

SAME: Final = 0.5
"""Of all levels: more of them on one step, and nothing was measured."""
CLIPPED: Final = 0.1
"""The same for levels at the ends of the scale, or without a score."""
LEAKS: Final = 0.65
"""What a control's area has to be above for sure: below, the test would show nothing where there is something."""
_DELTAS: Final = (1e-6, 1e-4, 1e-3, *(round(0.01 * step, 2) for step in range(1, 100, 3)))
_POINTS: Final = 2000


@dataclass(frozen=True)
class Levels:
    """Levels of trials that should be lower, and of those that should be higher, if the score tells which is which."""

    lower: list[int] = field(default_factory=list)
    higher: list[int] = field(default_factory=list)

    def add(self, lower: bool, level: int) -> None:
        """One trial more."""
        (self.lower if lower else self.higher).append(level)

    @property
    def flat(self) -> str:
        """Why nothing can be measured on these; empty where something can."""
        both = [*self.lower, *self.higher]
        commonest, times = Counter(both).most_common(1)[0]
        ends = sum(level in (0, WORST_LEVEL, NO_SCORE) for level in both)
        if ends > CLIPPED * len(both):
            return f"nothing measured: {ends} of {len(both)} levels are at an end of the scale"
        if times > SAME * len(both):
            return f"nothing measured: {times} of {len(both)} levels are {commonest}"
        return ""

    def area(self, level: float) -> tuple[float, float, float]:
        """(low, high, area): the chance that a trial of ``lower`` states a lower level than one of ``higher``, ties
        halved, and an interval of confidence 1 - ``level``.
        """
        m, n = len(self.lower), len(self.higher)
        found = float(stats.mannwhitneyu(self.higher, self.lower).statistic) / (m * n)
        return *_interval(found, m, n, level), found

    def control(self, name: str, level: float) -> Row:
        """A row that has to leak."""
        numbers, text = self._seen(level)
        held = not self.flat and numbers["low"] > LEAKS
        return Row(name, f"leaks: area > {LEAKS}", text, held, numbers)

    def bounded(self, name: str, event: Event, delta: float, level: float) -> Row:
        """A row that what ``event`` is charged for has to bound; ``delta`` is the one that its epsilon is given at."""
        bound, epsilon = largest_area(curve_of(event)), PldAccountant(RELATION).epsilon([event], delta)
        numbers, text = self._seen(level)
        held = not self.flat and 1 - bound <= numbers["high"] and numbers["low"] <= bound
        numbers |= {"bound": bound, "epsilon": epsilon}
        return Row(name, f"area ≤ {bound:.2f}, by ε {epsilon:.2f}", text, held, numbers)

    def _seen(self, level: float) -> tuple[dict[str, float], str]:
        low, high, area = self.area(level)
        numbers = {"area": area, "low": low, "high": high, "levels": len({*self.lower, *self.higher})}
        text = f"area {area:.2f} [{low:.2f}, {high:.2f}] on {numbers['levels']:.0f} levels"
        return numbers, self.flat or text


def _interval(found: float, m: int, n: int, level: float) -> tuple[float, float]:
    """All areas whose own standard error (Hanley and McNeil 1982, with the mean size for both) reaches ``found``."""
    z, size = float(stats.norm.isf(level / 2)), (m + n) / 2 - 1

    def outside(area: float) -> float:
        pairs = 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - found) ** 2 - z * z * area * (1 - area) * pairs / (m * n)

    tiny = 1e-9  # both ends are roots of their own
    low = 0.0 if found == 0 else float(optimize.brentq(outside, 0, min(found, 1 - tiny)))
    high = 1.0 if found == 1 else float(optimize.brentq(outside, max(found, tiny), 1))
    return low, high


def curve_of(event: Event) -> list[tuple[float, float]]:
    """(epsilon, delta) of what is charged, at many deltas: together they are nearly its whole trade-off."""
    accountant = PldAccountant(RELATION)
    return [(accountant.epsilon([event], delta), delta) for delta in _DELTAS]


def largest_area(curve: Sequence[tuple[float, float]]) -> float:
    """The largest area under a ROC curve that an output allows which is (epsilon, delta)-private for every pair.

    No test of it is above min(e^epsilon x + delta, 1 - e^-epsilon (1 - delta - x)) (Kairouz, Oh and Viswanath 2015,
    theorem 2.1). Rounded up, by 0.0005 at most.
    """
    x = np.arange(1, _POINTS + 1) / _POINTS
    highest = np.ones(_POINTS)
    for epsilon, delta in curve:
        if math.isfinite(epsilon) and epsilon < 700:
            highest = np.minimum(highest, math.exp(epsilon) * x + delta)
            highest = np.minimum(highest, 1 - math.exp(-epsilon) * (1 - delta - x))
    return float(highest.mean())
