"""Group influence: what groups of sites weigh by the loss of their sum, and the step that the server takes.

The coordinator scores decrypted sums of groups and nothing of a single site. Each site weighs what its group's loss
says, exp(1 - loss) by the table of `influence`; a group then weighs n * exp(1 - loss) for its n survivors. Losses of
sums that everybody holds are public, so every site computes the weights again, and the cap bounds what a coordinator
gains that lies about a loss.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from fedsec_secure.errors import AbortError, ConfigError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL
from fedsec_secure.weighting.influence import TABLE
from fedsec_secure.weighting.rules import effective_cohort

STEPS: Final = (Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(5, 4), Fraction(3, 2))
"""What the weighted mean may be multiplied with before it is added: exact in float32."""


@dataclass(frozen=True)
class GroupInfluence:
    """The rule of one plan.

    Attributes:
        cap: no site may weigh more than this share of a round: its group's weight over its group's survivors.
        least_effective_cohort: over sites, (sum w)^2 / sum w^2 (Kish 1965).
    """

    cap: Fraction
    least_effective_cohort: Fraction

    def __post_init__(self) -> None:
        if not 0 < self.cap <= 1 or self.least_effective_cohort < 1:
            raise ConfigError("group weights need a cap in (0, 1] and an effective cohort from 1")

    def weigh(self, survivors: Sequence[int], levels: Sequence[int]) -> tuple[int, ...]:
        """What one site of each group weighs. ``survivors``: how many each group's sum is over.

        Heavy groups are cut down until no site is above the cap and the sites are worth the effective cohort: these
        weights are known after the sums were opened, and then no other attempt is left. AbortError where so few sites
        cannot hold that with equal weights either.
        """
        full = [TABLE[WORST_LEVEL if level == NO_SCORE else level] for level in levels]
        if len(full) != len(survivors) or not full or min(survivors) < 1:
            raise ConfigError("group weights need a level and at least one survivor for each group")
        if not self._holds(full, survivors, 1):
            raise AbortError(
                f"{sum(survivors)} sites cannot each weigh at most {float(self.cap):g} of a round and be worth "
                f"{float(self.least_effective_cohort):g} equal sites: more sites are needed"
            )
        # Both hold for all ceilings below one that they hold for: lower ones only make weights more equal.
        most = bisect_left(range(2, max(full) + 1), True, key=lambda c: not self._holds(full, survivors, c)) + 1
        return tuple(min(weight, most) for weight in full)

    def _holds(self, full: Sequence[int], survivors: Sequence[int], most: int) -> bool:
        cut = [min(weight, most) for weight in full]
        sites = [weight for weight, count in zip(cut, survivors, strict=True) for _ in range(count)]
        return max(cut) <= self.cap * sum(sites) and effective_cohort(sites) >= self.least_effective_cohort


def shares(survivors: Sequence[int], weights: Sequence[int]) -> tuple[Fraction, ...]:
    """Each group's share of the round: of what all its sites weigh together."""
    total = sum(n * w for n, w in zip(survivors, weights, strict=True))
    return tuple(Fraction(n * w, total) for n, w in zip(survivors, weights, strict=True))


def best_step(losses: Mapping[Fraction, float]) -> Fraction:
    """The step with the smallest loss; of equal ones the one nearest 1, then the smaller; 1 where no loss is finite."""
    finite = {step: loss for step, loss in losses.items() if loss - loss == 0.0}
    if not finite:
        return Fraction(1)
    least = min(finite.values())
    return min((step for step, loss in finite.items() if loss == least), key=lambda step: (abs(step - 1), step))


def site_weights(groups: Sequence[Sequence[SiteId]], weights: Sequence[int]) -> dict[SiteId, int]:
    """By site, in the order of names. ``groups``: the survivors of each."""
    each = {site: weight for group, weight in zip(groups, weights, strict=True) for site in group}
    return dict(sorted(each.items()))
