"""Replies on disk: written once, measured while they are written, read front to back without loading them."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedsec_secure.codec import SIGNATURE_BYTES, head_length
from fedsec_secure.errors import CodecError, ConfigError
from fedsec_secure.masking.coordinator_collect import UploadFacts
from fedsec_secure.numeric.lanes import Words

_CHUNK = 1 << 20
_LONGEST_HEAD = 4 + 2 + 512 + SIGNATURE_BYTES


def private_folder(path: Path) -> Path:
    """The folder, made with mode 0700 where it is missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def fsync_folder(path: Path) -> None:
    """Make a rename or a new name in ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(handle: int, path: Path, *, wait: bool) -> bool:
    """Whether the open file ``path`` is this process's alone from now on, until ``handle`` is closed.

    ConfigError where the file system has no such locks: two processes would then do what only one may.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        raise ConfigError(
            f"{path}: expected a file system that locks files, found one that does not ({e.strerror}); "
            "put the folder on a disk of this machine"
        ) from None
    return True


@contextmanager
def held(folder: Path, why: str) -> Iterator[None]:
    """The folder is this process's alone; ConfigError in these words where another process has it."""
    handle = os.open(folder / "held", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not lock(handle, folder, wait=False):
            raise ConfigError(f"another process holds {folder}: {why}")
        yield
    finally:
        os.close(handle)


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a private file (0600) whole or not at all: temporary name, fsync, rename, fsync of the folder."""
    with replacing(path) as out:
        for chunk in chunks:
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A private file (0600) under a temporary name, which becomes ``path`` where the block ends well. What the block
    writes it makes durable itself.
    """
    temporary = path.with_name(path.name + ".part")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            yield out
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk a half-written file would take the room of everything else
        raise
    fsync_folder(path.parent)


def read_chunks(path: Path) -> Iterable[bytes]:
    """The file in pieces of 1 MiB."""
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


@dataclass(frozen=True)
class Upload:
    """A spooled packet: a signed head, then a body of little-endian words."""

    path: Path

    def facts(self) -> UploadFacts:
        """Length and SHA-256 of the body as it is on disk, and the head."""
        with self.path.open("rb") as source:
            start = source.read(_LONGEST_HEAD)
            cut = head_length(start)
            source.seek(cut)
            digest, length = hashlib.sha256(), 0
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                length += len(chunk)
        return UploadFacts(start[:cut], length, digest.digest())

    def words(self) -> UploadWords:
        """The body as a word source; close it after the sum."""
        with self.path.open("rb") as source:
            cut = head_length(source.read(_LONGEST_HEAD))
        return UploadWords(self.path, cut)


class UploadWords:
    """A WordSource over the body of a spooled upload."""

    def __init__(self, path: Path, offset: int) -> None:
        self._file: IO[bytes] = path.open("rb")
        self._file.seek(offset)

    def read_into(self, out: Words) -> None:
        """Fill ``out`` with the next words; CodecError where the file ends before."""
        view = memoryview(out.view("u1").data)
        while view:
            got = self._file.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise CodecError("a spooled upload ended before its last word")
            view = view[got:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
