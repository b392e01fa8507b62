"""What an attack is, and what it got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedsec.attacks.lab import Target


@dataclass(frozen=True)
class Got:
    """``held`` where the attacker went away with nothing that it must not have."""

    held: bool
    what: str


@dataclass(frozen=True)
class Attack:
    """One row of the attack table.

    Attributes:
        name: what the attacker tries.
        attacker: who.
        expected: what has to happen.
        source: where the attack is described, or which system fell to it.
        run: performs it on a target, in an empty folder.
    """

    name: str
    attacker: str
    expected: str
    source: str
    run: Callable[[Target, Path], Got]


def held(what: str) -> Got:
    """The defence held."""
    return Got(True, what)


def broken(what: str) -> Got:
    """It did not."""
    return Got(False, what)
