"""The privacy ledger's SQLite file: entries go in at the end, and nothing else ever happens to it.

A transaction takes SQLite's write lock first and reads what other processes appended before it decides anything, so two
processes cannot both take the last of a budget. WAL with full sync: entries are on the disk when ``writing`` is left.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fedsec.spool import fsync_folder, lock, private_folder
from fedsec.storage import is_storage, transaction
from fedsec_secure.accounting.chain import Head, History, StoredEntry, next_entry
from fedsec_secure.accounting.entries import Body, Witness
from fedsec_secure.errors import AbortError, ConfigError, FedsecError, StorageError, VerificationError

_VERSION: Final = 1
_BUSY_SECONDS: Final = 30
_SCHEMA: Final = {
    "entries": "CREATE TABLE entries (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL, digest BLOB NOT NULL)",
    # REPLACE deletes without firing the trigger on DELETE, hence a trigger on INSERT as well.
    "entries_follow_each_other": (
        "CREATE TRIGGER entries_follow_each_other BEFORE INSERT ON entries"
        " WHEN NEW.sequence IS NOT (SELECT COALESCE(MAX(sequence), 0) + 1 FROM entries)"
        " BEGIN SELECT RAISE(ABORT, 'a ledger entry goes to the end'); END"
    ),
    "entries_are_not_changed": (
        "CREATE TRIGGER entries_are_not_changed BEFORE UPDATE ON entries"
        " BEGIN SELECT RAISE(ABORT, 'a ledger entry is never changed'); END"
    ),
    "entries_are_not_deleted": (
        "CREATE TRIGGER entries_are_not_deleted BEFORE DELETE ON entries"
        " BEGIN SELECT RAISE(ABORT, 'a ledger entry is never deleted'); END"
    ),
}


class Batch:
    """The entries of one transaction, each linked to the one before."""

    def __init__(self, head: Head, at: int, witness: Witness | None) -> None:
        self._head, self._at, self._witness = head, at, witness
        self.entries: list[StoredEntry] = []

    def append(self, body: Body) -> int:
        """Add an entry; returns its number."""
        entry = next_entry(self._head, self._at, self._witness, body)
        self.entries.append(entry)
        self._head = entry.head
        return entry.sequence


class LedgerFile:
    """The open file, and the verified history of what it holds.

    Errors of a ledger in use name the file without its folder: they go to the coordinator with the site's refusal.
    """

    def __init__(self, path: Path, expected: Head | None) -> None:
        """Open or make the file and verify all of it; ``expected`` is the newest head that is on record elsewhere."""
        self.path = path
        self.history = History()
        with _explained(str(path)), _alone(path):
            _make_private(path, missing_ok=expected is None or expected.sequence == 0)
            # Whoever calls the site may do so from another thread each time, though never from two at once.
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
                self._verify_all(expected)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file; the last process to do so folds the write-ahead log in."""
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA trusted_schema=OFF")
        if self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise ConfigError(f"{self.path}: this file system cannot hold a write-ahead log; use a local disk")
        self._db.execute("PRAGMA synchronous=FULL")
        if self._schema() == ({}, 0):
            with transaction(self._db):
                for sql in _SCHEMA.values():
                    self._db.execute(sql)
                self._db.execute(f"PRAGMA user_version={_VERSION}")
        if self._schema() != (_SCHEMA, _VERSION):
            raise VerificationError(
                f"{self.path} is not a privacy ledger of format {_VERSION} as fedsec writes it: its tables or the "
                "triggers that keep it append-only were altered. Do not use it; restore the newest copy"
            )

    def _schema(self) -> tuple[dict[str, str], int]:
        rows = self._db.execute("SELECT name, sql FROM sqlite_master").fetchall()
        return dict(rows), self._db.execute("PRAGMA user_version").fetchone()[0]

    def _verify_all(self, expected: Head | None) -> None:
        for (finding,) in self._db.execute("PRAGMA quick_check(1)").fetchall():
            if finding != "ok":
                raise VerificationError(f"{self.path} is damaged: {finding}. Do not use it; restore the newest copy")
        with self._reading():
            self.catch_up()
            count = self._db.execute("SELECT COUNT(*) FROM entries").fetchone()[0]
        if count != self.history.head.sequence:
            raise VerificationError(f"{self.path}: {self.history.head.sequence} entries expected, {count} rows found")
        if expected is not None:
            self.history.verify_anchor(expected)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Several SELECTs over one state of the file."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def catch_up(self) -> None:
        """Verify what was appended since the last look; VerificationError if the entry seen last is not there now."""
        head = self.history.head
        with _explained(self.path.name):
            query = "SELECT sequence, body, digest FROM entries WHERE sequence >= ? ORDER BY sequence"
            rows = iter(self._db.execute(query, (head.sequence,)).fetchall())
        seen = next(rows, None) if head.sequence > 0 else None
        if head.sequence > 0 and (seen is None or (seen[0], seen[2]) != (head.sequence, head.digest)):
            raise VerificationError(
                f"{self.path.name}: entry {head.sequence} was here and is gone or another one: the file was rolled "
                "back or edited while it was in use. Do not use it; restore the newest copy"
            )
        for sequence, body, digest in rows:
            if not isinstance(body, bytes) or not isinstance(digest, bytes):
                raise VerificationError(f"{self.path.name}: entry {sequence} is wrong: expected bytes; it was edited")
            self.history.add(StoredEntry(sequence, body, digest))

    @contextmanager
    def writing(self, at: int, witness: Witness | None) -> Iterator[Batch]:
        """Take the write lock, catch up, and append what the block adds to the batch: all of it, or nothing."""
        with _explained(self.path.name), transaction(self._db):
            self.catch_up()
            batch = Batch(self.history.head, at, witness)
            yield batch
            for entry in batch.entries:
                row = (entry.sequence, entry.body, entry.digest)
                self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
        for entry in batch.entries:
            self.history.add(entry)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time makes or opens the file: SQLite does not wait while another changes the journal's mode."""
    handle = os.open(private_folder(path.parent), os.O_RDONLY)
    try:
        lock(handle, path.parent, wait=True)
        yield
    finally:
        os.close(handle)


def _make_private(path: Path, *, missing_ok: bool) -> None:
    """Make an empty file that only its owner can read, or check that the one that is there is such."""
    if not path.exists():
        if not missing_ok:
            raise VerificationError(
                f"expected the privacy ledger {path}, whose head is on record elsewhere; found no file: it was deleted "
                "or moved. Restore the newest copy; a new one would forget what was spent"
            )
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        fsync_folder(path.parent)
    require_unshared(path)


def require_unshared(path: Path) -> None:
    """ConfigError where others than the owner have access to a ledger, or to the folder that it is or will be in, or
    where something stands there that is no file.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"expected the privacy ledger {path}, found no file: name the file itself")
    for place, mode in ((path, "600"), (path.parent, "700")):
        if place.exists() and place.stat().st_mode & 0o077:
            raise ConfigError(f"other users have access to {place}: run chmod {mode} on it, it says what was released")


@contextmanager
def _explained(ledger: str) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as e:
        raise _explain(ledger, e) from e
    except OSError as e:
        if is_storage(e):
            raise
        raise ConfigError(f"cannot open the privacy ledger {ledger}: {e.strerror}") from e


def _explain(ledger: str, error: sqlite3.Error) -> FedsecError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return AbortError(f"another process kept {ledger} locked for {_BUSY_SECONDS} s: try again when it is done")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return StorageError(
            f"cannot write the privacy ledger {ledger}: {error}. Nothing was charged. To be read, too, it has to stand "
            "where it can be written: mend the disk, or look at a copy of the site's folder"
        )
    return VerificationError(f"{ledger} is no whole SQLite file: {error}. Do not use it; restore the newest copy")
