"""One encryption key for all sites of a run, made at one of them: `key-offer`, `key-deal`, `key-take`.

Every site offers a fresh X25519 key under its identity's signature. The dealer, the first site of the roster, draws the
key and seals it to each offer; its signed packet binds the whole set of offers. The coordinator carries the packets: it
learns a hash of the key, and can leave sites without one, which ends the run id. What a dealer that works for the
coordinator opens is what any site could.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedsec_secure.codec import DIGEST_BYTES, Reader, Sign, Writer, open_packet, seal, sha256
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity.agreement import agree, x25519_public
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.messages import encode_packets, read_packets, set_digest
from fedsec_secure.secrets import KEY_BYTES, SecretBytes, derive

_NONCE = bytes(12)
_SEALED_BYTES = KEY_BYTES + 16


def ceremony_context(plan: bytes, run: str, roster: bytes) -> bytes:
    """What every packet of a run's ceremony binds. ``plan``, ``roster``: digests."""
    out = Writer().text("fedsec key ceremony v1").fixed(plan, DIGEST_BYTES).text(run).fixed(roster, DIGEST_BYTES)
    return sha256(out.done())


def dealer_of(roster: Roster) -> SiteId:
    """Who makes the key: the first by name, so that nobody chooses."""
    return roster.ids[0]


def fingerprint(key: SecretBytes, context: bytes) -> bytes:
    """32 bytes that everybody may see: equal at two sites if the key is."""
    return derive(key, "fedsec v1 encryption key fingerprint", context).reveal()


@dataclass(frozen=True)
class SiteOffered:
    """A site that waits for the key: the secret half of its offer, and the signed packet with the public one."""

    me: SiteId
    context: bytes
    secret: SecretBytes = field(repr=False)
    packet: bytes = field(repr=False)

    @classmethod
    def begin(cls, me: SiteId, context: bytes, sign: Sign) -> SiteOffered:
        """A fresh key pair from the operating system."""
        secret = SecretBytes.random()
        return cls(me, context, secret, seal("key-offer", me, context, x25519_public(secret), sign))

    def record(self) -> bytes:
        """What the write-ahead record keeps (the secret included)."""
        out = Writer().text("site offered v1").text(self.me).fixed(self.context, 32)
        return out.fixed(self.secret.reveal(), 32).blob(self.packet).done()

    @classmethod
    def restore(cls, data: bytes) -> SiteOffered:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site offered v1":
            raise LocalMisuseError("the record is of another stage")
        state = cls(SiteId(r.text()), r.fixed(32), SecretBytes(r.fixed(32)), r.blob(most=1 << 12))
        r.done()
        return state


def verify_offer(site: SiteId, packet: bytes, context: bytes, roster: Roster) -> bytes:
    """The X25519 key that a site offers, 32 bytes."""
    verify = roster.verifier(site)
    r = Reader(open_packet(packet, kind="key-offer", sender=site, context=context, verify=verify), "key offer")
    public = r.fixed(KEY_BYTES)
    r.done()
    return public


def verify_offers(packets: Mapping[SiteId, bytes], context: bytes, roster: Roster) -> dict[SiteId, bytes]:
    """The whole roster's, each under its owner's identity."""
    # Check 117 (key substitution): the key is sealed to every site of the roster, and to nobody else.
    if set(packets) != set(roster.ids):
        raise PeerViolationError(f"expected the offers of all {len(roster.ids)} sites, found {len(packets)}")
    return {site: verify_offer(site, packet, context, roster) for site, packet in packets.items()}


def deal(offered: SiteOffered, offers: Mapping[SiteId, bytes], roster: Roster, sign: Sign) -> tuple[SecretBytes, bytes]:
    """At the dealer: the key, from the operating system, and the signed packet that has it sealed for each site."""
    me, context = offered.me, offered.context
    # Check 118 (key substitution): no other site makes keys.
    if me != dealer_of(roster):
        raise PeerViolationError(f"{me} makes no encryption keys in this run: {dealer_of(roster)} does")
    publics = _known(offered, offers, roster)
    key, bound = SecretBytes.random(), set_digest("key offers", offers)
    sealed = {site: _box(offered.secret, public, site, me, context + bound) for site, public in publics.items()}
    out = Writer().fixed(bound, DIGEST_BYTES).fixed(fingerprint(key, context), KEY_BYTES)
    boxes = {site: box.encrypt(_NONCE, key.reveal(), label) for site, (box, label) in sealed.items()}
    return key, seal("key-deal", me, context, out.done() + encode_packets(boxes), sign)


def take(offered: SiteOffered, offers: Mapping[SiteId, bytes], dealt: bytes, roster: Roster) -> SecretBytes:
    """At every site: the key that the dealer sealed to it, over the very offers that all sites are shown."""
    me, context, dealer = offered.me, offered.context, dealer_of(roster)
    publics = _known(offered, offers, roster)
    verify = roster.verifier(dealer)
    r = Reader(open_packet(dealt, kind="key-deal", sender=dealer, context=context, verify=verify), "key deal")
    bound, announced = r.fixed(DIGEST_BYTES), r.fixed(KEY_BYTES)
    boxes = read_packets(r, "key deal")
    r.done()
    # Check 119 (split views): the dealer was shown the same offers.
    if bound != set_digest("key offers", offers) or set(boxes) != set(roster.ids):
        raise PeerViolationError(f"{dealer} sealed the encryption key to another set of offers")
    box, label = _box(offered.secret, publics[dealer], me, dealer, context + bound)
    try:
        plain = box.decrypt(_NONCE, boxes[me], label)
    except InvalidTag:
        raise PeerViolationError(f"the encryption key that {dealer} sealed for {me} does not authenticate") from None
    if len(plain) != KEY_BYTES:
        raise PeerViolationError(f"expected an encryption key of {KEY_BYTES} bytes, found {len(plain)}")
    key = SecretBytes(plain)
    # Check 120 (split keys): the key is the one that the dealer signed for all.
    if fingerprint(key, context) != announced:
        raise PeerViolationError(f"{dealer} sealed another encryption key for {me} than it signed for all")
    return key


def _known(offered: SiteOffered, offers: Mapping[SiteId, bytes], roster: Roster) -> dict[SiteId, bytes]:
    publics = verify_offers(offers, offered.context, roster)
    # Check 121 (key substitution): what counts as this site's offer is what it made.
    if offers[offered.me] != offered.packet:
        raise PeerViolationError(f"the offer of {offered.me} came back changed")
    return publics


def _box(
    secret: SecretBytes, public: bytes, recipient: SiteId, dealer: SiteId, bound: bytes
) -> tuple[ChaCha20Poly1305, bytes]:
    """The key is fresh for dealer, recipient and the set of offers, and seals once, so the nonce is zero."""
    shared = agree(secret, public, recipient)
    key = derive(shared, "fedsec v1 encryption key box", bound, dealer.encode(), recipient.encode())
    label = Writer().text("fedsec encryption key box v1").text(dealer).text(recipient).done()
    return ChaCha20Poly1305(key.reveal()), label + bound
