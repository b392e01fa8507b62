"""The wire: strict binary fields, and signed packets whose signature is checked before anything in them is parsed.

A packet is ``magic(4) | header length u16 | header | signature(64) | body``; the header is
``kind | sender | context(32) | body length u64 | SHA-256(body)``. The signature covers a domain string and the header,
and so, through the hash, the body. The header with its signature can be forwarded without the body: that is how
survivors' upload hashes reach every site. All integers are big-endian. One value has one encoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedsec_secure.errors import CodecError, LocalMisuseError, PeerViolationError

PROTOCOL_VERSION = 1
MAGIC = b"FSP\x01"
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
_DOMAIN = b"fedsec packet v1\x00"
_MAX_HEADER = 512

Buffer = bytes | bytearray | memoryview
Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], None]
"""``verify(signature, data)``; raises VerificationError."""


def sha256(*parts: Buffer) -> bytes:
    """SHA-256 of the concatenation, 32 bytes. For fixed-length or self-delimiting parts only."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


class Writer:
    """Appends fields in a fixed order."""

    def __init__(self) -> None:
        self._out = bytearray()

    def uint(self, value: int, size: int) -> Writer:
        """An unsigned integer of ``size`` bytes."""
        if not 0 <= value < 1 << (8 * size):
            raise LocalMisuseError(f"an integer does not fit {size} bytes")
        self._out += value.to_bytes(size, "big")
        return self

    def fixed(self, value: Buffer, size: int) -> Writer:
        """Exactly ``size`` bytes."""
        if len(value) != size:
            raise LocalMisuseError(f"expected {size} bytes, found {len(value)}")
        self._out += value
        return self

    def blob(self, value: Buffer) -> Writer:
        """Bytes with a u32 length in front."""
        self.uint(len(value), 4)
        self._out += value
        return self

    def text(self, value: str) -> Writer:
        """UTF-8 with a u16 length in front."""
        raw = value.encode("utf-8")
        self.uint(len(raw), 2)
        self._out += raw
        return self

    def done(self) -> bytes:
        """The bytes."""
        return bytes(self._out)


class Reader:
    """Reads the same fields back, or raises CodecError and nothing else."""

    def __init__(self, data: Buffer, what: str) -> None:
        self._data = memoryview(data).toreadonly()
        self._at = 0
        self._what = what

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self._at:
            raise CodecError(
                f"{self._what}: {size} more bytes expected at offset {self._at}, {len(self._data) - self._at} found"
            )
        self._at += size
        return self._data[self._at - size : self._at]

    def uint(self, size: int, *, most: int | None = None) -> int:
        """An unsigned integer of ``size`` bytes, at most ``most``."""
        value = int.from_bytes(self._take(size), "big")
        if most is not None and value > most:
            raise CodecError(f"{self._what}: an integer of at most {most} expected at offset {self._at - size}")
        return value

    def fixed(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        return bytes(self._take(size))

    def blob(self, *, most: int) -> bytes:
        """Length-prefixed bytes, at most ``most`` of them."""
        return bytes(self.view(most=most))

    def view(self, *, most: int) -> memoryview:
        """Like :meth:`blob` without the copy."""
        return self._take(self.uint(4, most=most))

    def text(self, *, most: int = 255) -> str:
        """Length-prefixed UTF-8."""
        try:
            return bytes(self._take(self.uint(2, most=most))).decode("utf-8")
        except UnicodeDecodeError:
            raise CodecError(f"{self._what}: invalid UTF-8 before offset {self._at}") from None

    def rest(self) -> memoryview:
        """Everything that is left."""
        return self._take(len(self._data) - self._at)

    def done(self) -> None:
        """Refuse trailing bytes."""
        if self._at != len(self._data):
            raise CodecError(f"{self._what}: {len(self._data) - self._at} bytes too many")


@dataclass(frozen=True)
class Header:
    """What a packet's signature covers."""

    kind: str
    sender: str
    context: bytes
    body_length: int
    body_sha256: bytes

    def encode(self) -> bytes:
        """The signed bytes, without the domain."""
        out = Writer().text(self.kind).text(self.sender).fixed(self.context, DIGEST_BYTES)
        return out.uint(self.body_length, 8).fixed(self.body_sha256, DIGEST_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> Header:
        """Strict inverse of :meth:`encode`."""
        r = Reader(data, "packet header")
        header = cls(r.text(most=64), r.text(most=64), r.fixed(DIGEST_BYTES), r.uint(8), r.fixed(DIGEST_BYTES))
        r.done()
        return header


def seal_head(kind: str, sender: str, context: bytes, body_length: int, body_sha256: bytes, sign: Sign) -> bytes:
    """Magic, header and signature: everything of a packet before its body."""
    raw = Header(kind, sender, context, body_length, body_sha256).encode()
    return MAGIC + len(raw).to_bytes(2, "big") + raw + sign(_DOMAIN + raw)


def seal(kind: str, sender: str, context: bytes, body: Buffer, sign: Sign) -> bytes:
    """A whole packet. ``body`` is copied once; one that is written as it is made goes through :func:`seal_head`."""
    return seal_parts(kind, sender, context, [body], sign)


def seal_parts(kind: str, sender: str, context: bytes, parts: Sequence[Buffer], sign: Sign) -> bytes:
    """A whole packet whose body is the concatenation of ``parts``: each is copied once, into the packet."""
    head = seal_head(kind, sender, context, sum(memoryview(p).nbytes for p in parts), sha256(*parts), sign)
    return b"".join([head, *parts])


def head_length(data: Buffer) -> int:
    """Where the body starts. Reads the magic and one length, nothing that needs trust."""
    if len(data) < len(MAGIC) + 2 or bytes(data[: len(MAGIC)]) != MAGIC:
        raise CodecError("not a fedsec packet (the first four bytes differ)")
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "big")
    if size > _MAX_HEADER or len(data) < len(MAGIC) + 2 + size + SIGNATURE_BYTES:
        raise CodecError("a packet's header is cut short or too long")
    return len(MAGIC) + 2 + size + SIGNATURE_BYTES


def open_head(data: Buffer, *, kind: str, sender: str, context: bytes | None, verify: Verify) -> Header:
    """Check the signature with the *expected* sender's key, then parse the header and compare it with what is due.

    ``context`` None is for packets that establish one (the caller must check it next).
    Raises CodecError, VerificationError (the signature) or PeerViolationError (valid, but not what is due here).
    """
    end = head_length(data)
    raw = bytes(data[len(MAGIC) + 2 : end - SIGNATURE_BYTES])
    # Check 1 (key substitution): every packet is signed under its sender's pinned key, before anything in it is parsed.
    verify(bytes(data[end - SIGNATURE_BYTES : end]), _DOMAIN + raw)
    header = Header.decode(raw)
    # Check 2 (type confusion): a message of one kind never passes for another.
    if header.kind != kind:
        raise PeerViolationError(f"expected a {kind!r} packet from {sender}, found {header.kind!r}")
    # Check 3 (impersonation): nobody signs in another's name.
    if header.sender != sender:
        raise PeerViolationError(f"expected a packet from {sender}, found one that names {header.sender!r}")
    # Check 4 (replay): of another plan, run, round, attempt, roster, adapter or set.
    if context is not None and header.context != context:
        raise PeerViolationError(
            f"the {kind!r} packet from {sender} belongs to another plan, run, round, attempt, roster or adapter"
        )
    return header


def open_packet(data: Buffer, *, kind: str, sender: str, context: bytes | None, verify: Verify) -> memoryview:
    """:func:`open_head`, then the body's length and hash; returns the body without a copy."""
    header = open_head(data, kind=kind, sender=sender, context=context, verify=verify)
    body = memoryview(data).toreadonly()[head_length(data) :]
    # Check 5 (alteration): the body is the one that was signed.
    if len(body) != header.body_length or sha256(body) != header.body_sha256:
        raise CodecError(f"the body of the {kind!r} packet from {sender} does not match its signed hash")
    return body
