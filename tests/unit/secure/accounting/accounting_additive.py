"""A pure-epsilon accountant with numbers that are exact in floating point, and charges to feed it."""

import math
from collections.abc import Sequence

from fedsec_secure.accounting.chain import EMPTY, StoredEntry, next_entry
from fedsec_secure.accounting.entries import Anchor, Charge, Open, PopulationId, RecordId, Reserve, Spend, Witness
from fedsec_secure.accounting.events import (
    Composed,
    Event,
    GaussianEvent,
    Neighbours,
    NonPrivateRelease,
    PoissonSampledEvent,
    SelfComposed,
)
from fedsec_secure.errors import ConfigError

WARD = PopulationId(b"w" * 16)
CLINIC = PopulationId(b"c" * 16)
PLAN = b"p" * 32
RECORD = RecordId(b"r" * 16)


class AdditiveAccountant:
    """Basic composition with a made-up price: a Gaussian event costs 1 / noise multiplier, sampling saves nothing, and
    what exchanges a unit costs twice as much.
    """

    def __init__(self, neighbours: Neighbours = "add-or-remove") -> None:
        self.neighbours: Neighbours = neighbours

    def epsilon(self, events: Sequence[Event], delta: float, exchanged: Sequence[Event] = ()) -> float:
        return sum((self._of(e) for e in events), 0.0) + 2 * sum(map(self._of, exchanged))

    def _of(self, event: Event) -> float:
        match event:
            case NonPrivateRelease():
                return math.inf
            case GaussianEvent(noise):
                return 1 / noise
            case PoissonSampledEvent(_, inner):
                return self._of(inner)
            case SelfComposed(inner, count):
                return count * self._of(inner)
            case Composed(events):
                return sum(map(self._of, events))


class Unable(AdditiveAccountant):
    """Refuses every mechanism, as an accountant does with one that it has no bound for."""

    def epsilon(self, events: Sequence[Event], delta: float, exchanged: Sequence[Event] = ()) -> float:
        if all(isinstance(event, NonPrivateRelease) for event in (*events, *exchanged)):
            return math.inf if events or exchanged else 0.0
        raise ConfigError("this accountant cannot account for a mechanism that it was given")


def costs(epsilon: float) -> Event:
    """An event that the accountant above prices at ``epsilon``, a power of two."""
    return GaussianEvent(1 / epsilon)


def charge(round_index: int = 0, event: Event | None = None, **changes) -> Charge:
    fields = {
        "population": WARD,
        "unit": "patient",
        "run": "run-1",
        "round": round_index,
        "purpose": "update",
        "plan": PLAN,
        "neighbours": "add-or-remove",
        "event": costs(1.0) if event is None else event,
    }
    return Charge(**(fields | changes))


def chain_of(*bodies, witness: Witness | None = None) -> list[StoredEntry]:
    entries, head = [], EMPTY
    for body in bodies:
        entries.append(next_entry(head, 1_800_000_000, witness, body))
        head = entries[-1].head
    return entries


def small_chain() -> list[StoredEntry]:
    """One entry of each kind and more, with nested events."""
    nested = Composed((SelfComposed(PoissonSampledEvent(0.01, GaussianEvent(1.1)), 200), NonPrivateRelease()))
    return chain_of(
        Open(WARD, "ward"),
        Reserve(charge(0)),
        Spend(2, b"o" * 32),
        Reserve(charge(1, nested)),
        Anchor(),
        Reserve(charge(2)),
        witness=Witness(RECORD, b"d" * 32),
    )
