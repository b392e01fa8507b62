"""The coordinator's journal: every outcome, on disk before the driver sees it. Replaying it rebuilds a killed run.

Small replies stand in the database, uploads in the spool folder beside it by hash; both are deleted when their round is
final, and the round's adapter and verdicts take their place.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsec.coordinator.exchange import Exchange, Outcome, Reply
from fedsec.spool import private_folder, read_chunks
from fedsec.storage import transaction
from fedsec.training.adapter import AdapterState
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.roster import SiteId

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (plan BLOB NOT NULL, run TEXT NOT NULL, roster BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
  sequence INTEGER PRIMARY KEY, round INTEGER NOT NULL, name TEXT NOT NULL, requests BLOB NOT NULL, lost TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
  sequence INTEGER NOT NULL, site TEXT NOT NULL, body BLOB, file TEXT, sha256 BLOB NOT NULL,
  PRIMARY KEY (sequence, site));
CREATE TABLE IF NOT EXISTS finals (
  round INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, adapter BLOB NOT NULL, verdicts BLOB NOT NULL,
  survivors TEXT NOT NULL, attempt INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS draw (only INTEGER PRIMARY KEY CHECK (only = 1), packets BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS losses (adapter BLOB PRIMARY KEY, nats REAL);
"""


@dataclass(frozen=True)
class Final:
    """A round that is over: the new global adapter, the verdicts that attest it, and whose updates are in it."""

    round: int
    sequence: int
    adapter: bytes
    verdicts: bytes
    survivors: str
    """Names, with blanks between."""
    attempt: int = 0
    """From which the next round counts its attempts: above 0 where keys of a broken batch are spent."""


class Journal:
    """One run's journal. ``folder`` is the run folder."""

    def __init__(self, folder: Path) -> None:
        self.spool = private_folder(folder / "spool")
        self._db = sqlite3.connect(folder / "journal.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Fold the write-ahead log in and close."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.close()

    def bind(self, plan: bytes, run: str, roster: bytes) -> None:
        """Bind an empty journal to this run, or check that it is this run's."""
        row = self._db.execute("SELECT plan, run, roster FROM run").fetchone()
        if row is None:
            self._db.execute("INSERT INTO run VALUES (?, ?, ?)", (plan, run, roster))
        elif (row[0], row[1], row[2]) != (plan, run, roster):
            raise ConfigError(f"the journal here belongs to run {row[1]!r} of another plan, run or roster")
        final = self.last_final()
        self._sweep(-1 if final is None else final.round)

    def last_final(self) -> Final | None:
        """The newest finished round."""
        row = self._db.execute("SELECT * FROM finals ORDER BY round DESC LIMIT 1").fetchone()
        return None if row is None else Final(*row)

    def survivors(self) -> list[frozenset[SiteId]]:
        """Whose updates are in each finished round, in order."""
        rows = self._db.execute("SELECT survivors FROM finals ORDER BY round").fetchall()
        return [frozenset(map(SiteId, row[0].split())) for row in rows]

    def look_up(self, sequence: int, exchange: Exchange) -> Outcome | None:
        """The journalled outcome of this exchange, or None. Another exchange at its place is an error, not a guess."""
        row = self._db.execute("SELECT name, requests, lost FROM outcomes WHERE sequence = ?", (sequence,)).fetchone()
        if row is None:
            return None
        if row[0] != exchange.name or row[1] != _requests_digest(exchange):
            raise VerificationError(
                f"the journal has {row[0]!r} at place {sequence}, the run now asks {exchange.name!r} or asks it "
                "differently: another software version, plan or key wrote this journal"
            )
        replies: dict[SiteId, Reply] = {}
        query = "SELECT site, body, file, sha256 FROM replies WHERE sequence = ? ORDER BY site"
        for site, body, file, sha256 in self._db.execute(query, (sequence,)):
            replies[SiteId(site)] = self._checked(site, body, file, sha256)
        return Outcome(replies, {SiteId(s): why for s, why in json.loads(row[2]).items()})

    def _checked(self, site: str, body: bytes | None, file: str | None, sha256: bytes) -> Reply:
        path = self.spool / file if file is not None else None
        if path is not None and not path.is_file():
            raise VerificationError(f"the upload of {site} is gone from {self.spool}")
        if _digest(body if path is None else path) != sha256:
            raise VerificationError(f"the reply of {site} in the journal was altered after it was written")
        return body if path is None else path  # type: ignore[return-value]

    def append(self, sequence: int, exchange: Exchange, outcome: Outcome) -> None:
        """Write an outcome, all or nothing."""
        rows = [_reply_row(sequence, s, r) for s, r in outcome.replies.items()]
        lost = json.dumps(dict(outcome.lost), sort_keys=True)
        row = (sequence, exchange.round, exchange.name, _requests_digest(exchange), lost)
        with transaction(self._db):
            self._db.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", row)
            self._db.executemany("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", rows)

    def finish_rounds(self, finals: Sequence[Final]) -> None:
        """Keep the last round's adapter and verdicts; drop their replies, their uploads and the adapters before it.

        All at once: a run goes on after the last of them, or from before the first.
        """
        last = finals[-1]
        rows = [tuple(vars(final).values()) for final in finals]
        with transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO finals VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("UPDATE finals SET adapter = x'' WHERE round < ?", (last.round,))
            self._db.execute("UPDATE replies SET body = x'', file = NULL WHERE sequence < ?", (last.sequence,))
        self._sweep(last.round)

    def keep_draw(self, packets: bytes) -> None:
        """The commitments and nonces of a run in groups: what they were asked with is dropped after round 0."""
        self._db.execute("INSERT OR IGNORE INTO draw VALUES (1, ?)", (packets,))

    def draw(self) -> bytes | None:
        """What :meth:`keep_draw` kept."""
        row = self._db.execute("SELECT packets FROM draw").fetchone()
        return None if row is None else bytes(row[0])

    def loss(self, adapter: AdapterState, measure: Callable[[AdapterState], float]) -> float:
        """An adapter's loss, measured once: a run that is resumed on another machine has to say the same again."""
        digest = adapter.digest()
        row = self._db.execute("SELECT nats FROM losses WHERE adapter = ?", (digest,)).fetchone()
        if row is not None:
            return math.nan if row[0] is None else float(row[0])  # what is no number is stored as NULL
        nats = measure(adapter)
        self._db.execute("INSERT INTO losses VALUES (?, ?)", (digest, nats))
        return nats

    def _sweep(self, last: int) -> None:
        """Delete spooled uploads of rounds up to ``last`` that no journalled outcome names.

        Those of an exchange in which a process was killed stay: an engine need not have them sent again.
        """
        needed = {row[0] for row in self._db.execute("SELECT file FROM replies WHERE file IS NOT NULL").fetchall()}
        for path in self.spool.iterdir():
            number = path.name.partition("-")[0]
            if path.name not in needed and not (number.isdecimal() and int(number) > last):
                path.unlink()

    def progress(self) -> Mapping[str, int]:
        """Counts for `fedsec status`."""
        rounds = self._db.execute("SELECT COUNT(*) FROM finals").fetchone()[0]
        outcomes = self._db.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0]
        return {"rounds_finished": int(rounds), "exchanges": int(outcomes)}


def _digest(reply: Reply | None) -> bytes:
    digest = hashlib.sha256()
    for chunk in [reply or b""] if not isinstance(reply, Path) else read_chunks(reply):
        digest.update(chunk)
    return digest.digest()


def _reply_row(sequence: int, site: SiteId, reply: Reply) -> tuple[int, str, bytes | None, str | None, bytes]:
    inline = reply if isinstance(reply, bytes) else None
    return sequence, site, inline, reply.name if isinstance(reply, Path) else None, _digest(reply)


def _requests_digest(exchange: Exchange) -> bytes:
    digest = hashlib.sha256(exchange.name.encode())
    for site in sorted(exchange.requests):
        digest.update(site.encode() + b"\0" + hashlib.sha256(exchange.requests[site]).digest())
    return digest.digest()
