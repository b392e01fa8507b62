"""What a site answered: one answer to an exchange, for ever, and the record that the next exchange continues from.

The same request gets the stored bytes again; another request for the same exchange is refused.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fedsec.site.record_chain import RecordChain
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.masking.transitions import Stage, Table

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stages (
  run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, stage TEXT NOT NULL, context BLOB NOT NULL,
  request BLOB NOT NULL, record BLOB, reply BLOB, file TEXT, PRIMARY KEY (run, round, attempt, stage));
CREATE INDEX IF NOT EXISTS by_context ON stages (context);
CREATE UNIQUE INDEX IF NOT EXISTS one_survivor_set ON stages (run, round) WHERE stage = 'confirm';
"""


@dataclass(frozen=True)
class Place:
    """Which attempt of which round of which run."""

    run: str
    round: int
    attempt: int


class AnswerRecord:
    """The answers of one site, in its record."""

    def __init__(self, db: sqlite3.Connection, chain: RecordChain, folder: Path) -> None:
        self._db, self._chain, self._folder = db, chain, folder
        db.executescript(_SCHEMA)

    def find(self, context: bytes, stage: str) -> tuple[Place, bytes] | None:
        """Place and record of the stage that a later message of this context continues from."""
        query = "SELECT run, round, attempt, record FROM stages WHERE context = ? AND stage = ?"
        row = self._db.execute(query, (context, stage)).fetchone()
        return None if row is None or row[3] is None else (Place(row[0], row[1], row[2]), row[3])

    def answered(self, stage: str, request: bytes) -> bytes | Path | None:
        """The stored reply where this very request was answered before."""
        query = "SELECT request, reply, file FROM stages WHERE request = ? AND stage = ?"
        row = self._db.execute(query, (hashlib.sha256(request).digest(), stage)).fetchone()
        if row is None:
            return None
        if row[2] is None:
            return bytes(row[1])
        path = self._folder / str(row[2])
        if not path.is_file():
            raise PeerViolationError(f"the upload was deleted here when its round ended: {stage} is not answered again")
        return path

    def place_of(self, stage: str, request: bytes) -> Place | None:
        """Where this request was answered."""
        query = "SELECT run, round, attempt FROM stages WHERE request = ? AND stage = ?"
        row = self._db.execute(query, (hashlib.sha256(request).digest(), stage)).fetchone()
        return None if row is None else Place(str(row[0]), int(row[1]), int(row[2]))

    def stage(self, place: Place, table: Table) -> tuple[int, Stage]:
        """The newest attempt of a round, and where this site stands in it."""
        rows = self._db.execute(
            "SELECT attempt, stage FROM stages WHERE run = ? AND round = ?", (place.run, place.round)
        ).fetchall()
        if not rows:
            return place.attempt, Stage.NEW
        newest = max(attempt for attempt, _ in rows)
        reached = {table.after(exchange) for attempt, exchange in rows if attempt == newest}
        return newest, max(reached, key=table.stages.index)

    def claim(self, place: Place, exchange: str, table: Table) -> None:
        """May this be answered now? Never twice, never for an older attempt, and only as the table says."""
        newest, stage = self.stage(place, table)
        # Check 68 (replayed attempt): an attempt that was given up stays so.
        if place.attempt < newest:
            raise PeerViolationError(f"round {place.round} has moved on from attempt {place.attempt}")
        # Check 69 (second survivor set): one answer an exchange, in order, and no attempt after `confirm`.
        if not table.is_legal(stage, exchange, attempt=place.attempt > newest):
            raise PeerViolationError(_why_not(place, exchange, newest, stage))

    def save(  # one row, many columns
        self,
        place: Place,
        stage: str,
        context: bytes,
        request: bytes,
        record: bytes | None,
        reply: bytes | Path,
    ) -> None:
        """Record an answer, durably, before it is sent. ``context``: what later messages name."""
        file = reply.relative_to(self._folder).as_posix() if isinstance(reply, Path) else None
        inline = reply if isinstance(reply, bytes) else None
        digest = hashlib.sha256(request).digest()
        row = (place.run, place.round, place.attempt, stage, context, digest, record, inline, file)
        try:
            with self._chain.transaction():
                self._db.execute("INSERT INTO stages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
                self._chain.advance(stage.encode(), context, digest, inline or str(file).encode())
        except sqlite3.IntegrityError:
            raise PeerViolationError(f"{stage} of round {place.round} was answered before") from None

    def ended(self, run: str, round_index: int) -> Place | None:
        """The attempt in which a round ended with a verdict here."""
        query = "SELECT attempt FROM stages WHERE run = ? AND round = ? AND stage = 'verdict'"
        row = self._db.execute(query, (run, round_index)).fetchone()
        return None if row is None else Place(run, round_index, int(row[0]))


def _why_not(place: Place, exchange: str, newest: int, stage: Stage) -> str:
    if stage is Stage.OVER:
        return f"round {place.round} is over here"
    if place.attempt > newest:
        return (
            f"{exchange} of attempt {place.attempt}: this site is {stage} in attempt {newest} of round "
            f"{place.round}, and joins no other attempt from there"
        )
    return (
        f"{exchange} of round {place.round}, attempt {place.attempt}: this site is {stage}; it was answered before or "
        "is not due"
    )
