"""The hash chain: each entry holds the digest of the one before, so its head vouches for everything below.

Whoever can write the file can also compute digests. A chain that is whole shows that nobody damaged it by accident or
by hand; only a head that was recorded elsewhere shows that it is not a shorter, older or other one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedsec_secure.accounting.entries import (
    Anchor,
    Body,
    Charge,
    Entry,
    Open,
    PopulationId,
    RecordId,
    Reserve,
    Spend,
    Witness,
)
from fedsec_secure.codec import DIGEST_BYTES, Reader, Writer, sha256
from fedsec_secure.errors import CodecError, VerificationError

_DOMAIN = b"fedsec privacy ledger entry v1\x00"


@dataclass(frozen=True)
class Head:
    """The newest entry's number and digest. It stands for the whole ledger up to there."""

    sequence: int
    digest: bytes

    def encode(self) -> bytes:
        """40 bytes."""
        return Writer().uint(self.sequence, 8).fixed(self.digest, DIGEST_BYTES).done()

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Strict inverse of :meth:`encode`; CodecError."""
        reader = Reader(data, "ledger head")
        head = cls(reader.uint(8), reader.fixed(DIGEST_BYTES))
        reader.done()
        return head


EMPTY = Head(0, bytes(DIGEST_BYTES))
"""The head of a ledger without entries."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry as it is kept: its number, its canonical bytes, and their digest."""

    sequence: int
    body: bytes
    digest: bytes

    @property
    def head(self) -> Head:
        """The head once this is the newest entry."""
        return Head(self.sequence, self.digest)


def entry_digest(body: bytes) -> bytes:
    """SHA-256 over a domain string and the canonical bytes, 32 bytes."""
    return sha256(_DOMAIN, body)


def next_entry(head: Head, at: int, witness: Witness | None, body: Body) -> StoredEntry:
    """The entry that follows ``head``."""
    data = Entry(head.sequence + 1, head.digest, at, witness, body).encode()
    return StoredEntry(head.sequence + 1, data, entry_digest(data))


@dataclass(frozen=True)
class Reservation:
    """A charge that was made, and what has left the site for it."""

    sequence: int
    at: int
    charge: Charge
    released: bytes | None = None
    """Digest of what left the site; None while nothing is known to have. It is charged either way."""
    record: RecordId | None = None
    """The write-ahead record that asked for it; None where the entry pins none."""


class History:
    """What a verified chain says. It only grows: no method takes anything back."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._reservations: dict[int, Reservation] = {}
        self._keys: dict[tuple[bytes, str, str, int, str], int] = {}
        self._populations: dict[str, PopulationId] = {}
        self._witnesses: dict[RecordId, tuple[int, bytes]] = {}

    @property
    def head(self) -> Head:
        """The newest entry's number and digest; :data:`EMPTY` before the first."""
        return Head(len(self._digests), self._digests[-1]) if self._digests else EMPTY

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """All of them, in order."""
        return tuple(self._reservations.values())

    def reservation(self, sequence: int) -> Reservation | None:
        """The one made in entry ``sequence``."""
        return self._reservations.get(sequence)

    def reserved(self, charge: Charge) -> Reservation | None:
        """The one made for the same population, unit, run, round and purpose."""
        sequence = self._keys.get(charge.key)
        return None if sequence is None else self._reservations[sequence]

    @property
    def populations(self) -> tuple[str, ...]:
        """The names of all that were ever charged, in order."""
        return tuple(self._populations)

    def population(self, name: str) -> PopulationId | None:
        """The id of the population of this name."""
        return self._populations.get(name)

    def witness(self, record: RecordId) -> tuple[int, bytes] | None:
        """(Entry, digest) of the newest state of that write-ahead record that an entry pinned."""
        return self._witnesses.get(record)

    def passed(self, digest: bytes) -> bool:
        """Whether ``digest`` is the head, was one, or is that of a ledger without entries."""
        return digest == EMPTY.digest or digest in self._digests

    def verify_anchor(self, anchor: Head) -> None:
        """VerificationError unless this chain goes through ``anchor``, a head that was recorded elsewhere."""
        found = self.head.sequence
        if anchor.sequence > found:
            raise VerificationError(
                f"privacy ledger: expected entry {anchor.sequence}, which is on record elsewhere; the newest found is "
                f"{found}: the file was truncated, rolled back or replaced. Do not use it; restore the newest copy"
            )
        digest = self._digests[anchor.sequence - 1] if anchor.sequence > 0 else EMPTY.digest
        if digest != anchor.digest:
            raise VerificationError(
                f"privacy ledger: entry {anchor.sequence} is not the one that is on record elsewhere: the file was "
                "edited or replaced. Do not use it; restore the newest copy"
            )

    def add(self, stored: StoredEntry) -> None:
        """Verify the next entry and take it in; VerificationError names the first that is wrong and changes nothing."""
        head = self.head
        wrong = f"privacy ledger: entry {head.sequence + 1} is wrong:"
        if stored.sequence != head.sequence + 1:
            raise VerificationError(f"{wrong} expected this number next, found {stored.sequence}: entries are missing")
        if entry_digest(stored.body) != stored.digest:
            raise VerificationError(f"{wrong} its bytes do not have the digest beside them: it was edited")
        try:
            entry = Entry.decode(stored.body)
        except CodecError as e:
            raise VerificationError(f"{wrong} {e}") from None
        if entry.sequence != stored.sequence or entry.previous != head.digest:
            raise VerificationError(f"{wrong} it does not follow the entry before it: one of them was replaced")
        impossible = self._impossible(entry.body)
        if impossible:
            raise VerificationError(f"{wrong} {impossible}")
        self._take_in(entry, stored.digest)

    def _impossible(self, body: Body) -> str:
        """Why no honest writer could have made this entry here, or nothing."""
        match body:
            case Open(population, name) if name in self._populations or population in self._populations.values():
                return "it opens a population that is open"
            case Reserve(charge) if charge.population not in self._populations.values():
                return "it charges a population that was never opened"
            case Reserve(charge) if charge.key in self._keys:
                return "it charges a second time what was charged before"
            case Spend(reservation, _) if reservation not in self._reservations:
                return "it spends what was never reserved"
            case Spend(reservation, _) if self._reservations[reservation].released is not None:
                return "it spends a reservation for a second time"
        return ""

    def _take_in(self, entry: Entry, digest: bytes) -> None:
        match entry.body:
            case Open(population, name):
                self._populations[name] = population
            case Reserve(charge):
                asked = None if entry.witness is None else entry.witness.record
                self._reservations[entry.sequence] = Reservation(entry.sequence, entry.at, charge, record=asked)
                self._keys[charge.key] = entry.sequence
            case Spend(reservation, released):
                self._reservations[reservation] = replace(self._reservations[reservation], released=released)
            case Anchor():
                pass
        if entry.witness is not None:
            self._witnesses[entry.witness.record] = (entry.sequence, entry.witness.digest)
        self._digests.append(digest)


def verify_chain(entries: Iterable[StoredEntry], anchor: Head | None) -> History:
    """Check every entry in order, and that the chain goes through ``anchor`` where one is known.

    Raises VerificationError with the number of the first entry that is wrong.
    """
    history = History()
    for entry in entries:
        history.add(entry)
    if anchor is not None:
        history.verify_anchor(anchor)
    return history
