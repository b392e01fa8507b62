"""What an attack is, and what it got."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Got:
    """``held`` where things went as expected: the attacker got nothing that it must not have, or only what was said."""

    held: bool
    what: str


@dataclass(frozen=True)
class Attack(Generic[T]):
    """One row of the attack table.

    Attributes:
        name: what the attacker tries.
        attacker: who.
        expected: what has to happen.
        source: where the attack is described, or which system fell to it.
        run: performs it on a target, in an empty folder.
        kind: `defence` where the attacker has to go away with nothing. It has to succeed where the plan's own warning
            says that it does (`stated`), and where nothing is protected, so that one sees the attack work (`control`).
    """

    name: str
    attacker: str
    expected: str
    source: str
    run: Callable[[T, Path], Got]
    kind: Literal["defence", "stated", "control"] = "defence"


def held(what: str) -> Got:
    """The defence held."""
    return Got(True, what)


def broken(what: str) -> Got:
    """It did not."""
    return Got(False, what)


def perform(attacks: Iterable[Attack[T]], target: T) -> Iterator[tuple[Attack[T], Got]]:
    """Every attack on ``target``, each in a folder of its own that is deleted afterwards."""
    for attack in attacks:
        with tempfile.TemporaryDirectory(prefix="fedsec-attack-") as folder:
            yield attack, attack.run(target, Path(folder))
