"""Disks that take no more from a chosen write on, until there is room again; injected where files and SQLite write.

A *write* is a file that is made, an fsync, a rename, a statement that changes a database or folds its log in. An fsync
that fails leaves half of a new file, and of a log less than its last line, as a full disk does. The sequence of writes
is the same in every run of one plan, so a number names one.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.crash import over_database
from tests.e2e.federation import Federation

NO_ROOM = "No space left on device"


class Disks:
    """One for each site (its state folder) and one for the coordinator (the run folder)."""

    def __init__(self, folder: Path, who: str = "", full_at: int | None = None) -> None:
        self._state, self._run = folder / "state", folder / "run"
        self._who, self._at = who, full_at
        self.full = False
        self.labels: dict[str, list[str]] = {}

    def room(self) -> None:
        """From now on everything fits."""
        self.full, self._at = False, None

    def write(self, who: str, what: str) -> bool:
        """Whether this one fails."""
        seen = self.labels.setdefault(who, [])
        if who == self._who and len(seen) == self._at:
            self.full = True
        seen.append(what)
        return self.full and who == self._who

    def owner(self, path: Path) -> str | None:
        """Whose disk a file is on."""
        if self._state in path.parents:
            return path.relative_to(self._state).parts[0]
        return "coordinator" if self._run in path.parents else None

    def fails(self, path: Path, what: str) -> bool:
        """Whether writing this file fails. Files of nobody here are left alone."""
        who = self.owner(path)
        return who is not None and self.write(who, f"{what} {path.suffix or path.name}")


class FullDatabase:
    """Each statement that writes may find the disk full. A COMMIT that does leaves its transaction open."""

    def __init__(self, db: sqlite3.Connection, who: str, disks: Disks) -> None:
        self._db, self._who, self._disks = db, who, disks

    def execute(self, sql: str, *args):
        if not sql.startswith(("SELECT", "ROLLBACK")) and self._disks.write(self._who, f"sql {sql[:24]}"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._db.execute(sql, *args)

    def executemany(self, sql: str, rows):
        for row in rows:
            self.execute(sql, row)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()


def on_disks(federation: Federation, disks: Disks) -> None:
    """The databases of an open federation."""
    for name, store in federation.stores.items():
        over_database(store, FullDatabase(store._db, name, disks))
        file = federation.ledgers[name]._file
        file._db = FullDatabase(file._db, name, disks)
    federation.journal._db = FullDatabase(federation.journal._db, "coordinator", disks)


@contextmanager
def files_on(disks: Disks, monkeypatch):
    """The files, in this process."""
    make, fsync, replace = os.open, os.fsync, Path.replace

    def full(path: Path) -> OSError:
        return OSError(errno.ENOSPC, NO_ROOM, str(path))

    def watched_open(path, flags, *args, **more):
        if flags & os.O_CREAT and disks.fails(Path(path), "make"):
            raise full(path)
        return make(path, flags, *args, **more)

    def watched_fsync(handle: int) -> None:
        path, about = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle)
        if disks.fails(path, "fsync"):
            if stat.S_ISREG(about.st_mode):
                lost = 7 if path.suffix == ".jsonl" else about.st_size // 2
                os.ftruncate(handle, about.st_size - lost)
            raise full(path)
        fsync(handle)

    def watched_replace(self: Path, target: Path) -> Path:
        if disks.fails(target, "rename to"):
            raise full(target)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched_open)
        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(Path, "replace", watched_replace)
        yield
