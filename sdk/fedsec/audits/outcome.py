"""What an audit found, and how it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
Watch = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and out of how much."""


@dataclass(frozen=True)
class Row:
    """One line of an audit's table.

    Attributes:
        name: what was audited.
        expected: what has to be seen where every promise is kept.
        got: what was seen.
        held: whether that refutes nothing.
        shows: whether it could have: False for a bound so loose that it holds of much worse builds, too.
        numbers: the same in figures; epsilons in nats.
    """

    name: str
    expected: str
    got: str
    held: bool
    numbers: Mapping[str, float] = field(default_factory=dict)
    shows: bool = True


def unseen(what: str, done: int, total: int) -> None:
    """Watches nothing."""


def told(steps: Iterable[T], total: int, what: str, watch: Watch) -> Iterator[T]:
    """The same steps, and from time to time the watch is told how many are done."""
    for done, seen in enumerate(steps, start=1):
        if done % 50 == 0 or done == total:
            watch(what, done, total)
        yield seen
