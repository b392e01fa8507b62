"""Signed notes (C2SP signed-note v1): a text, a blank line, and one line for every signature.

``— <key name> <base64(4-byte key id || signature)>``. Everything is parsed strictly, and one note has one text: a note
that is read and written again has the same bytes. Nothing here trusts anything; `checkpoint.py` checks signatures.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from fedsec_secure.codec import sha256
from fedsec_secure.errors import CodecError, LocalMisuseError
from fedsec_secure.identity.keys import PublicKey

MAX_NOTE_BYTES = 1 << 19
"""Room for a cosignature by each of 1000 sites."""
MAX_SIGNATURES = 1100
_MAX_NAME = 255
_MAX_SIGNATURE = 8192
"""Bytes. Of signatures that are not ours, the largest in use (ML-DSA-87) have less than 5000."""
_KEY_ID_BYTES = 4
_DASH = "— "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")

NOTE_ED25519 = 0x01
"""Signature type of a plain Ed25519 signature over the note's text."""
COSIGNATURE_V1 = 0x04
"""Signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature v1)."""


def require_key_name(name: str) -> None:
    """LocalMisuseError for a name that no key may have: C2SP allows no spaces and no plus, and the length is ours."""
    if not _is_key_name(name):
        raise LocalMisuseError(
            f"a key name has 1 to {_MAX_NAME} bytes and no spaces, control characters or plus; "
            f"found one of {len(name)} characters"
        )


def key_id(name: str, signature_type: int, key: PublicKey) -> bytes:
    """SHA-256(name || 0x0A || signature type || 32-byte public key), its first 4 bytes (C2SP signed-note v1).

    Raises:
        LocalMisuseError: no key may have this name.
    """
    require_key_name(name)
    return sha256(name.encode("utf-8"), b"\n", bytes([signature_type]), key.raw)[:_KEY_ID_BYTES]


@dataclass(frozen=True)
class NoteSignature:
    """One signature line. The 4-byte id says which key it claims to be from; nothing is proved by it.

    Raises:
        LocalMisuseError: a name, an id or a signature that no line can hold.
    """

    name: str
    key_id: bytes
    signature: bytes

    def __post_init__(self) -> None:
        require_key_name(self.name)
        if len(self.key_id) != _KEY_ID_BYTES or not 1 <= len(self.signature) <= _MAX_SIGNATURE:
            raise LocalMisuseError(
                f"expected a key id of {_KEY_ID_BYTES} bytes and a signature of 1 to {_MAX_SIGNATURE}; "
                f"found {len(self.key_id)} and {len(self.signature)}"
            )

    def line(self) -> bytes:
        """The signature line, with its newline."""
        blob = base64.b64encode(self.key_id + self.signature).decode("ascii")
        return f"{_DASH}{self.name} {blob}\n".encode()

    @classmethod
    def parse(cls, line: bytes) -> NoteSignature:
        """Strict inverse of `line`; CodecError otherwise."""
        if not line.endswith(b"\n"):
            raise CodecError(f"a signature line of {len(line)} bytes does not end with a newline")
        fields = _decode_text(line)[:-1].split(" ")
        if len(fields) != 3 or fields[0] != _DASH[0]:
            raise CodecError("a signature line is an em dash, a key name and base64, with single spaces between them")
        blob = decode_base64(fields[2], "a signature line")
        try:
            return cls(fields[1], blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])
        except LocalMisuseError as e:
            raise CodecError(f"a signature line: {e}") from None


@dataclass(frozen=True)
class SignedNote:
    """A text, which ends with a newline, and the signatures under it, in their order. Nothing is verified yet.

    Raises:
        LocalMisuseError: a text without its final newline, no signature, or more of them than anyone reads.
    """

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith(b"\n") or not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise LocalMisuseError(
                f"a note has a text that ends with a newline and 1 to {MAX_SIGNATURES} signatures; "
                f"found {len(self.text)} bytes of text and {len(self.signatures)} signatures"
            )

    def encode(self) -> bytes:
        """The note. LocalMisuseError where it would be larger than `MAX_NOTE_BYTES`."""
        data = self.text + b"\n" + b"".join(signature.line() for signature in self.signatures)
        if len(data) > MAX_NOTE_BYTES:
            raise LocalMisuseError(f"the note would have {len(data)} bytes; at most {MAX_NOTE_BYTES} are read")
        return data

    @classmethod
    def parse(cls, data: bytes) -> SignedNote:
        """Strict inverse of `encode`; CodecError otherwise.

        Signatures of types that are unknown here are kept as they are: the format lets anyone sign.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise CodecError(f"a note of {len(data)} bytes; at most {MAX_NOTE_BYTES} are read")
        _decode_text(data)
        # The text may hold blank lines itself: the last one is where the signatures begin.
        blank = data.rfind(b"\n\n")
        if blank < 0 or not data.endswith(b"\n"):
            raise CodecError(
                f"a note is a text, a blank line and signature lines, each ended by a newline; found {len(data)} bytes"
            )
        lines = data[blank + 2 :].split(b"\n")[:-1]
        if not 1 <= len(lines) <= MAX_SIGNATURES:
            raise CodecError(f"a note has 1 to {MAX_SIGNATURES} signature lines; found {len(lines)}")
        return cls(data[: blank + 1], tuple(NoteSignature.parse(line + b"\n") for line in lines))


def decode_base64(text: str, what: str) -> bytes:
    """Padded standard base64 (RFC 4648, section 4) in its only canonical form; CodecError otherwise."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise CodecError(f"{what}: {len(text)} characters that are not base64") from None
    # The last character can have bits that count for nothing: every such text but one is another name for the same.
    if base64.b64encode(raw).decode("ascii") != text:
        raise CodecError(f"{what}: base64 that is not in its canonical form")
    return raw


def _decode_text(data: bytes) -> str:
    """UTF-8 without ASCII control characters other than the newline; CodecError otherwise."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise CodecError(f"a note is UTF-8; found another byte at offset {e.start}") from None
    if _CONTROL.search(text):
        raise CodecError("a note holds no ASCII control characters but the newline; found one")
    return text


def _is_key_name(name: str) -> bool:
    if not name or any(c.isspace() or c == "+" or c < " " for c in name):
        return False
    try:
        return len(name.encode("utf-8")) <= _MAX_NAME
    except UnicodeEncodeError:
        return False
