"""Tables of a summary.md, and what stands in them for several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A table; the first columns (``words``) are text, the others are numbers."""
    ruled = "|" + "---|" * words + "---:|" * (len(head) - words)
    return ["| " + " | ".join(head) + " |", ruled, *("| " + " | ".join(line) + " |" for line in lines)]


def spread(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """Mean (lowest to highest); ``sign``: "+" where numbers are differences."""
    if not values:
        return "–"
    shape = f"{sign}.{digits}f"
    mean = f"{fmean(values):{shape}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{shape}} to {max(values):{shape}})"
