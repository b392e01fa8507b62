"""The chain of a write-ahead record's states: an older copy of the record lacks the newest one, and so shows.

Each answer adds a link. The privacy ledger, another file, pins the newest link before the answer leaves.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager

from fedsec.storage import transaction
from fedsec_secure.accounting.entries import ID_BYTES, RecordId, Witness
from fedsec_secure.codec import Writer, sha256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (only INTEGER PRIMARY KEY CHECK (only = 1), id BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS links (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE);
"""


class RecordChain:
    """Over the record's own connection, so that a link is added in the transaction of what it stands for."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)
        db.execute("INSERT OR IGNORE INTO record VALUES (1, ?)", (os.urandom(ID_BYTES),))
        self.id: RecordId = RecordId(bytes(db.execute("SELECT id FROM record").fetchone()[0]))

    def transaction(self) -> AbstractContextManager[None]:
        """All that the block writes into the record, or nothing; inside another one, a part of that."""
        return transaction(self._db)

    def advance(self, *parts: bytes) -> None:
        """Add a link over ``parts``. The caller's transaction makes it durable, or neither."""
        out = Writer().fixed(self.head(), 32)
        for part in parts:
            out.blob(part)
        self._db.execute("INSERT INTO links (digest) VALUES (?)", (sha256(b"fedsec record v1\0", out.done()),))

    def head(self) -> bytes:
        """The newest link (32 bytes); before the first, one that only this record has."""
        row = self._db.execute("SELECT digest FROM links ORDER BY number DESC LIMIT 1").fetchone()
        return sha256(b"fedsec record v1\0", self.id) if row is None else bytes(row[0])

    def passed(self, digest: bytes) -> bool:
        """Whether this is or was the record's state."""
        first = digest == sha256(b"fedsec record v1\0", self.id)
        return first or self._db.execute("SELECT 1 FROM links WHERE digest = ?", (digest,)).fetchone() is not None

    def witness(self) -> Witness:
        """What the ledger pins."""
        return Witness(self.id, self.head())
