"""What a site's record holds of a run's encryption key: its offer, what it dealt, the key, and that it is gone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedsec.site.record_chain import RecordChain
from fedsec_secure.codec import head_length
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.masking.ceremony import SiteOffered
from fedsec_secure.secrets import SecretBytes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS encryption (
  run TEXT PRIMARY KEY, dealer TEXT NOT NULL, offered BLOB, packet BLOB NOT NULL, offers BLOB, dealt BLOB, key BLOB,
  reply BLOB, destroyed INTEGER NOT NULL DEFAULT 0, since INTEGER NOT NULL);
"""
_DESTROYED, _GIVEN_UP = 1, 2
"""In the column ``destroyed``, beside 0 for a key that is used."""


@dataclass(frozen=True)
class KeyState:
    """What a site may say of a run's encryption key: all but the key.

    ``plan``: the plan's digest. ``dealer``: the site that makes the key. ``fingerprint``: 32 bytes, equal at all sites
    of the run; None before there was a key. ``since``: seconds since 1970, by this machine's clock.
    """

    run: str
    plan: bytes
    dealer: str
    fingerprint: bytes | None
    state: Literal["offered", "held", "destroyed"]
    since: int


def read_key_states(db: sqlite3.Connection) -> list[KeyState]:
    """Of every ceremony in a record that may be open for reading alone, by run."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'encryption'").fetchone() is None:
        return []  # a record from before there were such keys
    sql = "SELECT run, plan, dealer, reply, key IS NOT NULL, destroyed, since FROM encryption JOIN runs USING (run)"
    found = []
    for run, plan, dealer, reply, held, destroyed, since in db.execute(f"{sql} ORDER BY run").fetchall():
        fingerprint = None if reply is None else bytes(reply[head_length(reply) :])
        gone = destroyed == _DESTROYED  # a key that is given up is still there
        state: Literal["offered", "held", "destroyed"] = "destroyed" if gone else "held" if held else "offered"
        found.append(KeyState(str(run), bytes(plan), str(dealer), fingerprint, state, int(since)))
    return found


class KeyRecord:
    """A part of the site's write-ahead record, over its connection. Each step is there before its answer leaves."""

    def __init__(self, db: sqlite3.Connection, chain: RecordChain) -> None:
        self._db = db
        self._chain = chain
        self._given_up: set[str] = set()
        db.executescript(_SCHEMA)

    def offer(self, run: str) -> bytes | None:
        """The signed offer of a run: one a run, for ever."""
        return self._value(run, "packet")

    def offered(self, run: str) -> SiteOffered:
        """Where the secret half of the offer still is. PeerViolationError where the key was taken, or destroyed."""
        record = None if self.is_destroyed(run) else self._value(run, "offered")
        if record is None:
            raise PeerViolationError(f"this site waits for no encryption key of run {run}")
        return SiteOffered.restore(record)

    def save_offered(self, run: str, state: SiteOffered, dealer: str) -> None:
        """Before the offer leaves. ``dealer``: who is to make the key."""
        with self._chain.transaction():
            row = (run, dealer, state.record(), state.packet, _now())
            sql = "INSERT INTO encryption (run, dealer, offered, packet, since) VALUES (?, ?, ?, ?, ?)"
            self._db.execute(sql, row)
            self._chain.advance(b"key-offer", state.packet)

    def dealt(self, run: str) -> tuple[bytes, bytes] | None:
        """At the dealer: the digest of the offers that it dealt to, and its packet."""
        offers, packet = self._value(run, "offers"), self._value(run, "dealt")
        return None if offers is None or packet is None else (offers, packet)

    def save_dealt(self, run: str, offers: bytes, packet: bytes) -> None:
        """Before it leaves; never for a second set of offers."""
        with self._chain.transaction():
            sql = "UPDATE encryption SET offers = ?, dealt = ? WHERE run = ? AND dealt IS NULL"
            if self._db.execute(sql, (offers, packet, run)).rowcount != 1:
                raise PeerViolationError(f"an encryption key of run {run} was dealt already")
            self._chain.advance(b"key-deal", packet)

    def reply(self, run: str) -> bytes | None:
        """What was answered to `key-take`."""
        return self._value(run, "reply")

    def save_key(self, run: str, key: SecretBytes, reply: bytes) -> None:
        """Before the site answers `key-take`; the secret half of the offer goes."""
        with self._chain.transaction():
            sql = "UPDATE encryption SET key = ?, reply = ?, offered = NULL, since = ?"
            sql += " WHERE run = ? AND key IS NULL AND destroyed = 0"
            if self._db.execute(sql, (key.reveal(), reply, _now(), run)).rowcount != 1:
                raise PeerViolationError(f"this site has, or had, an encryption key of run {run}")
            self._chain.advance(b"key-take", reply)
        self._forget()

    def key(self, run: str) -> SecretBytes:
        """PeerViolationError where there is none: not taken yet, or destroyed."""
        key, destroyed = self._value(run, "key"), self.is_destroyed(run)
        if key is None or destroyed:
            if destroyed:
                what = f"this site destroyed its encryption key of run {run}"
            else:
                what = f"this site has no encryption key of run {run} (never had it, or its record was lost since)"
            raise PeerViolationError(f"{what}: nothing of it is encrypted or opened here")
        return SecretBytes(key)

    def is_destroyed(self, run: str) -> bool:
        """Whether a key of this run was here and is no more, or is given up and about to go."""
        if run in self._given_up:
            return True
        row = self._db.execute("SELECT destroyed FROM encryption WHERE run = ?", (run,)).fetchone()
        return row is not None and bool(row[0])

    def destroy(self, run: str, pin: Callable[[], None]) -> None:
        """Delete the key and what it could be had from, for ever.

        ``pin`` ties this record's state to another file. It comes once the record says that the key is given up and
        before the key goes: where the key is gone, no copy of the record from before that is taken for the newest.
        Where ``pin`` raises, the key is given up all the same, and `sweep` ends it.
        """
        self._given_up.add(run)  # in this process whatever the disk does
        with self._chain.transaction():
            sql = f"UPDATE encryption SET destroyed = {_GIVEN_UP}, since = ? WHERE run = ? AND destroyed = 0"  # noqa: S608
            if self._db.execute(sql, (_now(), run)).rowcount:
                self._chain.advance(b"key-given-up", run.encode())
        pin()
        with self._chain.transaction():
            sql = f"UPDATE encryption SET key = NULL, offered = NULL, destroyed = {_DESTROYED}, since = ?"  # noqa: S608
            if self._db.execute(f"{sql} WHERE run = ? AND destroyed = {_GIVEN_UP}", (_now(), run)).rowcount:
                self._chain.advance(b"key-destroyed", run.encode())
        self._forget()

    def sweep(self, pin: Callable[[], None]) -> None:
        """Destroy keys that nothing is opened with any more: a process was killed after it attested the run, or after
        it gave up the key.
        """
        sql = f"SELECT run FROM encryption WHERE destroyed = {_GIVEN_UP}"  # noqa: S608
        sql += " UNION SELECT run FROM encryption JOIN attested USING (run) WHERE destroyed = 0"
        for (run,) in self._db.execute(sql).fetchall():
            self.destroy(str(run), pin)

    def _value(self, run: str, column: str) -> bytes | None:
        row = self._db.execute(f"SELECT {column} FROM encryption WHERE run = ?", (run,)).fetchone()  # noqa: S608
        return None if row is None or row[0] is None else bytes(row[0])

    def _forget(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a deleted secret would stay readable in the log


def _now() -> int:
    return int(time.time())
