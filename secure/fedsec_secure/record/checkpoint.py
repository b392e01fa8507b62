"""Checkpoints: what a log signs about its tree, and what witnesses cosign (C2SP tlog-checkpoint, tlog-cosignature v1).

The text of a checkpoint is three lines: the log's origin, the number of leaves, and the base64 root. The log signs it
as a note; a witness (here: a site) signs it again together with the time, and so says: *of this log, as of then, this
is the largest tree that I have seen, and it contains every smaller one that I have seen*.
A log's name and keys are pinned beforehand. The core has no clock: times are arguments, in seconds since 1970 (UTC).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fedsec_secure.errors import CodecError, LocalMisuseError, VerificationError
from fedsec_secure.identity.keys import PublicKey, SigningKey
from fedsec_secure.record.merkle import MAX_TREE_SIZE, TreeHead
from fedsec_secure.record.note import (
    COSIGNATURE_V1,
    NOTE_ED25519,
    NoteSignature,
    SignedNote,
    decode_base64,
    key_id,
    require_key_name,
)

MAX_TIME = (1 << 63) - 1
"""Seconds since 1970; the largest that C2SP allows."""
_TIME_BYTES = 8
_MAX_TEXT = 512
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class Log:
    """A log as its readers pin it: the origin that its checkpoints name, and the key that signs them.

    Raises:
        LocalMisuseError: the origin is no key name (C2SP wants both to be the same).
    """

    origin: str
    key: PublicKey

    def __post_init__(self) -> None:
        require_key_name(self.origin)


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint says. Only `open_checkpoint` makes one that somebody has signed.

    Raises:
        LocalMisuseError: the origin is no key name.
    """

    origin: str
    head: TreeHead

    def __post_init__(self) -> None:
        require_key_name(self.origin)

    def text(self) -> bytes:
        """The three lines that are signed."""
        root = base64.b64encode(self.head.root).decode("ascii")
        return f"{self.origin}\n{self.head.size}\n{root}\n".encode()

    @classmethod
    def parse(cls, text: bytes) -> Checkpoint:
        """Strict inverse of `text`; CodecError otherwise. Extension lines are refused: nobody could audit them."""
        if len(text) > _MAX_TEXT:
            raise CodecError(f"a checkpoint's text has at most {_MAX_TEXT} bytes; found {len(text)}")
        try:
            lines = text.decode("utf-8").split("\n")
        except UnicodeDecodeError as e:
            raise CodecError(f"a checkpoint's text is UTF-8; found another byte at offset {e.start}") from None
        if len(lines) != 4 or lines[3]:
            raise CodecError(f"a checkpoint's text is three lines, each ended by a newline; found {len(lines) - 1}")
        # No sign, no leading zero, no digits of other scripts; the length is bounded before int() sees it.
        if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > MAX_TREE_SIZE:
            raise CodecError("a checkpoint's second line is the tree size: decimal, no leading zero, below 2^63")
        root = decode_base64(lines[2], "a checkpoint's third line")
        try:
            return cls(lines[0], TreeHead(int(lines[1]), root))
        except LocalMisuseError as e:
            raise CodecError(f"a checkpoint: {e}") from None


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint whose signatures hold, and which witnesses cosigned it: name -> time of the latest, in seconds."""

    checkpoint: Checkpoint
    cosigned: Mapping[str, int]


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """The log's note: the text and its Ed25519 signature, under the origin as key name.

    A log signs no two checkpoints that are inconsistent; whoever holds both has proof that it did.
    """
    text = checkpoint.text()
    own = NoteSignature(checkpoint.origin, key_id(checkpoint.origin, NOTE_ED25519, key.public), key.sign(text))
    return SignedNote(text, (own,)).encode()


def cosign(checkpoint: Checkpoint, name: str, key: SigningKey, time: int) -> bytes:
    """A witness's signature line. For logs that are watched over time, `Witness.cosign` makes the checks first.

    The message does not name the witness, so a key is one witness's only.

    Args:
        checkpoint: one that `open_checkpoint` returned.
        name: the witness's key name, not the log's.
        key: the witness's key.
        time: now, in seconds since 1970 (UTC).

    Raises:
        LocalMisuseError: a time out of range, or a name that a log has or no key can have.
    """
    if not 0 <= time <= MAX_TIME:
        raise LocalMisuseError("a cosignature's time is 0 to 2^63 - 1 seconds since 1970; found another number")
    if name == checkpoint.origin:
        raise LocalMisuseError(f"{name} is the log itself; a witness has a name of its own")
    signature = time.to_bytes(_TIME_BYTES, "big") + key.sign(_cosigned_message(time, checkpoint.text()))
    return NoteSignature(name, key_id(name, COSIGNATURE_V1, key.public), signature).line()


def add_cosignature(note: bytes, line: bytes, name: str, key: PublicKey) -> bytes:
    """The note with a witness's line, in place of an earlier one of the same witness.

    The line is verified first: readers refuse a note with a bad line of a witness that they know, so one witness could
    spoil the note for all.

    Args:
        note: a signed checkpoint.
        line: what the witness returned, one line with its newline.
        name: the witness's key name.
        key: the witness's public key.

    Raises:
        CodecError: note or line are not of their form.
        VerificationError: the line is not a cosignature of this note by this witness.
    """
    signed, signature = SignedNote.parse(note), NoteSignature.parse(line)
    known = (name, key_id(name, COSIGNATURE_V1, key))
    if (signature.name, signature.key_id) != known:
        raise VerificationError(f"expected a cosignature by {name}, found a line of another key or another type")
    _verify_cosignature(signature, signed.text, key)
    others = tuple(s for s in signed.signatures if (s.name, s.key_id) != known)
    return replace(signed, signatures=(*others, signature)).encode()


def open_checkpoint(
    note: bytes, log: Log, witnesses: Mapping[str, PublicKey] = MappingProxyType({}), threshold: int = 0
) -> OpenedCheckpoint:
    """What a note says, once everything holds that can be checked without parsing its text.

    Checks, in order: 1 size and form of the note; 2 the log's key has signed (no stranger speaks for it); 3 every
    signature of a known key holds; 4 enough different witnesses cosigned (no history for one reader alone); 5 the text
    is a checkpoint in its only form; 6 it is of this log (a key of two logs does not mix them).
    Lines of unknown keys are ignored, as C2SP has it; two lines of one key count once.

    Args:
        note: the signed note.
        log: the pinned origin and key.
        witnesses: key name -> public key of those whose cosignatures count.
        threshold: how many different witnesses must have cosigned; 0 for a witness that is to cosign itself.

    Raises:
        CodecError: check 1 or 5 failed.
        VerificationError: another check failed; the message has its number.
    """
    _require_witnesses(log, witnesses, threshold)
    try:
        signed = SignedNote.parse(note)
    except CodecError as e:
        raise CodecError(f"checkpoint check 1: {e}") from None
    log_id = (log.origin, key_id(log.origin, NOTE_ED25519, log.key))
    if not any((s.name, s.key_id) == log_id for s in signed.signatures):
        raise VerificationError(f"checkpoint check 2: expected a signature by the pinned key of {log.origin}")
    cosigned: dict[str, int] = {}
    for signature in signed.signatures:
        witness = witnesses.get(signature.name)
        if (signature.name, signature.key_id) == log_id:
            _verify_log(signature, signed.text, log)
        elif witness is not None and signature.key_id == key_id(signature.name, COSIGNATURE_V1, witness):
            time = _verify_cosignature(signature, signed.text, witness)
            cosigned[signature.name] = max(time, cosigned.get(signature.name, 0))
    if len({witnesses[name] for name in cosigned}) < threshold:
        raise VerificationError(
            f"checkpoint check 4: expected cosignatures by {threshold} different witnesses of {log.origin}, "
            f"found {len({witnesses[name] for name in cosigned})}"
        )
    try:
        checkpoint = Checkpoint.parse(signed.text)
    except CodecError as e:
        raise CodecError(f"checkpoint check 5: {e}") from None
    if checkpoint.origin != log.origin:
        raise VerificationError(f"checkpoint check 6: expected a checkpoint of {log.origin}, found another origin")
    return OpenedCheckpoint(checkpoint, MappingProxyType(cosigned))


def _verify_log(signature: NoteSignature, text: bytes, log: Log) -> None:
    try:
        log.key.verify(signature.signature, text)
    except VerificationError as e:
        raise VerificationError(f"checkpoint check 3: of the log {log.origin}: {e}") from e


def _verify_cosignature(signature: NoteSignature, text: bytes, key: PublicKey) -> int:
    """The time of a cosignature that holds."""
    time = int.from_bytes(signature.signature[:_TIME_BYTES], "big")
    if time > MAX_TIME:
        raise VerificationError(f"checkpoint check 3: a cosignature by {signature.name} has a time from 2^63 on")
    try:
        key.verify(signature.signature[_TIME_BYTES:], _cosigned_message(time, text))
    except VerificationError as e:
        raise VerificationError(f"checkpoint check 3: of the witness {signature.name}: {e}") from e
    return time


def _cosigned_message(time: int, text: bytes) -> bytes:
    """C2SP tlog-cosignature v1: a header line that no checkpoint's text can pass for, the time, the text."""
    return b"cosignature/v1\ntime %d\n" % time + text


def _require_witnesses(log: Log, witnesses: Mapping[str, PublicKey], threshold: int) -> None:
    if not 0 <= threshold <= len(set(witnesses.values())):
        raise LocalMisuseError(f"threshold {threshold} cannot be met by the keys of {len(witnesses)} witnesses")
    if log.origin in witnesses or log.key in witnesses.values():
        raise LocalMisuseError(
            f"the log {log.origin} cannot witness itself; leave its name and key out of the witnesses"
        )
