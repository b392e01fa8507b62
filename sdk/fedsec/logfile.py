"""A Merkle log on disk: one entry a line, appended durably; a line that a kill cut short is no entry."""

from __future__ import annotations

import os
from pathlib import Path

from fedsec.plan.document import read_bounded
from fedsec.spool import fsync_folder, private_folder
from fedsec_secure.errors import CodecError
from fedsec_secure.record.entries import LEAF_DOMAIN, Entry, decode_entry
from fedsec_secure.record.tree import MerkleTree

ENTRIES, CHECKPOINT = "entries.jsonl", "checkpoint"


class LogFile:
    """The entries of a log in a folder of its own (mode 0700), and their tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = private_folder(folder)
        self._path = folder / ENTRIES
        self.entries = read_entries(folder)
        self.tree = MerkleTree(entry.leaf_hash() for entry in self.entries)
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        """A process that was killed while it added a line left a part of it: nothing that was signed."""
        self._length = sum(len(_line(entry)) for entry in self.entries)
        if self._path.exists() and self._path.stat().st_size > self._length:
            os.truncate(self._path, self._length)

    def append(self, entry: Entry) -> None:
        """On disk when this returns. Where it raises, the log is as it was: what a full disk took of the line goes."""
        line = _line(entry)
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "wb") as out:
            if os.fstat(handle).st_size > self._length:  # what is left of a line that did not fit
                os.ftruncate(handle, self._length)
            out.write(line)
            out.flush()
            os.fsync(out.fileno())
        fsync_folder(self.folder)
        self._length += len(line)
        self.entries.append(entry)
        self.tree.append(entry.leaf_hash())


def read_entries(folder: Path, most: int | None = None) -> list[Entry]:
    """The entries of a log folder; a last line without its end is left out. CodecError for any other text.

    ``most``: bytes, for a log that comes from others; CodecError where it has more.
    """
    path = folder / ENTRIES
    if not path.exists():
        return []
    data = path.read_bytes() if most is None else read_bounded(path, most)
    lines = data.split(b"\n")[:-1]
    entries = []
    for number, line in enumerate(lines):
        try:
            entries.append(decode_entry(LEAF_DOMAIN + line))
        except CodecError as e:
            raise CodecError(f"{path}, line {number + 1}: {e}") from None
    return entries


def _line(entry: Entry) -> bytes:
    return entry.leaf_data().removeprefix(LEAF_DOMAIN) + b"\n"
