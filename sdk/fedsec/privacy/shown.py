"""How an ε is printed: it is an upper bound, so its last digit is rounded up; what is left of one is rounded down."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

_ANY_FLOAT = Context(prec=800)
"""Digits enough for the largest float with all its decimals."""


def shown_epsilon(value: float, digits: int = 4, *, decimals: int | None = None, infinite: str = "∞") -> str:
    """``digits`` significant ones, or that many ``decimals``; never below ``value``. ``infinite`` where it is."""
    if math.isinf(value):
        return infinite
    # Of the shortest decimal that is this float: 0.1 is printed as 0.1, whatever its binary expansion.
    exact = Decimal(repr(float(value)))
    last = exact.adjusted() - digits + 1 if decimals is None else -decimals
    up = exact if exact == 0 else exact.quantize(Decimal(1).scaleb(last), ROUND_CEILING, _ANY_FLOAT)
    return f"{float(up):.{digits}g}" if decimals is None else f"{up:.{decimals}f}"


def shown_rest(value: float, digits: int = 3) -> str:
    """``digits`` significant ones of what is at least left, finite; never above ``value``."""
    exact = Decimal(repr(float(value)))
    last = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    down = exact if exact == 0 else exact.quantize(last, ROUND_FLOOR, _ANY_FLOAT)
    return f"{float(down):.{digits}g}"
