"""The messages of a masked round. Every decoder gives a value or raises CodecError; every encoding has a fixed
length for a given number of sites, so that no length depends on an update, a count or a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from fedsec_secure.codec import DIGEST_BYTES, Buffer, Reader, Writer, sha256
from fedsec_secure.errors import CodecError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.score_levels import WORST_LEVEL, is_score
from fedsec_secure.numeric.shamir import SHARE_BYTES, decode_share

KEY_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + KEY_BYTES + 16
"""Two shares and a tag seed under ChaCha20-Poly1305."""
_MAX_SITES = 1000
_MAX_PACKET = 1 << 17


@dataclass(frozen=True)
class Statement:
    """``train`` reply: fresh X25519 public keys, the commitment to the unweighted update, and the site's score where
    the plan weighs by scores: a level of `score_levels`, or `NO_SCORE`.
    """

    channel_key: bytes
    mask_key: bytes
    commitment: bytes
    score: int | None = None

    def encode(self) -> bytes:
        """96 bytes, with a score 97."""
        score = b"" if self.score is None else bytes([self.score])
        return self.channel_key + self.mask_key + self.commitment + score

    @classmethod
    def decode(cls, data: Buffer, scored: bool = False) -> Statement:
        """Strict inverse. ``scored``: whether a score is due; a byte that is not is refused like any other."""
        r = Reader(data, "statement")
        keys = r.fixed(KEY_BYTES), r.fixed(KEY_BYTES)
        commitment = r.fixed(DIGEST_BYTES)
        score = r.uint(1) if scored else None
        r.done()
        if score is not None and not is_score(score):
            raise CodecError(f"statement: expected a score's level from 0 to {WORST_LEVEL} or none, found {score}")
        return cls(*keys, commitment, score)


@dataclass(frozen=True)
class Promise:
    """What a dealer promises about the two shares of one recipient: a hash of each, and of the ciphertext."""

    self_share: bytes
    key_share: bytes
    sealed: bytes


@dataclass(frozen=True)
class Dealing:
    """The public part of a ``share`` reply: H(U1), H(b), H(rho), and one promise a recipient, all under one signature.

    H(rho) is there so that every site gets the same rho, or knows who dealt two.
    """

    statements: bytes
    self_seed: bytes
    tag_seed: bytes
    promises: Mapping[SiteId, Promise]

    def encode(self) -> bytes:
        """Deterministic: recipients in sorted order."""
        out = Writer().fixed(self.statements, 32).fixed(self.self_seed, 32).fixed(self.tag_seed, 32)
        out.uint(len(self.promises), 2)
        for site in sorted(self.promises):
            p = self.promises[site]
            out.text(site).fixed(p.self_share, 32).fixed(p.key_share, 32).fixed(p.sealed, 32)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> Dealing:
        """Strict inverse: sorted, no site twice."""
        r = Reader(data, "dealing")
        statements, self_seed, tag_seed = (r.fixed(32) for _ in range(3))
        promises: dict[SiteId, Promise] = {}
        for _ in range(r.uint(2, most=_MAX_SITES)):
            site = _next_site(r, promises, "dealing")
            promises[site] = Promise(r.fixed(32), r.fixed(32), r.fixed(32))
        r.done()
        return cls(statements, self_seed, tag_seed, promises)


class ShareKind(IntEnum):
    """Which of a peer's two secrets a revealed share belongs to."""

    SELF_SEED = 1
    MASK_KEY = 2


@dataclass(frozen=True)
class Revealed:
    """``unmask`` reply: one share of *one* kind for every member of U2. Two kinds for one peer cannot be written."""

    shares: Mapping[SiteId, tuple[ShareKind, bytes]]

    def encode(self) -> bytes:
        """Deterministic: peers in sorted order."""
        out = Writer().uint(len(self.shares), 2)
        for site in sorted(self.shares):
            kind, share = self.shares[site]
            out.text(site).uint(int(kind), 1).fixed(share, SHARE_BYTES)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> Revealed:
        """Strict inverse."""
        r = Reader(data, "revealed shares")
        shares: dict[SiteId, tuple[ShareKind, bytes]] = {}
        for _ in range(r.uint(2, most=_MAX_SITES)):
            site = _next_site(r, shares, "revealed shares")
            kind = r.uint(1)
            if kind not in (1, 2):
                raise CodecError("revealed shares: a kind is 1 or 2")
            share = r.fixed(SHARE_BYTES)
            decode_share(share)
            shares[site] = (ShareKind(kind), share)
        r.done()
        return cls(shares)


def _next_site(r: Reader, before: Mapping[SiteId, object], what: str) -> SiteId:
    site = SiteId(r.text(most=64))
    if before and site <= next(reversed(list(before))):
        raise CodecError(f"{what}: sites must be sorted and distinct")
    return site


def encode_packets(packets: Mapping[SiteId, bytes]) -> bytes:
    """A set of packets (or heads of packets) by sender, sorted."""
    out = Writer().uint(len(packets), 2)
    for site in sorted(packets):
        out.text(site).blob(packets[site])
    return out.done()


def read_packets(r: Reader, what: str) -> dict[SiteId, bytes]:
    """Strict inverse of :func:`encode_packets`, from a reader that may go on afterwards."""
    packets: dict[SiteId, bytes] = {}
    for _ in range(r.uint(2, most=_MAX_SITES)):
        site = _next_site(r, packets, what)
        packets[site] = r.blob(most=_MAX_PACKET)
    return packets


def decode_packets(data: Buffer, what: str) -> dict[SiteId, bytes]:
    """Strict inverse of :func:`encode_packets` over all of ``data``."""
    r = Reader(data, what)
    packets = read_packets(r, what)
    r.done()
    return packets


def set_digest(label: str, packets: Mapping[SiteId, bytes]) -> bytes:
    """SHA-256 of a labelled set of packets: H(U1), H(U2), H(U3)."""
    return sha256(Writer().text(f"fedsec set v1 {label}").done(), encode_packets(packets))


def bound_context(context: bytes, statements: bytes, dealings: bytes, adapter: bytes | None = None) -> bytes:
    """The context of every message after ``share``: H(context, H(U1), H(U2)). Two sites that were shown different
    sets compute different contexts, and their signatures and masks do not fit each other.

    ``adapter``: where keys were shared before the round's adapter was known, its digest, which the context lacks then.
    """
    sets = sha256(Writer().text("fedsec sets v1").done(), context, statements, dealings)
    return sets if adapter is None else sha256(Writer().text("fedsec sets ahead v1").done(), sets, adapter)


@dataclass(frozen=True)
class ShareReply:
    """``share`` reply on the wire: the signed dealing, then one sealed pair of shares a recipient, in sorted order."""

    packet: bytes
    sealed: Sequence[bytes]

    def encode(self) -> bytes:
        """Packet, then ciphertexts of fixed size."""
        out = Writer().blob(self.packet).uint(len(self.sealed), 2)
        for box in self.sealed:
            out.fixed(box, SEALED_BYTES)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> ShareReply:
        """Strict inverse."""
        r = Reader(data, "share reply")
        packet = r.blob(most=_MAX_PACKET)
        sealed = [r.fixed(SEALED_BYTES) for _ in range(r.uint(2, most=_MAX_SITES))]
        r.done()
        return cls(packet, sealed)


@dataclass(frozen=True)
class MaskRequest:
    """``mask`` request: every dealing of U2, and the ciphertexts that are for this site, in the same order."""

    dealings: Mapping[SiteId, bytes]
    sealed: Mapping[SiteId, bytes]

    def encode(self) -> bytes:
        """Deterministic."""
        out = Writer().uint(len(self.dealings), 2)
        for site in sorted(self.dealings):
            out.text(site).blob(self.dealings[site]).fixed(self.sealed[site], SEALED_BYTES)
        return out.done()

    @classmethod
    def decode(cls, data: Buffer) -> MaskRequest:
        """Strict inverse."""
        r = Reader(data, "mask request")
        dealings: dict[SiteId, bytes] = {}
        sealed: dict[SiteId, bytes] = {}
        for _ in range(r.uint(2, most=_MAX_SITES)):
            site = _next_site(r, dealings, "mask request")
            dealings[site] = r.blob(most=_MAX_PACKET)
            sealed[site] = r.fixed(SEALED_BYTES)
        r.done()
        return cls(dealings, sealed)
