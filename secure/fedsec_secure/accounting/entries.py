"""Ledger entries: who was charged what, what was released for it, and what else was pinned beside it.

There is no entry that gives budget back. A reservation that is never spent stays charged for ever: a site that crashed
cannot prove that nothing had left it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NewType

from fedsec_secure.accounting.events import (
    EVENT_VERSION,
    MAX_EVENT_BYTES,
    NEIGHBOURS,
    UNITS,
    Event,
    Neighbours,
    Unit,
    event_from,
    event_json,
)
from fedsec_secure.accounting.fields import LARGEST_INTEGER, Fields, Json, dumps, loads
from fedsec_secure.codec import DIGEST_BYTES
from fedsec_secure.errors import CodecError, LocalMisuseError

PopulationId = NewType("PopulationId", bytes)
"""16 random bytes, drawn when a population is first charged."""
RecordId = NewType("RecordId", bytes)
"""16 random bytes that name a site's write-ahead record."""

ID_BYTES: Final = 16
ENTRY_VERSION: Final = 1
MAX_ENTRY_BYTES: Final = MAX_EVENT_BYTES + 4096
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_RUN = re.compile(r"[!-~]{1,64}")


def _need(holds: bool, expected: str) -> None:
    if not holds:
        raise LocalMisuseError(f"ledger entry: expected {expected}")


def _need_bytes(value: object, size: int, what: str) -> None:
    _need(isinstance(value, bytes) and len(value) == size, f"{what} of {size} bytes")


@dataclass(frozen=True)
class Charge:
    """What a reservation charges: an event to the units of a population, for one purpose in one round of one run."""

    population: PopulationId
    unit: Unit
    run: str
    """1 to 64 printable ASCII characters without blanks."""
    round: int
    purpose: str
    """What leaves the site, such as ``update``; a small-letter name of at most 63 characters."""
    plan: bytes
    """Digest of the plan (32 bytes)."""
    neighbours: Neighbours
    event: Event

    def __post_init__(self) -> None:
        _need_bytes(self.population, ID_BYTES, "a population id")
        _need_bytes(self.plan, DIGEST_BYTES, "a plan digest")
        _need(self.unit in UNITS, f"a unit of {', '.join(UNITS)}")
        _need(self.neighbours in NEIGHBOURS, f"a neighbouring relation of {', '.join(NEIGHBOURS)}")
        _need(bool(_RUN.fullmatch(self.run)), "a run id of 1 to 64 printable ASCII characters without blanks")
        _need(bool(_NAME.fullmatch(self.purpose)), "a purpose of small letters, digits and hyphens, at most 63")
        _need(type(self.round) is int and 0 <= self.round <= LARGEST_INTEGER, "a round from 0")
        _need(isinstance(self.event, Event), "an event")

    @property
    def key(self) -> tuple[bytes, str, str, int, str]:
        """What is charged once only: (population, unit, run, round, purpose)."""
        return self.population, self.unit, self.run, self.round, self.purpose


@dataclass(frozen=True)
class Open:
    """A population gets its id. The name is for people; charges carry the id."""

    population: PopulationId
    name: str

    def __post_init__(self) -> None:
        _need_bytes(self.population, ID_BYTES, "a population id")
        _need(bool(_NAME.fullmatch(self.name)), "a population's name of small letters, digits and hyphens, at most 63")


@dataclass(frozen=True)
class Reserve:
    """The charge is made. From here on it counts in full, whatever happens."""

    charge: Charge


@dataclass(frozen=True)
class Spend:
    """What was reserved in the entry ``reservation`` is about to leave the site: only ``released`` may, ever."""

    reservation: int
    released: bytes
    """SHA-256 of the private output, the same in every attempt that sends it (32 bytes)."""

    def __post_init__(self) -> None:
        _need(type(self.reservation) is int and 1 <= self.reservation <= LARGEST_INTEGER, "a reservation's number")
        _need_bytes(self.released, DIGEST_BYTES, "a digest of what is released")


@dataclass(frozen=True)
class Anchor:
    """Charges nothing: an entry that is there for its witness."""


Body = Open | Reserve | Spend | Anchor


@dataclass(frozen=True)
class Witness:
    """The state of a write-ahead record when an entry was made: the record's id and a digest of all it held."""

    record: RecordId
    digest: bytes

    def __post_init__(self) -> None:
        _need_bytes(self.record, ID_BYTES, "a record id")
        _need_bytes(self.digest, DIGEST_BYTES, "a digest of the record")


@dataclass(frozen=True)
class Entry:
    """One link of the chain."""

    sequence: int
    """1, 2, 3, …"""
    previous: bytes
    """Digest of the entry before; 32 zero bytes in the first."""
    at: int
    """Seconds since 1970 by the site's clock: for people to read, nothing depends on it."""
    witness: Witness | None
    body: Body

    def __post_init__(self) -> None:
        _need(type(self.sequence) is int and 1 <= self.sequence <= LARGEST_INTEGER, "a sequence number from 1")
        _need(type(self.at) is int and 0 <= self.at <= LARGEST_INTEGER, "a moment in whole seconds since 1970")
        _need_bytes(self.previous, DIGEST_BYTES, "the previous entry's digest")
        _need(not isinstance(self.body, Anchor) or self.witness is not None, "a witness in an anchor")

    def encode(self) -> bytes:
        """Canonical JSON: one entry, one text."""
        witness: Json = None
        if self.witness is not None:
            witness = {"record": self.witness.record.hex(), "digest": self.witness.digest.hex()}
        return dumps(
            {
                "version": ENTRY_VERSION,
                "sequence": self.sequence,
                "previous": self.previous.hex(),
                "at": self.at,
                "witness": witness,
                "body": _body_json(self.body),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Strict inverse of :meth:`encode`: the entry, or CodecError."""
        fields = loads(data, most=MAX_ENTRY_BYTES, what="ledger entry")
        fields.integer("version", least=ENTRY_VERSION, most=ENTRY_VERSION)
        try:
            entry = cls(
                fields.integer("sequence", least=1),
                fields.raw("previous", DIGEST_BYTES),
                fields.integer("at"),
                _witness_from(fields.optional("witness")),
                _body_from(fields.fields("body")),
            )
        except LocalMisuseError as e:
            raise CodecError(str(e)) from None
        fields.done()
        if entry.encode() != data:
            raise CodecError("ledger entry: not in its canonical form (RFC 8785)")
        return entry


def _body_json(body: Body) -> dict[str, Json]:
    match body:
        case Open(population, name):
            return {"kind": "open", "population": population.hex(), "name": name}
        case Reserve(charge):
            return {
                "kind": "reserve",
                "population": charge.population.hex(),
                "unit": charge.unit,
                "run": charge.run,
                "round": charge.round,
                "purpose": charge.purpose,
                "plan": charge.plan.hex(),
                "neighbours": charge.neighbours,
                "event": event_json(charge.event),
                "event_version": EVENT_VERSION,
            }
        case Spend(reservation, released):
            return {"kind": "spend", "reservation": reservation, "released": released.hex()}
        case Anchor():
            return {"kind": "anchor"}


def _body_from(fields: Fields) -> Body:
    match fields.text("kind"):
        case "open":
            body: Body = Open(PopulationId(fields.raw("population", ID_BYTES)), fields.text("name"))
        case "reserve":
            body = Reserve(_charge_from(fields))
        case "spend":
            body = Spend(fields.integer("reservation", least=1), fields.raw("released", DIGEST_BYTES))
        case "anchor":
            body = Anchor()
        case _:
            raise CodecError("ledger entry: a kind that this version does not know")
    fields.done()
    return body


def _charge_from(fields: Fields) -> Charge:
    unit, neighbours = fields.text("unit"), fields.text("neighbours")
    fields.integer("event_version", least=EVENT_VERSION, most=EVENT_VERSION)
    return Charge(
        PopulationId(fields.raw("population", ID_BYTES)),
        unit,  # type: ignore[arg-type]  # Charge refuses any other text
        fields.text("run"),
        fields.integer("round"),
        fields.text("purpose"),
        fields.raw("plan", DIGEST_BYTES),
        neighbours,  # type: ignore[arg-type]  # as above
        event_from(fields.fields("event")),
    )


def _witness_from(fields: Fields | None) -> Witness | None:
    if fields is None:
        return None
    witness = Witness(RecordId(fields.raw("record", ID_BYTES)), fields.raw("digest", DIGEST_BYTES))
    fields.done()
    return witness
