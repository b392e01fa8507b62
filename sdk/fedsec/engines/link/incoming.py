"""Replies as they arrive, in pieces: small ones in memory, uploads on disk. What was written is not sent again."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Final

from fedsec.spool import fsync_folder, private_folder, read_chunks, write_durably
from fedsec_secure.codec import Buffer
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import SiteId

MAX_SMALL: Final = 1 << 27
"""Bytes of a reply that is kept in memory: scores and signed messages."""


class Buffered:
    """A small reply."""

    def __init__(self, size: int) -> None:
        if size > MAX_SMALL:
            raise PeerViolationError(f"a reply that is no upload has at most {MAX_SMALL} bytes; announced: {size}")
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._data)

    def append(self, piece: Buffer) -> None:
        """The next bytes."""
        self._data += piece

    def take(self, sha256: bytes) -> bytes | None:
        """All of it, or None where it is not what was announced."""
        data = bytes(self._data)
        return data if hashlib.sha256(data).digest() == sha256 else None

    def drop(self) -> None:
        """Forget it."""
        self._data.clear()


class Spooled:
    """An upload in a file of its own, found again by site and announced hash, also by a coordinator that was killed.

    A site has one such file at most: uploads that nobody goes on with do not fill the disk. What is there of one is
    read once, when it is opened.
    """

    def __init__(self, folder: Path, site: SiteId, sha256: bytes, size: int) -> None:
        self._path = private_folder(folder) / f"{site}-{sha256.hex()}.part"
        for other in folder.iterdir():
            if other.name.rpartition("-")[0] == site and other != self._path:
                other.unlink()
        self._digest = hashlib.sha256()
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file = os.fdopen(handle, "r+b", buffering=0)
        if os.fstat(handle).st_size > size:
            self._file.truncate(0)
        for chunk in read_chunks(self._path):
            self._digest.update(chunk)
        self._size = self._file.seek(0, os.SEEK_END)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    def append(self, piece: Buffer) -> None:
        """The next bytes. OSError where the disk is full: what was there before stays."""
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._digest.update(piece)
        self._size += len(piece)

    def move(self, sha256: bytes, target: Path) -> Path | None:
        """Make it durable under its own name, or None where it is not what was announced."""
        if self._digest.digest() != sha256:
            return None
        os.fsync(self._file.fileno())
        self._file.close()
        try:
            self._path.replace(target)
        except OSError as e:
            if e.errno != errno.EXDEV:  # the run folder may be on a disk of its own
                raise
            write_durably(target, read_chunks(self._path))
            self._path.unlink()
        fsync_folder(target.parent)
        return target

    def drop(self) -> None:
        """Delete it."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Close it, and leave what is there for later."""
        self._file.close()
