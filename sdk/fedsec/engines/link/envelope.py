"""The frames that an engine carries, and what they hold: a greeting, a sealed request, or words when neither can be."""

from __future__ import annotations

from fedsec.engines.link.messages import MAX_REASON
from fedsec_secure.codec import Buffer, Reader, Writer
from fedsec_secure.errors import CodecError, TransportError
from fedsec_secure.identity.channel import MAX_HANDSHAKE
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.record.entries import printable

GREETING, SEALED, REFUSED, UNKNOWN = 1, 2, 3, 4


def greeting(site: SiteId, hello: bytes) -> bytes:
    """A site's first frame. The name is only which key to try."""
    return Writer().uint(GREETING, 1).text(site).blob(hello).done()


def open_greeting(frame: Buffer) -> tuple[SiteId, bytes]:
    """The name and the signed message; CodecError."""
    r = Reader(frame, "greeting of the link")
    if (kind := r.uint(1)) != GREETING:
        raise CodecError(f"expected a frame of kind {GREETING} or {SEALED} over the link, found {kind}")
    site, hello = SiteId(r.text(most=64)), r.blob(most=MAX_HANDSHAKE)
    r.done()
    return site, hello


def welcomed(answer: bytes) -> bytes:
    """The coordinator's answer to a greeting."""
    return Writer().uint(GREETING, 1).blob(answer).done()


def sealed(frame: bytes) -> bytes:
    """A frame of a channel, either way."""
    return bytes([SEALED]) + frame


def refused(reason: str) -> bytes:
    """Why there is no answer. Nobody signs it: for people, never for deciding."""
    return Writer().uint(REFUSED, 1).text(printable(reason)).done()


UNKNOWN_SESSION = bytes([UNKNOWN])
"""The coordinator's process is another one than before: greet it again."""


def open_answer(frame: bytes, expected: int) -> bytes:
    """What an answer of the ``expected`` kind holds.

    SessionLostError where the coordinator does not know the session; TransportError with its words where it refuses;
    CodecError for anything else.
    """
    kind = frame[0] if frame else 0
    if frame == UNKNOWN_SESSION:
        raise SessionLostError("the coordinator started anew")
    if kind == REFUSED:
        r = Reader(frame[1:], "refusal of the link")
        words = r.text(most=MAX_REASON)
        r.done()
        raise TransportError(f"the other end says: {printable(words)}")
    if kind != expected:
        raise CodecError(f"expected a frame of kind {expected} over the link, found {kind}")
    if kind == SEALED:
        return frame[1:]
    r = Reader(frame[1:], "welcome of the link")
    answer = r.blob(most=MAX_HANDSHAKE)
    r.done()
    return answer


class SessionLostError(TransportError):
    """The coordinator does not know this session: it was started again."""
