"""The site's write-ahead record: every answer and the secrets that the next one needs, durable before it is sent.

One answer per exchange, for ever: the same request gets the stored bytes again, another request for it is refused. A
new attempt needs fresh keys and comes only while no survivor set of the round was confirmed. One process at a time
holds the folder (mode 0700). It has the secrets of the round in progress in it; the verdict deletes them.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from fedsec.site.record_chain import RecordChain
from fedsec.site.store_answers import AnswerRecord, Place
from fedsec.site.store_draw import DrawRecord
from fedsec.site.store_key import KeyRecord
from fedsec.site.store_log import LogRecord
from fedsec.site.store_personal import PersonalRecord
from fedsec.site.store_runs import RunRecord
from fedsec.spool import lock, private_folder, write_durably
from fedsec_secure.accounting.chain import Head
from fedsec_secure.errors import ConfigError, LocalMisuseError, PeerViolationError, VerificationError
from fedsec_secure.numeric.lanes import Floats

RECORD: Final = "record.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
  run TEXT NOT NULL, round INTEGER NOT NULL, adapter BLOB NOT NULL, update_sha256 BLOB, weight INTEGER, score INTEGER,
  result BLOB, PRIMARY KEY (run, round));
CREATE TABLE IF NOT EXISTS baselines (run TEXT PRIMARY KEY, reply BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (only INTEGER PRIMARY KEY CHECK (only = 1), head BLOB NOT NULL);
"""


@dataclass(frozen=True)
class StoredUpdate:
    """What a round's training came to: every attempt of the round sends this.

    ``values``: float32[d], unweighted. ``weight``: its hidden count, or 1. ``score``: its published level, where the
    plan weighs by scores.
    """

    values: Floats = field(repr=False)
    sha256: bytes
    weight: int = field(repr=False)
    score: int | None


class SiteStore:
    """The record of one site, in its state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = private_folder(folder)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        path = folder / RECORD
        with ExitStack() as opened:  # where it cannot be opened, whoever tries again later finds the folder free
            opened.callback(os.close, self._lock)
            if not lock(self._lock, folder, wait=False):
                raise ConfigError(f"another process holds {folder}: one site runs once; wait for it, or end it")
            path.touch(mode=0o600)
            # Whoever calls the site may do so from another thread each time, though never from two at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            opened.callback(self._db.close)
            self._prepare()
            opened.pop_all()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(_SCHEMA)
        self.chain = RecordChain(self._db)
        self.answers = AnswerRecord(self._db, self.chain, self.folder)
        self.log = LogRecord(self._db, self.chain)
        self.personal = PersonalRecord(self._db, self.folder)
        self.draws = DrawRecord(self._db, self.chain)
        self.runs = RunRecord(self._db)
        self.keys = KeyRecord(self._db, self.chain)
        self._sweep()

    def close(self) -> None:
        """Close the record and let go of the folder."""
        self._db.close()
        os.close(self._lock)

    # ---- rounds

    def save_confirmed(
        self, place: Place, context: bytes, request: bytes, record: bytes, reply: bytes, sites: frozenset[str]
    ) -> None:
        """Record the signature on a survivor set, and who is in it, in one transaction."""
        with self.chain.transaction():
            self.answers.save(place, "confirm", context, request, record, reply)
            self.runs.keep_survivors(place.run, place.round, sites)

    def result(self, run: str, round_index: int) -> bytes | None:
        """Digest of the adapter that this site verified at the end of a round, if it was there."""
        row = self._db.execute("SELECT result FROM rounds WHERE run = ? AND round = ?", (run, round_index)).fetchone()
        return None if row is None else row[0]

    def newest_round(self, run: str) -> int:
        """The newest round that was started here; -1 before the first."""
        row = self._db.execute("SELECT MAX(round) FROM rounds WHERE run = ?", (run,)).fetchone()
        return -1 if row[0] is None else int(row[0])

    def start_round(self, run: str, round_index: int, digest: bytes, adapter: bytes) -> None:
        """Bind a round to the one adapter that it is trained from, and keep that adapter for the verdict."""
        query = "SELECT adapter FROM rounds WHERE run = ? AND round = ?"
        row = self._db.execute(query, (run, round_index)).fetchone()
        # Check 66 (model inconsistency): a round is trained from one adapter.
        if row is not None and row[0] != digest:
            raise PeerViolationError(f"round {round_index} was started here from another adapter")
        if row is None:
            write_durably(global_path(self.folder, run, round_index), [adapter])
            with self.chain.transaction():
                sql = "INSERT INTO rounds (run, round, adapter) VALUES (?, ?, ?)"
                self._db.execute(sql, (run, round_index, digest))
                sql = "UPDATE stages SET record = NULL WHERE run = ? AND round < ?"
                self._db.execute(sql, (run, round_index))  # of a round whose verdict never came
            self._sweep()

    def adapter(self, run: str, round_index: int) -> bytes:
        """The adapter that the round started from."""
        return global_path(self.folder, run, round_index).read_bytes()

    def save_update(
        self,
        run: str,
        round_index: int,
        update: Floats,
        weight: int,
        score: int | None = None,
        personal: Floats | None = None,
    ) -> None:
        """Keep the unweighted update (float32[d]), its weight and its score: every attempt of the round sends this one.

        ``personal``: what the same training left that is not shared (float32), kept with it or not at all.
        """
        own = None if personal is None else self.personal.write(run, round_index, personal)
        write_durably(self._path(run, round_index, "update"), [update.astype("<f4").data.cast("B")])
        digest = hashlib.sha256(update.astype("<f4").data.cast("B")).digest()
        sql = "UPDATE rounds SET update_sha256 = ?, weight = ?, score = ?"
        sql += " WHERE run = ? AND round = ? AND update_sha256 IS NULL"
        with self.chain.transaction():
            if self._db.execute(sql, (digest, weight, score, run, round_index)).rowcount != 1:
                raise LocalMisuseError(f"round {round_index} already has an update")
            if own is not None:
                self.personal.record(run, round_index, own)

    def update(self, run: str, round_index: int) -> StoredUpdate | None:
        """None before training is done. The file is checked against the record."""
        query = "SELECT update_sha256, weight, score FROM rounds WHERE run = ? AND round = ?"
        row = self._db.execute(query, (run, round_index)).fetchone()
        if row is None or row[0] is None:
            return None
        path = self._path(run, round_index, "update")
        update = np.fromfile(path, dtype="<f4") if path.is_file() else np.empty(0, "<f4")
        # Check 67 (two-time pad): every attempt masks the update that was recorded.
        if hashlib.sha256(update.data.cast("B")).digest() != row[0]:
            raise VerificationError(f"{path.name} is not the update that was recorded: this site sits the run out")
        return StoredUpdate(update, row[0], int(row[1]), row[2])

    def finish_round(self, place: Place, result: bytes, context: bytes, request: bytes, reply: bytes) -> None:
        """Record the verdict and the result's digest, and delete the round's secrets, uploads and global adapter.

        One transaction: a site that is killed here has either not answered, or has nothing left to hide.
        """
        with self.chain.transaction():
            self.answers.save(place, "verdict", context, request, None, reply)
            where = "WHERE run = ? AND round = ?"
            self._db.execute(f"UPDATE rounds SET result = ? {where}", (result, place.run, place.round))  # noqa: S608
            self._db.execute(f"UPDATE stages SET record = NULL {where}", (place.run, place.round))  # noqa: S608
        self._sweep()

    def pass_on(
        self,
        place: Place,
        verdict: tuple[bytes, bytes, bytes],
        digest: bytes,
        adapter: bytes,
        sites: frozenset[str] | None = None,
    ) -> None:
        """`finish_round` and `start_round` of the next one in one transaction. ``verdict``: context, request, reply.

        ``sites``: who is in the sum that was opened, where no survivor set was signed before.
        """
        context, request, reply = verdict
        write_durably(global_path(self.folder, place.run, place.round + 1), [adapter])
        with self.chain.transaction():
            self.answers.save(place, "verdict", context, request, None, reply)
            if sites is not None:
                self.runs.keep_survivors(place.run, place.round, sites)
            row = (place.run, place.round)
            self._db.execute("UPDATE rounds SET result = ? WHERE run = ? AND round = ?", (digest, *row))
            self._db.execute("UPDATE stages SET record = NULL WHERE run = ? AND round <= ?", row)
            sql = "INSERT INTO rounds (run, round, adapter) VALUES (?, ?, ?)"
            self._db.execute(sql, (place.run, place.round + 1, digest))
        self._sweep()

    def _sweep(self) -> None:
        """Delete what no later answer needs: files of rounds that are over, and what a killed process left half-made.

        Runs when the folder is opened as well, for a process that was killed before it got here.
        """
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # deleted secrets would stay readable in the log
        rows = self._db.execute(
            "SELECT run, round FROM rounds AS r WHERE result IS NOT NULL"
            " OR round < (SELECT MAX(round) FROM rounds WHERE run = r.run)"
        ).fetchall()
        over = {(str(run), int(round_index)) for run, round_index in rows}
        for run, round_index in over:
            global_path(self.folder, run, round_index).unlink(missing_ok=True)
            self.checkpoint_path(run, f"round-{round_index}").unlink(missing_ok=True)
            if round_index > 0:  # the first update is where a single-site baseline goes on from
                self._path(run, round_index, "update").unlink(missing_ok=True)
        self.personal.sweep()
        rows = self._db.execute("SELECT run, round, file FROM stages WHERE file IS NOT NULL").fetchall()
        needed = {file for run, round_index, file in rows if (run, round_index) not in over}
        for path in self.folder.glob("*.upload"):
            if path.name not in needed:
                path.unlink()
        for path in (*self.folder.glob("*.part"), *self.folder.glob(".*.tmp")):
            path.unlink()

    def upload_path(self, context: bytes) -> Path:
        """Where the masked upload of an attempt goes."""
        return self.folder / f"{context.hex()[:32]}.upload"

    def checkpoint_path(self, run: str, name: str) -> Path:
        """Where local training keeps its checkpoint."""
        return self.folder / f"{run}-{name}.checkpoint"

    # ---- the single-site baseline

    def baseline(self, run: str) -> bytes | None:
        """The signed scores, once they were computed."""
        row = self._db.execute("SELECT reply FROM baselines WHERE run = ?", (run,)).fetchone()
        return None if row is None else bytes(row[0])

    def save_baseline(self, run: str, reply: bytes) -> None:
        """Keep them: asked again, the site sends the same."""
        with self.chain.transaction():
            self._db.execute("INSERT INTO baselines VALUES (?, ?)", (run, reply))
            self.chain.advance(b"baseline", reply)

    # ---- the privacy ledger

    def ledger_head(self) -> Head | None:
        """The newest head of the ledger that was put on record here: a ledger without it was rolled back."""
        return recorded_ledger_head(self._db)

    def save_ledger_head(self, head: Head) -> None:
        """Put it on record."""
        self._db.execute("INSERT OR REPLACE INTO ledger VALUES (1, ?)", (head.encode(),))

    def _path(self, run: str, round_index: int, what: str) -> Path:
        return self.folder / f"{run}-{round_index:04d}.{what}"


def recorded_ledger_head(db: sqlite3.Connection) -> Head | None:
    """`SiteStore.ledger_head` of a record that may be open for reading alone."""
    row = db.execute("SELECT head FROM ledger").fetchone()
    return None if row is None else Head.decode(row[0])


def global_path(folder: Path, run: str, round_index: int) -> Path:
    """Where a site's record keeps what a round starts from; of the round after the last, the run's adapter."""
    return folder / f"{run}-{round_index:04d}.global"
