"""What a site keeps of an adapter that no other site gets: with ``fedsa`` its own B, as each round's training left it.

Kept with the round's update in one transaction, so that a round trains once and from the values of an earlier one,
however often it is tried or the site is killed. A private file (0600) in the state folder; of a run the values of its
first and its newest round stay.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np

from fedsec.spool import write_durably
from fedsec_secure.errors import VerificationError
from fedsec_secure.numeric.lanes import Floats

_SCHEMA = """
CREATE TABLE IF NOT EXISTS personal (
  run TEXT NOT NULL, round INTEGER NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY (run, round));
"""


class PersonalRecord:
    """A part of the site's write-ahead record, over its connection; files stand in ``folder``."""

    def __init__(self, db: sqlite3.Connection, folder: Path) -> None:
        self._db, self._folder = db, folder
        db.executescript(_SCHEMA)

    def write(self, run: str, round_index: int, values: Floats) -> bytes:
        """The file, durably; what `record` is given afterwards. Values are float32."""
        data = values.astype("<f4").data.cast("B")
        write_durably(self._path(run, round_index), [data])
        return hashlib.sha256(data).digest()

    def record(self, run: str, round_index: int, digest: bytes) -> None:
        """That the file is the round's. The caller's transaction makes it durable, or neither."""
        self._db.execute("INSERT INTO personal VALUES (?, ?, ?)", (run, round_index, digest))

    def newest(self, run: str, before: int) -> Floats | None:
        """The values of the newest round that came before round ``before``; None where there is none."""
        return newest_values(self._db, self._folder, run, before)

    def sweep(self) -> None:
        """Delete files that no later round or baseline starts from, and those that no record names."""
        rows = self._db.execute("SELECT run, round FROM personal").fetchall()
        newest: dict[str, int] = {}
        for run, number in rows:
            newest[run] = max(number, newest.get(run, 0))
        kept = {self._path(run, number).name for run, number in rows if number in (0, newest[run])}
        for path in self._folder.glob("*.personal"):
            if path.name not in kept:
                path.unlink()

    def _path(self, run: str, round_index: int) -> Path:
        return _path(self._folder, run, round_index)


def newest_values(db: sqlite3.Connection, folder: Path, run: str, before: int) -> Floats | None:
    """`PersonalRecord.newest` over a connection that may be read-only."""
    query = "SELECT round, sha256 FROM personal WHERE run = ? AND round < ? ORDER BY round DESC LIMIT 1"
    row = db.execute(query, (run, before)).fetchone()
    if row is None:
        return None
    path = _path(folder, run, int(row[0]))
    values = np.fromfile(path, dtype="<f4") if path.is_file() else np.empty(0, "<f4")
    if hashlib.sha256(values.data.cast("B")).digest() != row[1]:
        raise VerificationError(f"{path.name} is not what was recorded: this site has lost its own part of the adapter")
    return values


def _path(folder: Path, run: str, round_index: int) -> Path:
    return folder / f"{run}-{round_index:04d}.personal"
