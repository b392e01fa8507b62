"""The log of a run on disk: its entries, and the newest checkpoint with the sites' cosignatures.

The entries follow from the run's outcomes, so a run that is replayed from its journal writes the same ones again: what
stands there already is compared, and only what is new is added.
"""

from __future__ import annotations

from pathlib import Path

from fedsec.logfile import CHECKPOINT, LogFile
from fedsec.spool import write_durably
from fedsec_secure.errors import VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import Checkpoint, Log, sign_checkpoint
from fedsec_secure.record.entries import AggregateEntry, Entry


class RunLog:
    """The entries of one run, in the folder `log` of its run folder."""

    def __init__(self, folder: Path, log: Log, key: SigningKey) -> None:
        self.log = log
        self._key = key
        self._file = LogFile(folder)
        self._next = 0

    def record(self, entry: Entry) -> None:
        """Add an entry, or find it where it stands already. VerificationError where another one does."""
        if self._next < len(self._file.entries):
            if self._file.entries[self._next] != entry:
                raise VerificationError(
                    f"entry {self._next} of the run's log is another one than this run makes: the log was edited, or "
                    "another software version wrote it"
                )
        else:
            self._file.append(entry)
        self._next += 1

    def after_round(self, round_index: int) -> None:
        """A resumed run goes on after this finished round: what stands before is not made again."""
        for place, entry in enumerate(self._file.entries):
            if isinstance(entry, AggregateEntry) and entry.round == round_index:
                self._next = place + 1
                return
        raise VerificationError(f"the run's log has no sum of round {round_index}, which the journal says is over")

    def signed(self) -> bytes:
        """The signed checkpoint over what this process recorded, or found, so far."""
        return sign_checkpoint(Checkpoint(self.log.origin, self._file.tree.head(self._next)), self._key)

    def leaves(self) -> tuple[bytes, ...]:
        """The leaves under `signed`."""
        return tuple(entry.leaf_data() for entry in self._file.entries[: self._next])

    def publish(self, note: bytes) -> None:
        """Keep the newest signed checkpoint."""
        write_durably(self._file.folder / CHECKPOINT, [note])
