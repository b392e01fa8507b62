"""Key agreement and every key derivation of a masked round, one line each."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedsec_secure.codec import Writer, sha256
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.agreement import agree
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.tag import field_element
from fedsec_secure.numeric.shamir import SHARE_BYTES
from fedsec_secure.secrets import SecretBytes, derive

_NONCE = bytes(12)


@dataclass(frozen=True)
class Mask:
    """One mask: the keystream key for the vector, and a field element for the tag, under labels of their own."""

    vector: SecretBytes = field(repr=False)
    tag: int = field(repr=False)


def pair_mask(secret: SecretBytes, public: bytes, me: SiteId, peer: SiteId, bound: bytes) -> Mask:
    """A pair's mask: HKDF(X25519, "pair mask", bound, smaller id, larger id)."""
    low, high = sorted((me, peer))
    return _mask(agree(secret, public, peer), "pair", bound, low.encode(), high.encode())


def self_mask(seed: SecretBytes, site: SiteId, bound: bytes) -> Mask:
    """A site's own mask: HKDF(b, "self mask", bound, site)."""
    return _mask(seed, "self", bound, site.encode())


def _mask(secret: SecretBytes, whose: str, *parts: bytes) -> Mask:
    return Mask(
        derive(secret, f"fedsec v1 {whose} mask vector", *parts),
        field_element(secret, f"fedsec v1 {whose} mask tag", *parts),
    )


def rounding_key(secret: SecretBytes, *parts: bytes) -> SecretBytes:
    """Key of the rounding coins: HKDF(site secret; plan, run, round, weight, H(update)). Without the attempt, so that
    a repeat encodes the same integers; under the site's secret, so that nobody else can predict them.
    """
    return derive(secret, "fedsec v1 rounding coins", *parts)


def seed_hash(seed: SecretBytes, site: SiteId, context: bytes) -> bytes:
    """H(b): lets everyone recognise the recovered self-mask seed, without telling anything about 32 random bytes."""
    return sha256(Writer().text("fedsec self seed v1").text(site).done(), context, seed.reveal())


def tag_seed_hash(seed: SecretBytes, site: SiteId, context: bytes) -> bytes:
    """H(rho): every recipient sees that it got what all the others got."""
    return sha256(Writer().text("fedsec tag seed v1").text(site).done(), context, seed.reveal())


def share_hash(kind: int, share: bytes, dealer: SiteId, recipient: SiteId, context: bytes) -> bytes:
    """The dealer's signed hash of one share, by which a corrupted one is recognised and its sender named."""
    return sha256(Writer().text("fedsec share v1").uint(kind, 1).text(dealer).text(recipient).done(), context, share)


def _box_key(shared: SecretBytes, context: bytes, dealer: SiteId, recipient: SiteId) -> tuple[ChaCha20Poly1305, bytes]:
    key = derive(shared, "fedsec v1 share box", context, dealer.encode(), recipient.encode())
    return ChaCha20Poly1305(key.reveal()), Writer().text("fedsec share box v1").text(dealer).text(recipient).done()


@dataclass(frozen=True)
class Dealt:
    """What one dealer gives one recipient: a share of its self-mask seed, one of its mask key, and its tag seed rho."""

    self_share: bytes = field(repr=False)
    key_share: bytes = field(repr=False)
    tag_seed: SecretBytes = field(repr=False)


def seal_dealt(shared: SecretBytes, dealt: Dealt, dealer: SiteId, recipient: SiteId, context: bytes) -> bytes:
    """Under ChaCha20-Poly1305. The key is fresh for dealer, recipient and context (statements included), and seals
    once, so the nonce is zero.
    """
    box, label = _box_key(shared, context, dealer, recipient)
    plain = dealt.self_share + dealt.key_share + dealt.tag_seed.reveal()
    return box.encrypt(_NONCE, plain, label + context)


def open_dealt(shared: SecretBytes, sealed: bytes, dealer: SiteId, recipient: SiteId, context: bytes) -> Dealt:
    """Inverse of :func:`seal_dealt`; PeerViolationError where it does not authenticate."""
    box, label = _box_key(shared, context, dealer, recipient)
    try:
        plain = box.decrypt(_NONCE, sealed, label + context)
    except InvalidTag:
        raise PeerViolationError(f"the shares that {dealer} sealed for {recipient} do not authenticate") from None
    shares = plain[: 2 * SHARE_BYTES]
    return Dealt(shares[:SHARE_BYTES], shares[SHARE_BYTES:], SecretBytes(plain[2 * SHARE_BYTES :]))
