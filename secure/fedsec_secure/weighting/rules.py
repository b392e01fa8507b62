"""The weight rules `uniform` and `size`: what a site folds in, and the bounds that hold whatever it claims.

Effective cohort is (sum w)^2 / sum w^2 (Kish): how many equal sites the weights are worth.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsec_secure.errors import ConfigError


def clip_count(count: int, count_min: int, count_max: int) -> int:
    """A site's own example count, clipped to the plan's bounds. Nobody can check a hidden count; the bounds can."""
    if count < 1 or not 1 <= count_min <= count_max:
        raise ConfigError("a weight by size needs at least one example and bounds with 1 <= count_min <= count_max")
    return max(count_min, min(count, count_max))


def largest_share(count_min: int, count_max: int, minimum_cohort: int) -> float:
    """The largest share of a round that one site can claim: n_hi / (n_hi + (m_min - 1) * n_lo)."""
    return count_max / (count_max + (minimum_cohort - 1) * count_min)


def check_size_bounds(count_min: int, count_max: int, minimum_cohort: int, cap: float) -> None:
    """The plan's count bounds keep every site below the cap, whatever it claims."""
    share = largest_share(count_min, count_max, minimum_cohort)
    if share > cap:
        raise ConfigError(
            f"weighting.count_max: one site could claim {share:.3f} of a round, the cap is {cap}; "
            "raise count_min, lower count_max or raise the cap"
        )


def effective_cohort(weights: Sequence[int]) -> float:
    """(sum w)^2 / sum w^2, from 1 (one site decides) to len(weights) (all equal)."""
    if not weights or any(w < 1 for w in weights):
        raise ConfigError("an effective cohort needs positive weights")
    return sum(weights) ** 2 / sum(w * w for w in weights)


def least_effective_cohort(count_min: int, count_max: int, minimum_cohort: int) -> float:
    """The smallest effective cohort that any counts within the bounds can give over ``minimum_cohort`` sites.

    The sum is smallest at the extremes for convexity of sum w^2 in each w: every split of n_lo and n_hi is tried.
    """
    candidates = [[count_max] * high + [count_min] * (minimum_cohort - high) for high in range(minimum_cohort + 1)]
    return min(effective_cohort(c) for c in candidates)
