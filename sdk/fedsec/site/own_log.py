"""A site's own Merkle log: which approval was in force, what the site answered and what it refused, for its officer.

It goes on over all runs and stays at the site. Its head is in the write-ahead record, and at the end of a run in what
the site signs, so that a line which is changed or taken away later shows.
"""

from __future__ import annotations

from pathlib import Path

from fedsec.logfile import LogFile, read_entries
from fedsec.site.store_log import LogRecord
from fedsec_secure.accounting.chain import EMPTY, Head
from fedsec_secure.errors import VerificationError
from fedsec_secure.record.entries import AnsweredEntry, ApprovalEntry, Entry, RefusalEntry
from fedsec_secure.record.merkle import TreeHead
from fedsec_secure.record.tree import MerkleTree

FOLDER = "log"
MOST_REFUSALS = 1000
"""Of one process. Whoever is refused can ask again: the disk is not theirs to fill."""


class OwnLog:
    """The log of one site, in its state folder.

    Raises:
        VerificationError: the log is not what the record says it was.
    """

    def __init__(self, state: Path, record: LogRecord) -> None:
        self._file = LogFile(state / FOLDER)
        self._record = record
        self._refusals = 0
        self._answers = {e.answer_sha256 for e in self._file.entries if isinstance(e, AnsweredEntry)}
        require_head(self._file.tree, record.own_head(), f"this site, {state / FOLDER},")

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All, in order."""
        return tuple(self._file.entries)

    @property
    def head(self) -> TreeHead:
        """Size and root."""
        return self._file.tree.head()

    def allowed(self, entry: ApprovalEntry) -> None:
        """The approval in force, unless it is the one that was in force before."""
        last = next((e for e in reversed(self._file.entries) if isinstance(e, ApprovalEntry)), None)
        if last != entry:
            self._append(entry)

    def answered(self, entry: AnsweredEntry) -> None:
        """What leaves now, once."""
        if entry.answer_sha256 not in self._answers:
            self._file.append(entry)
            self._answers.add(entry.answer_sha256)
        if self._record.own_head() != self.head:  # the line may be from before the record had no room for its head
            self._record.save_own_head(self.head)

    def refused(self, entry: RefusalEntry) -> None:
        """What was asked in vain, and why."""
        self._refusals += 1
        if self._refusals <= MOST_REFUSALS:
            self._append(entry)

    def _append(self, entry: Entry) -> None:
        self._file.append(entry)
        self._record.save_own_head(self.head)


def require_head(tree: MerkleTree, known: TreeHead | None, whose: str) -> None:
    """VerificationError unless the log goes through the head that the record of its site knows, if any."""
    if known is not None and (known.size > tree.size or tree.head(known.size) != known):
        raise VerificationError(
            f"the log of {whose} was edited or cut: it does not go through the {known.size} entries that the site's "
            "record knows. Restore the newest copy"
        )


def require_ledger(state: Path, newest: Head) -> None:
    """VerificationError where a site's log has an answer and its privacy ledger, whose head is ``newest``, no entry.

    The ledger pinned each answer before it left. Of a site that lost its record too nothing else knows that.
    """
    if newest == EMPTY and any(isinstance(entry, AnsweredEntry) for entry in read_entries(state / FOLDER)):
        raise VerificationError(
            f"expected the privacy ledger that pinned each answer of this site's log, {state / FOLDER}; found none, or "
            "an empty one: it was deleted or moved. Restore the newest copies of ledger and record; a new ledger would "
            "forget what was spent"
        )
