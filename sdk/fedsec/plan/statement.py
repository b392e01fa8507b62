"""What an officer is told of a plan or a policy: one sentence, what it is about, and whether it asks for a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["fact", "risk", "refused"]

_WORDS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Statement:
    """One thing to know. ``risk`` asks for a decision; ``refused`` cannot run."""

    level: Level
    topic: str
    text: str


def count_in_words(n: int, capital: bool = False) -> str:
    """``five`` for 5; digits above ten."""
    word = _WORDS[n] if 0 <= n < len(_WORDS) else str(n)
    return word.capitalize() if capital else word


def plural(n: int, noun: str) -> str:
    """``1 step``, ``3 steps``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
