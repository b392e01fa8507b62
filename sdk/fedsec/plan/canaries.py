"""What exposures mean: which are chance, and which a policy lets pass."""

from __future__ import annotations

import math
from typing import Final

import scipy

CHANCE: Final = math.log2(math.e)
"""Mean exposure, in bits, of an answer that was never trained on: log2(1/U) for uniform U, but for ties and few
candidates."""
_FALSE_ALARM: Final = 0.01
"""How likely an adapter that remembers nothing may look as if it did, at all sites together."""


def no_memory_stays_below(canaries: int, confidence: float = 0.99) -> float:
    """The mean exposure (bits) that so many canaries exceed by chance alone with probability 1 - ``confidence``.

    Each is log2(1/U), an exponential variable of mean ``CHANCE``; a sum of n of them has a gamma law.
    """
    return float(scipy.stats.gamma.ppf(confidence, canaries, scale=CHANCE)) / canaries


def no_site_is_above(canaries: int, sites: int) -> float:
    """The mean exposure (bits) that chance alone gives some of ``sites`` in 1 of 100 runs at most."""
    return no_memory_stays_below(canaries, 1 - _FALSE_ALARM / sites)


def highest(candidates: int) -> float:
    """The exposure (bits) of an answer that comes before all ``candidates``."""
    return math.log2(1 + candidates)
