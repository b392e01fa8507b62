"""Which exchange a site answers in which stage of a round: the transition table, as data.

The site's record asks this table before every answer, the diagram in docs/protocol.md is drawn from it, and the tests
try every pair of stage and exchange that is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedsec_secure.errors import LocalMisuseError


class Stage(StrEnum):
    """Where a site stands in a round. Each but the first and the last has a type of its own, in site_*.py."""

    NEW = "new"
    STATED = "stated"
    SHARED = "shared"
    MASKED = "masked"
    CONFIRMED = "confirmed"
    REVEALED = "revealed"
    SUMMED = "summed"
    SENT = "sent"
    OVER = "over"


@dataclass(frozen=True)
class Transition:
    """``exchange`` is answered in ``before`` and leads to ``after``; with ``attempt`` it begins the next attempt."""

    exchange: str
    before: Stage
    after: Stage
    attempt: bool = False


@dataclass(frozen=True)
class Table:
    """All legal transitions of one mode."""

    transitions: tuple[Transition, ...]

    def __post_init__(self) -> None:
        keys = [(t.exchange, t.before) for t in self.transitions]
        ends = {t.exchange: t.after for t in self.transitions}
        if len(set(keys)) != len(keys) or any(ends[t.exchange] != t.after for t in self.transitions):
            raise LocalMisuseError("a transition table has one end for each exchange, and no pair twice")

    @property
    def exchanges(self) -> tuple[str, ...]:
        """In the order of a round."""
        return tuple(dict.fromkeys(t.exchange for t in self.transitions))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In the order of a round."""
        return tuple(dict.fromkeys([*(t.before for t in self.transitions), *(t.after for t in self.transitions)]))

    def after(self, exchange: str) -> Stage:
        """Where an exchange leads."""
        return next(t.after for t in self.transitions if t.exchange == exchange)

    def continued_by(self, exchange: str) -> str:
        """The exchange whose record ``exchange`` continues from: the one that leads to the stage it is answered in."""
        before = next(t.before for t in self.transitions if t.exchange == exchange)
        return next(t.exchange for t in self.transitions if t.after == before)

    def is_legal(self, stage: Stage, exchange: str, *, attempt: bool = False) -> bool:
        """Whether a site in ``stage`` answers; ``attempt``: the message is of a later attempt than the stage."""
        return any((t.exchange, t.before, t.attempt) == (exchange, stage, attempt) for t in self.transitions)


MASKED = Table(
    (
        Transition("train", Stage.NEW, Stage.STATED),
        Transition("share", Stage.STATED, Stage.SHARED),
        Transition("mask", Stage.SHARED, Stage.MASKED),
        Transition("confirm", Stage.MASKED, Stage.CONFIRMED),
        Transition("unmask", Stage.CONFIRMED, Stage.REVEALED),
        Transition("verdict", Stage.REVEALED, Stage.OVER),
        # Fresh keys, same update. Not after `confirm`: a site signs one survivor set a round, ever.
        Transition("train", Stage.STATED, Stage.STATED, attempt=True),
        Transition("train", Stage.SHARED, Stage.STATED, attempt=True),
        Transition("train", Stage.MASKED, Stage.STATED, attempt=True),
    )
)
GROUPED = Table(
    (
        *(t for t in MASKED.transitions if t.exchange != "verdict"),
        Transition("sum", Stage.REVEALED, Stage.SUMMED),
        Transition("verdict", Stage.SUMMED, Stage.OVER),
    )
)
"""``weighting.rule = "group-influence"``: members verify their group's sum, then everybody takes all of them."""


def _sent_at_once(exchange: str) -> Table:
    """One upload between `train` and `verdict`."""
    return Table(
        (
            Transition("train", Stage.NEW, Stage.STATED),
            Transition(exchange, Stage.STATED, Stage.SENT),
            Transition("verdict", Stage.SENT, Stage.OVER),
            Transition("train", Stage.STATED, Stage.STATED, attempt=True),
            Transition("train", Stage.SENT, Stage.STATED, attempt=True),
        )
    )


PLAIN = _sent_at_once("plain")
"""``secure.mode = "none"``: the integers travel in the open."""
SEALED = _sent_at_once("encrypt")
"""``secure.mode = "he"``: encrypted under a key of all sites, and no masks."""
