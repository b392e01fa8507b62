"""The log of a run on disk: one entry a line, and the newest checkpoint with the sites' cosignatures.

The entries follow from the run's outcomes, so a run that is replayed from its journal writes the same ones again: what
stands there already is compared, and only what is new is added.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedsec.spool import fsync_folder, private_folder, write_durably
from fedsec_secure.errors import CodecError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import Checkpoint, Log, sign_checkpoint
from fedsec_secure.record.entries import LEAF_DOMAIN, AggregateEntry, Entry, decode_entry
from fedsec_secure.record.tree import MerkleTree

ENTRIES, CHECKPOINT = "entries.jsonl", "checkpoint"


class RunLog:
    """The entries of one run, in the folder `log` of its run folder."""

    def __init__(self, folder: Path, log: Log, key: SigningKey) -> None:
        self.log = log
        self._key = key
        self._folder = private_folder(folder)
        self._path = folder / ENTRIES
        self.entries = read_entries(folder)
        self.tree = MerkleTree(entry.leaf_hash() for entry in self.entries)
        self._next = 0
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        """A process that was killed while it added a line left a part of it: nothing that was signed."""
        whole = sum(len(_line(entry)) for entry in self.entries)
        if self._path.exists() and self._path.stat().st_size > whole:
            os.truncate(self._path, whole)

    def record(self, entry: Entry) -> None:
        """Add an entry, or find it where it stands already. VerificationError where another one does."""
        if self._next < len(self.entries):
            if self.entries[self._next] != entry:
                raise VerificationError(
                    f"entry {self._next} of the run's log is another one than this run makes: the log was edited, or "
                    "another software version wrote it"
                )
        else:
            self._append(entry)
        self._next += 1

    def after_round(self, round_index: int) -> None:
        """A resumed run goes on after this finished round: what stands before is not made again."""
        for place, entry in enumerate(self.entries):
            if isinstance(entry, AggregateEntry) and entry.round == round_index:
                self._next = place + 1
                return
        raise VerificationError(f"the run's log has no sum of round {round_index}, which the journal says is over")

    def signed(self) -> bytes:
        """The signed checkpoint over what this process recorded, or found, so far."""
        return sign_checkpoint(Checkpoint(self.log.origin, self.tree.head(self._next)), self._key)

    def leaves(self) -> tuple[bytes, ...]:
        """The leaves under `signed`."""
        return tuple(entry.leaf_data() for entry in self.entries[: self._next])

    def publish(self, note: bytes) -> None:
        """Keep the newest signed checkpoint."""
        write_durably(self._folder / CHECKPOINT, [note])

    def _append(self, entry: Entry) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(_line(entry))
            out.flush()
            os.fsync(out.fileno())
        fsync_folder(self._folder)
        self.entries.append(entry)
        self.tree.append(entry.leaf_hash())


def read_entries(folder: Path) -> list[Entry]:
    """The entries of a log folder; a last line without its end is left out. CodecError for any other text."""
    path = folder / ENTRIES
    data = path.read_bytes() if path.exists() else b""
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
