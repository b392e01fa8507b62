"""What a site's weight may be, and what weights are worth together."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction

from fedsec_secure.errors import ConfigError


def clip_count(count: int, count_min: int, count_max: int) -> int:
    """A site's own example count, clipped to the plan's bounds. Nobody can check a hidden count; the bounds can."""
    if count < 1 or not 1 <= count_min <= count_max:
        raise ConfigError("a weight by size needs at least one example and bounds with 1 <= count_min <= count_max")
    return max(count_min, min(count, count_max))


def effective_cohort(weights: Collection[int]) -> Fraction:
    """(sum w)^2 / sum w^2, from 1 (one site decides) to len(weights) (all equal): how many equal sites they are worth
    (Kish 1965).
    """
    if not weights or any(w < 1 for w in weights):
        raise ConfigError("an effective cohort needs positive weights")
    return Fraction(sum(weights) ** 2, sum(w * w for w in weights))
