"""A channel between a site's process and the coordinator's, through an engine that only delivers bytes.

SIGMA (Krawczyk 2003, section 5.1) with the identities in clear: one signed message each way with a fresh X25519 key,
the second of which signs the first, then requests and replies under AES-256-GCM. Keys are HKDF of the shared secret and
of both signed messages, one for each direction. Every request has a number that only rises, and its reply carries the
same one: what an engine repeats, reorders, alters or makes up does not open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedsec_secure.codec import DIGEST_BYTES, Buffer, Reader, Sign, Writer, open_packet, seal, sha256
from fedsec_secure.errors import CodecError, LocalMisuseError, PeerViolationError, VerificationError
from fedsec_secure.identity.agreement import agree, x25519_public
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.secrets import SecretBytes, derive

SESSION_BYTES = 16
OVERHEAD = SESSION_BYTES + 8 + 16
"""Bytes that a frame is longer than what it carries."""
MAX_HANDSHAKE = 1024
_KEY, _NUMBERS = 32, 1 << 63


def link_context(plan: bytes) -> bytes:
    """What both signed messages bind: the plan's digest and what they are for."""
    return sha256(Writer().text("fedsec link v1").fixed(plan, DIGEST_BYTES).done())


@dataclass
class Channel:
    """One side of a channel. ``sending`` and ``receiving`` are the directions' keys; frames are numbered from 1."""

    session: bytes
    sending: SecretBytes = field(repr=False)
    receiving: SecretBytes = field(repr=False)
    newest: int = 0
    """The number of the newest request that this side made or accepted."""

    def seal(self, plain: Buffer, number: int) -> bytes:
        """``session | number | ciphertext``. No number may seal twice in one direction: the callers below see to it."""
        label = self.session + number.to_bytes(8, "big")
        return label + AESGCM(self.sending.reveal()).encrypt(_nonce(number), plain, label)

    def open(self, number: int, sealed: Buffer) -> bytes:
        """VerificationError for what the other side did not seal under this number."""
        label = self.session + number.to_bytes(8, "big")
        try:
            return AESGCM(self.receiving.reveal()).decrypt(_nonce(number), sealed, label)
        except InvalidTag:
            raise VerificationError("a frame of the link does not authenticate") from None


class SiteChannel:
    """The site's side: one request at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def call(self, plain: Buffer, deliver: Callable[[bytes], bytes]) -> bytes:
        """The reply to one request. What ``deliver`` raises comes out; the next request has a new number.

        VerificationError or CodecError for a reply that is not the coordinator's to this request.
        """
        self._channel.newest += 1
        number = self._channel.newest
        session, found, sealed = split(deliver(self._channel.seal(plain, number)))
        if (session, found) != (self._channel.session, number):
            raise VerificationError("a reply of the link belongs to another request")
        return self._channel.open(number, sealed)


class CoordinatorChannel:
    """The coordinator's side of one site's channel."""

    def __init__(self, site: SiteId, channel: Channel) -> None:
        self.site = site
        self._channel = channel

    @property
    def session(self) -> bytes:
        """16 bytes that name it."""
        return self._channel.session

    def serve(self, frame: Buffer, answer: Callable[[bytes], Buffer]) -> bytes:
        """Open a request, and seal what ``answer`` gives for it. VerificationError for anything but a new request."""
        session, number, sealed = split(frame)
        # Check 130 (replay): a request is served once; an engine that repeats one gets nothing.
        if session != self._channel.session or not self._channel.newest < number < _NUMBERS:
            raise VerificationError("a request of the link was made before, or in another session")
        plain = self._channel.open(number, sealed)
        self._channel.newest = number
        return self._channel.seal(answer(plain), number)


@dataclass(frozen=True)
class Opening:
    """A site's first message, and the secret that goes with it."""

    site: SiteId
    packet: bytes
    secret: SecretBytes = field(repr=False)

    @classmethod
    def make(cls, site: SiteId, plan: bytes, says: str, sign: Sign) -> Opening:
        """``plan``: its digest. ``says``: the site's software versions, for people; at most 200 characters."""
        secret = SecretBytes.random()
        body = Writer().fixed(x25519_public(secret), _KEY).text(says).done()
        return cls(site, seal("link-hello", site, link_context(plan), body, sign), secret)

    def finish(self, welcome: bytes, plan: bytes, roster: Roster) -> tuple[SiteChannel, str]:
        """The channel, and what the coordinator says of its software.

        Raises:
            VerificationError: not signed by the plan's coordinator.
            PeerViolationError: signed for another plan or another site's message.
            CodecError: not a welcome.
        """
        bound = sha256(link_context(plan), sha256(self.packet))
        # Who answers holds the key of the plan's coordinator, and answers this message.
        body = open_packet(
            welcome,
            kind="link-welcome",
            sender=COORDINATOR,
            context=bound,
            verify=roster.verifier(COORDINATOR),
        )
        public, says = _parse(body)
        channel = _channel(agree(self.secret, public, COORDINATOR), self.packet, welcome, at_site=True)
        return SiteChannel(channel), says


def welcome(
    hello: bytes, claimed: SiteId, plan: bytes, roster: Roster, says: str, sign: Sign
) -> tuple[CoordinatorChannel, bytes, str]:
    """The coordinator's side of a site's first message: channel, answer, and what the site says of its software.

    ``claimed``: the site that the message names; PeerViolationError where the roster lacks it, or the message is
    for another plan, VerificationError where that site did not sign it.
    """
    if claimed not in roster.sites:
        raise PeerViolationError(f"expected a site of the pinned roster, found {claimed!r}")
    # Nobody speaks for a site but who holds its pinned key, whatever name the engine gives.
    body = open_packet(
        hello, kind="link-hello", sender=claimed, context=link_context(plan), verify=roster.verifier(claimed)
    )
    public, theirs = _parse(body)
    secret = SecretBytes.random()
    mine = Writer().fixed(x25519_public(secret), _KEY).text(says).done()
    bound = sha256(link_context(plan), sha256(hello))
    answer = seal("link-welcome", COORDINATOR, bound, mine, sign)
    channel = _channel(agree(secret, public, claimed), hello, answer, at_site=False)
    return CoordinatorChannel(claimed, channel), answer, theirs


def split(frame: Buffer) -> tuple[bytes, int, memoryview]:
    """Session, number and ciphertext; CodecError for what is too short."""
    if len(frame) < OVERHEAD:
        raise CodecError(f"a frame of the link has at least {OVERHEAD} bytes; found {len(frame)}")
    number = int.from_bytes(frame[SESSION_BYTES : SESSION_BYTES + 8], "big")
    return bytes(frame[:SESSION_BYTES]), number, memoryview(frame)[SESSION_BYTES + 8 :]


def _parse(body: memoryview) -> tuple[bytes, str]:
    r = Reader(body, "link handshake")
    public, says = r.fixed(_KEY), r.text(most=200)
    r.done()
    if not says.isprintable():
        raise PeerViolationError("a handshake of the link names its software in printable text")
    return public, says


def _nonce(number: int) -> bytes:
    if not 0 < number < _NUMBERS:
        raise LocalMisuseError("a channel of the link has no numbers left")
    return number.to_bytes(12, "big")


def _channel(shared: SecretBytes, hello: bytes, answer: bytes, *, at_site: bool) -> Channel:
    seen = sha256(sha256(hello), sha256(answer))
    to_coordinator = derive(shared, "fedsec v1 link to coordinator", seen)
    to_site = derive(shared, "fedsec v1 link to site", seen)
    session = derive(shared, "fedsec v1 link session", seen).reveal()[:SESSION_BYTES]
    return Channel(session, to_coordinator, to_site) if at_site else Channel(session, to_site, to_coordinator)
