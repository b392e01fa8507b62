"""Two checkpoints of one log: the same, one a continuation of the other, or a fork; and a witness that signs no fork.

A log that shows one history to one reader and another to the next has to sign both. Two signed checkpoints of one size
with different roots prove it to anyone; of different sizes, the log cannot give a consistency proof that holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from fedsec_secure.errors import LocalMisuseError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.record.checkpoint import Checkpoint, Log, cosign, open_checkpoint
from fedsec_secure.record.merkle import ConsistencyProof, verify_consistency
from fedsec_secure.record.note import require_key_name


class Relation(Enum):
    """How the second of two checkpoints stands to the first."""

    EQUAL = "equal"
    EXTENDS = "extends"
    """The second has all leaves of the first, and more."""
    EXTENDED = "extended"
    """The first has all leaves of the second, and more."""


def compare(first: Checkpoint, second: Checkpoint, proof: ConsistencyProof | None = None) -> Relation:
    """Decide whether two checkpoints are of one history.

    Checks: 1 both are of one log; 2 equal sizes have equal roots; 3 there is a proof, where the sizes differ and the
    smaller is not empty; 4 it holds.

    Args:
        first: a checkpoint that `open_checkpoint` returned.
        second: likewise, under the same `Log`.
        proof: from the smaller size to the larger; not looked at for equal sizes.

    Raises:
        VerificationError: with the number of the check. After check 2 the two signed notes prove a fork. After check 4
            only the log can clear it up, with a proof that holds; until then, take it as a fork.
    """
    if first.origin != second.origin:
        raise VerificationError(f"fork check 1: expected two checkpoints of {first.origin}, found one of another log")
    if first.head.size == second.head.size:
        if first.head.root != second.head.root:
            raise VerificationError(
                f"fork check 2: the log {first.origin} signed two different trees of {first.head.size} leaves: it "
                "shows two histories. Keep both notes, they prove it, and stop"
            )
        return Relation.EQUAL
    old, new = sorted((first.head, second.head), key=lambda head: head.size)
    if proof is None and old.size:
        raise VerificationError(
            f"fork check 3: expected a consistency proof from {old.size} to {new.size} leaves of {first.origin}, "
            "found none; ask the log for it"
        )
    try:
        verify_consistency(proof or ConsistencyProof(0, new.size, ()), old, new)
    except VerificationError as e:
        raise VerificationError(
            f"fork check 4: the log {first.origin} did not show that its tree of {new.size} leaves contains the one of "
            f"{old.size}: {e}. Keep both notes; unless another proof holds, it shows two histories"
        ) from e
    return Relation.EXTENDS if first.head.size < second.head.size else Relation.EXTENDED


@dataclass(frozen=True)
class Witness:
    """A witness of one log: its own key name, and the last checkpoint that it cosigned (None: never one).

    A value: `cosign` returns the next one, which the caller has to store before it lets the cosignature out, and with
    one call at a time. An older state restored from a copy would cosign what the newer one refuses.

    Raises:
        LocalMisuseError: no key name, the log's own name, or a last checkpoint of another log.
    """

    log: Log
    name: str
    last: Checkpoint | None = None

    def __post_init__(self) -> None:
        require_key_name(self.name)
        if self.name == self.log.origin or (self.last is not None and self.last.origin != self.log.origin):
            raise LocalMisuseError(
                f"a witness of {self.log.origin} has another name than the log, and remembers checkpoints of this log "
                "only; found otherwise"
            )

    def cosign(self, note: bytes, proof: ConsistencyProof | None, key: SigningKey, time: int) -> tuple[Witness, bytes]:
        """Cosign a checkpoint that continues what this witness has seen (C2SP tlog-witness, add-checkpoint).

        Checks: 1 the log's signature and form (see `open_checkpoint`); 2 not smaller than the last one (a rollback);
        3 of one history with it (see `compare`). The same checkpoint again is cosigned again, with the new time.

        Args:
            note: the checkpoint, signed by the log.
            proof: from the last size to this one; None is enough for the first checkpoint and for an equal one.
            key: the witness's key.
            time: now, in seconds since 1970 (UTC).

        Returns:
            The witness that has seen this checkpoint, and the signature line for the log.

        Raises:
            CodecError: the note is not of its form.
            VerificationError: one of the checks failed; nothing was signed.
        """
        new = open_checkpoint(note, self.log).checkpoint
        if self.last is not None:
            if new.head.size < self.last.head.size:
                raise VerificationError(
                    f"witness check 2: {self.name} has cosigned {self.last.head.size} leaves of {self.log.origin}; "
                    f"expected no fewer, found {new.head.size}: an old checkpoint, or a log that was rolled back"
                )
            compare(self.last, new, proof)
        return replace(self, last=new), cosign(new, self.name, key, time)
