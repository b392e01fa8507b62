"""Messages that must be refused, each with the error that refuses it: made from a good round, altered in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec_secure.codec import Writer, head_length, open_packet, seal
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.masking.messages import Dealing, MaskRequest, Revealed, ShareReply, Statement, decode_packets
from fedsec_secure.masking.tag import PRIME as TAG_PRIME
from fedsec_secure.numeric.shamir import PRIME, SHARE_BYTES

Case = tuple[str, str, bytes, str]
"""(message, what is wrong, bytes, error)"""
SENDERS = {"mask-request": "coordinator", "share-request": "coordinator"}
DECODERS: dict[str, Callable[[memoryview], object]] = {
    "statement": Statement.decode,
    "dealing": Dealing.decode,
    "unmask": Revealed.decode,
    "mask-request": MaskRequest.decode,
    "share-request": lambda body: decode_packets(body, "share request"),
}


def read(message: str, data: bytes, key: SigningKey, context: bytes) -> object:
    """Open a packet and decode its body, as its receiver does; `share` replies are not packets."""
    if message == "share":
        return ShareReply.decode(data)
    sender = SENDERS.get(message, "site-a")
    body = open_packet(data, kind=message, sender=sender, context=context, verify=key.public.verify)
    return DECODERS[message](body)


def bad_messages(good: dict[str, Any]) -> list[dict[str, str]]:
    """As JSON."""
    return [
        {"message": message, "wrong": wrong, "bytes": data.hex(), "error": error}
        for message, wrong, data, error in (*_packets(good), *_bodies(good))
    ]


def keys_of(good: dict[str, Any], message: str) -> SigningKey:
    private = good["coordinator"] if message in SENDERS else good["sites"]["site-a"]["signing"]
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)))


def context_of(good: dict[str, Any], message: str) -> bytes:
    """The context that a good message of this kind names."""
    data = good_message(good, message)
    kind, sender = message, SENDERS.get(message, "site-a")
    at = 6 + 2 + len(kind) + 2 + len(sender)
    return data[at : at + 32]


def good_message(good: dict[str, Any], message: str) -> bytes:
    if message in SENDERS:
        return bytes.fromhex(good["requests"][f"{message.removesuffix('-request')} site-a"])
    sent = good["sites"]["site-a"]["sent"]
    if message == "dealing":
        return ShareReply.decode(bytes.fromhex(sent["share"])).packet
    return bytes.fromhex(sent[{"statement": "train"}.get(message, message)])


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _packets(good: dict[str, Any]) -> Iterator[Case]:
    """Of every kind: the envelope."""
    for message in DECODERS:
        data, key = good_message(good, message), keys_of(good, message)
        cut, sender, context = head_length(data), SENDERS.get(message, "site-a"), context_of(good, message)
        body = data[cut:]
        yield message, "magic", _flip(data, 0), "CodecError"
        yield message, "one bit of the header", _flip(data, 8), "VerificationError"
        yield message, "one bit of the signature", _flip(data, cut - 1), "VerificationError"
        yield message, "one bit of the body", _flip(data, cut + 5), "CodecError"
        yield message, "last byte missing", data[:-1], "CodecError"
        yield message, "one byte too many", data + b"\0", "CodecError"
        yield message, "cut inside the header", data[: cut - 70], "CodecError"
        yield message, "empty", b"", "CodecError"
        yield message, "another kind", seal("verdict", sender, context, body, key.sign), "PeerViolationError"
        yield message, "another sender", seal(message, "site-b", context, body, key.sign), "PeerViolationError"
        yield message, "another context", seal(message, sender, bytes(32), body, key.sign), "PeerViolationError"
        signed = seal(message, sender, context, body + b"\0", key.sign)
        yield message, "a signed byte too many", signed, "CodecError"
        yield message, "a signed byte too few", seal(message, sender, context, body[:-1], key.sign), "CodecError"


def _bodies(good: dict[str, Any]) -> Iterator[Case]:
    """Well signed, badly made."""

    def signed(message: str, body: bytes) -> bytes:
        sender = SENDERS.get(message, "site-a")
        return seal(message, sender, context_of(good, message), body, keys_of(good, message).sign)

    share = bytes(SHARE_BYTES)
    for wrong, sites in (("unsorted sites", ("b", "a")), ("a site twice", ("a", "a"))):
        revealed, dealing = Writer().uint(2, 2), Writer().fixed(bytes(96), 96).uint(2, 2)
        request, listed = Writer().uint(2, 2), Writer().uint(2, 2)
        for site in sites:
            revealed.text(site).uint(1, 1).fixed(share, SHARE_BYTES)
            dealing.text(site).fixed(bytes(96), 96)
            request.text(site).blob(b"x").fixed(bytes(114), 114)
            listed.text(site).blob(b"x")
        for message, body in (
            ("unmask", revealed),
            ("dealing", dealing),
            ("mask-request", request),
            ("share-request", listed),
        ):
            yield message, wrong, signed(message, body.done()), "CodecError"
    for kind in (0, 3):
        body = Writer().uint(1, 2).text("a").uint(kind, 1).fixed(share, SHARE_BYTES).done()
        yield "unmask", f"a share of kind {kind}", signed("unmask", body), "CodecError"
    over = Writer().uint(1, 2).text("a").uint(1, 1).fixed(PRIME.to_bytes(33, "big"), SHARE_BYTES).done()
    yield "unmask", "a share that is the prime itself", signed("unmask", over), "CodecError"
    for message in ("unmask", "mask-request", "share-request"):
        yield message, "1001 sites", signed(message, (1001).to_bytes(2, "big")), "CodecError"
    name = Writer().uint(1, 2).uint(2, 2).fixed(b"\xff\xfe", 2).blob(b"x").done()
    yield "share-request", "a name that is no UTF-8", signed("share-request", name), "CodecError"
    reply = bytes.fromhex(good["sites"]["site-a"]["sent"]["share"])
    yield "share", "last byte missing", reply[:-1], "CodecError"
    yield "share", "one byte too many", reply + b"\0", "CodecError"
    yield "share", "empty", b"", "CodecError"


def bad_tags() -> list[int]:
    """Tags that a `verdict` request cannot carry."""
    return [TAG_PRIME, TAG_PRIME + 1, 2**64 - 1]
