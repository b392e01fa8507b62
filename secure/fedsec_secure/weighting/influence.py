"""Influence weights from published scores (Fed-MedLoRA+, arXiv 2601.22124): w proportional to size bin * exp(1 - loss).

What the paper's server computes from every site's plain adapter is here a pure function of the sites' own signed
scores. Every site computes it again, and its sum comes out right only with the same weights: no party chooses them.

Weights are integers from a table, so that all machines agree on the last digit, and no site weighs more than a cap,
whatever it claims. A site that lies about its loss is bounded by that cap, never detected.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from fedsec_secure.errors import AbortError, ConfigError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL
from fedsec_secure.weighting.rules import effective_cohort

# fmt: off
TABLE: Final[tuple[int, ...]] = (
    65536, 62340, 59299, 56407, 53656, 51039, 48550, 46182, 43930, 41788, 39750, 37811, 35967, 34213, 32544, 30957,
    29447, 28011, 26645, 25345, 24109, 22934, 21815, 20751, 19739, 18776, 17861, 16990, 16161, 15373, 14623, 13910,
    13231, 12586, 11972, 11388, 10833, 10305, 9802, 9324, 8869, 8437, 8025, 7634, 7262, 6907, 6571, 6250, 5945, 5655,
    5380, 5117, 4868, 4630, 4404, 4190, 3985, 3791, 3606, 3430, 3263, 3104, 2952, 2808, 2671, 2541, 2417, 2299, 2187,
    2080, 1979, 1882, 1791, 1703, 1620, 1541, 1466, 1395, 1327, 1262, 1200,
)
# fmt: on
"""Level k -> exp(-k / 20) * 2^16, rounded to nearest. Only ratios count: exp(1 - loss) has the same."""
MOST_BIN: Final = 64
"""The largest size bin: bin * 2^16 is then at most 2^22, within what a sum takes as a weight."""


@dataclass(frozen=True)
class Influence:
    """The rule of one plan.

    Attributes:
        bins: relative size of each site as approved in the plan, 1 to 64; whoever is not named has 1.
        cap: no site may weigh more than this share of a round.
        least_effective_cohort: of a round's weights, (sum w)^2 / sum w^2 (Kish 1965).
        units: set where weights multiply ciphertexts: they are then rounded to so many units in all, at least one each.
    """

    bins: Mapping[SiteId, int]
    cap: Fraction
    least_effective_cohort: Fraction
    units: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.cap <= 1 or any(not 1 <= size <= MOST_BIN for size in self.bins.values()):
            raise ConfigError(f"influence weights need a cap in (0, 1] and size bins from 1 to {MOST_BIN}")

    def weigh(self, scores: Mapping[SiteId, int]) -> dict[SiteId, int]:
        """Everyone's weight, from everyone's level; heavy ones are cut down until none is above the cap.

        AbortError where so few sites cannot keep the cap even with equal weights.
        """
        full = {site: self.bins.get(site, 1) * _of_level(score) for site, score in scores.items()}
        if len(full) * self.cap < 1:
            raise AbortError(
                f"{len(full)} sites cannot each weigh at most {float(self.cap):g} of a round: more sites are needed"
            )
        cut = self._cut(full)
        return cut if self.units is None else self._cut(in_units(cut, self.units))

    def _cut(self, weights: Mapping[SiteId, int]) -> dict[SiteId, int]:
        most = ceiling(weights.values(), self.cap)
        return {site: min(weight, most) for site, weight in weights.items()}

    def why_not(self, weights: Collection[int]) -> str | None:
        """Why a sum with these weights is refused, or None. Sites that drop out leave the others a larger share."""
        total, heaviest = sum(weights), max(weights)
        if heaviest > self.cap * total:
            return f"one site would weigh {heaviest / total:.3f} of it, the cap is {float(self.cap):g}"
        if effective_cohort(weights) < self.least_effective_cohort:
            return (
                f"its weights are worth {float(effective_cohort(weights)):.2f} equal sites, "
                f"at least {float(self.least_effective_cohort):g} are due"
            )
        return None


def _of_level(score: int) -> int:
    return TABLE[WORST_LEVEL if score == NO_SCORE else score]


def in_units(weights: Mapping[SiteId, int], units: int) -> dict[SiteId, int]:
    """Proportional to ``weights``, whole, at least 1 each, and at most ``units`` together.

    Of n sites, ``units - n`` are dealt out by rounding to nearest: whoever is rounded up gains half a unit at most, and
    whoever would get none gains one. ConfigError for fewer than two units a site.
    """
    # Check 127 (wrong decryption): weights on ciphertexts are small enough for every sum to decrypt.
    if units < 2 * len(weights):
        raise ConfigError(f"{units} units of weight are too few for {len(weights)} sites: two for each are needed")
    total, dealt = sum(weights.values()), units - len(weights)
    return {site: max(1, (2 * weight * dealt + total) // (2 * total)) for site, weight in weights.items()}


def ceiling(weights: Collection[int], cap: Fraction) -> int:
    """The largest c for which no min(w, c) is above ``cap`` of their sum: water-filling with whole numbers.

    ``len(weights) * cap`` is at least 1. cap * sum min(w, c) - c is then concave in c, 0 at 0 and not negative at 1, so
    what holds for one c holds for all below.
    """
    return bisect_left(range(1, max(weights) + 1), True, key=lambda c: c > cap * sum(min(w, c) for w in weights))
