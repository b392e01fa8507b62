"""Validation losses as they are published: clipped to [0, 4] nats, in steps of 0.05, one byte.

A level says how many steps. Coarse on purpose: what a published score tells about one update is at most these levels.
"""

from __future__ import annotations

import math
from typing import Final

STEPS_PER_NAT: Final = 20
"""A step is 0.05 nats."""
WORST_LEVEL: Final = 80
"""4 nats an answer token or more: exp(-4) of a perfect score."""
NO_SCORE: Final = 255
"""Stands where a site has none. It weighs as much as the worst level: leaving a score out gains nothing."""


def level_of(loss: float) -> int:
    """The level of a loss in nats per answer token: nearest step, clipped; `NO_SCORE` where it is not finite."""
    if not math.isfinite(loss):
        return NO_SCORE
    return min(max(math.floor(loss * STEPS_PER_NAT + 0.5), 0), WORST_LEVEL)


def is_score(value: int) -> bool:
    """Whether this byte can stand in a statement."""
    return 0 <= value <= WORST_LEVEL or value == NO_SCORE
