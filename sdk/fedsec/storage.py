"""A disk that is full or fails, as an error that says so: whoever meets it refuses or stops, and loses nothing."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fedsec_secure.errors import StorageError

_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_CODES: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


def is_storage(error: BaseException) -> bool:
    """Whether the operating system or SQLite says that a disk is full, is read-only or fails. Nothing else is a disk's
    fault: a missing file or a programming error stays what it is.
    """
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _CODES
    return isinstance(error, OSError) and error.errno in _ERRNOS


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes into a database, or nothing; inside another one, a part of that."""
    if db.in_transaction:
        yield
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        # Left open, a transaction that a full disk did not take would have later ones count as parts of it.
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite may have rolled back by itself
            db.execute("ROLLBACK")
        raise


@contextmanager
def explained(what: str, then: str) -> Iterator[None]:
    """StorageError for what a disk did. ``what``: whose disk. ``then``: what to do.

    The operating system's text names files, which a site tells nobody: only its reason is passed on.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as e:
        if not is_storage(e):
            raise
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise StorageError(f"{what}: expected to write, found that it cannot ({reason}). {then}") from e
