"""What a site's record holds of the groups that a run's sites drew: its nonce, what it opened, and what followed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from fedsec.site.record_chain import RecordChain
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.draw import Drawn
from fedsec_secure.masking.site_draw import SiteCommitted, SiteOpened

_SCHEMA = """
CREATE TABLE IF NOT EXISTS draws (
  run TEXT PRIMARY KEY, committed BLOB NOT NULL, opened BLOB, groups TEXT, reply BLOB);
CREATE TABLE IF NOT EXISTS scores (
  run TEXT NOT NULL, round INTEGER NOT NULL, packet BLOB NOT NULL, PRIMARY KEY (run, round));
"""


class DrawRecord:
    """A part of the site's write-ahead record, over its connection. Each step is there before its answer leaves."""

    def __init__(self, db: sqlite3.Connection, chain: RecordChain) -> None:
        self._db = db
        self._chain = chain
        db.executescript(_SCHEMA)

    def committed(self, run: str) -> SiteCommitted | None:
        """The nonce of a run and its commitment: one a run, for ever."""
        row = self._db.execute("SELECT committed FROM draws WHERE run = ?", (run,)).fetchone()
        return None if row is None else SiteCommitted.restore(bytes(row[0]))

    def save_committed(self, run: str, state: SiteCommitted) -> None:
        """Before the commitment leaves."""
        with self._chain.transaction():
            self._db.execute("INSERT INTO draws (run, committed) VALUES (?, ?)", (run, state.record()))
            self._chain.advance(b"commit", state.packet)

    def opened(self, run: str) -> SiteOpened | None:
        """For which set of commitments the nonce is out."""
        row = self._db.execute("SELECT opened FROM draws WHERE run = ?", (run,)).fetchone()
        return None if row is None or row[0] is None else SiteOpened.restore(bytes(row[0]))

    def save_opened(self, run: str, state: SiteOpened) -> None:
        """Before the nonce leaves; never a second time."""
        with self._chain.transaction():
            sql = "UPDATE draws SET opened = ? WHERE run = ? AND opened IS NULL"
            if self._db.execute(sql, (state.record(), run)).rowcount != 1:
                raise PeerViolationError(f"the commitment of run {run} is open already")
            self._chain.advance(b"reveal", state.packet)

    def run_of(self, matches: Callable[[SiteOpened], bool]) -> str:
        """The run whose opened commitments ``matches``."""
        for run, record in self._db.execute("SELECT run, opened FROM draws WHERE opened IS NOT NULL").fetchall():
            if matches(SiteOpened.restore(bytes(record))):
                return str(run)
        raise PeerViolationError(
            "no draw that this site opened its commitment for is meant: it took no part in one, or its record was lost "
            "since"
        )

    def groups(self, run: str) -> Drawn | None:
        """The groups of a run, once they are drawn."""
        row = self._db.execute("SELECT groups FROM draws WHERE run = ?", (run,)).fetchone()
        return None if row is None or row[0] is None else tuple(tuple(map(SiteId, g)) for g in json.loads(row[0]))

    def reply(self, run: str) -> bytes | None:
        """What was answered to `draw`."""
        row = self._db.execute("SELECT reply FROM draws WHERE run = ?", (run,)).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def save_groups(self, run: str, groups: Drawn, reply: bytes) -> None:
        """Before the site answers `draw`."""
        with self._chain.transaction():
            self._db.execute("UPDATE draws SET groups = ?, reply = ? WHERE run = ?", (json.dumps(groups), reply, run))
            self._chain.advance(b"draw", reply)

    def save_scores(self, run: str, round_index: int, packet: bytes) -> None:
        """What the coordinator signed about a round's sums, before the verdict on them leaves."""
        self._db.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (run, round_index, packet))

    def all_scores(self, run: str) -> dict[int, bytes]:
        """The coordinator's signed statement of each round that ended here."""
        sql = "SELECT s.round, s.packet FROM scores AS s JOIN rounds AS r ON s.run = r.run AND s.round = r.round"
        rows = self._db.execute(f"{sql} WHERE s.run = ? AND r.result IS NOT NULL", (run,)).fetchall()
        return {int(number): bytes(packet) for number, packet in rows}
