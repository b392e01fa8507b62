"""A site's end of the link: asks for exchanges, has the site's agent answer them, and sends the replies, in pieces.

The agent works on a thread of its own and goes on when the engine's connection breaks; whoever asks the same again
waits for the same work. What is sent of a reply is not sent again.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from fedsec.coordinator.exchange import Reply
from fedsec.engines.link import envelope
from fedsec.engines.link.messages import (
    Announce,
    Answer,
    Gone,
    Have,
    Heard,
    Next,
    Nothing,
    Order,
    Over,
    Piece,
    Pull,
    Push,
    Refuse,
    Request,
    Rest,
    decode_answer,
    encode_request,
    largest_piece,
)
from fedsec_secure.codec import Sign
from fedsec_secure.errors import (
    CodecError,
    FedsecError,
    LocalMisuseError,
    PeerViolationError,
    TransportError,
    VerificationError,
)
from fedsec_secure.identity.channel import Opening, SiteChannel
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.record.entries import printable

Deliver = Callable[[bytes], bytes]
"""One frame to the coordinator, and its answer. UndeliveredError where it may be tried again; LineEndedError."""
Handle = Callable[[str, bytes], Reply]

MAX_REQUEST: Final = (1 << 32) - 1
_LEAST_PIECE, _PIECE_SECONDS = 1 << 14, 2.0
_GREETINGS = 30
"""Greetings in a row without a welcome of the plan's coordinator, over about seven minutes."""


class UndeliveredError(TransportError):
    """No answer to a frame came: the way to the coordinator is cut, or slow. It may be tried again."""


class LineEndedError(TransportError):
    """The engine's connection ended: another one follows."""


@dataclass(frozen=True)
class SiteTerms:
    """Who a station speaks for, under which plan and to whom."""

    site: SiteId
    plan: bytes
    roster: Roster
    sign: Sign = field(repr=False)
    says: str


@dataclass(frozen=True)
class Pace:
    """Seconds that a site waits for something to do, for its agent before it says that it works, and to try again; and
    the bytes of the first piece.
    """

    idle: float = 15.0
    pulse: float = 5.0
    again: float = 1.0
    piece: int = 1 << 18


@dataclass
class _Work:
    """One exchange that the agent works on, or has answered."""

    name: str
    sha256: bytes
    future: Future[Reply]
    number: int
    announced: tuple[bool, int, bytes] | None = None


class Station:
    """One site under one plan, over any number of connections, one after the other."""

    def __init__(
        self,
        terms: SiteTerms,
        handle: Handle,
        report: Callable[[dict[str, object]], None],
        pace: Pace | None = None,
    ) -> None:
        self._terms = terms
        self._handle = handle
        self._report = report
        self._pace = pace or Pace()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="exchange")
        self._work: _Work | None = None
        self._piece = self._pace.piece

    def close(self) -> None:
        """Wait for the answer that is being made; work that has not begun is dropped. What the agent works with may be
        closed only after this.
        """
        self._threads.shutdown(wait=True, cancel_futures=True)

    def serve(self, deliver: Deliver) -> str | None:
        """Over one connection: until it ends (None), or until the run is over (the coordinator's words).

        Raises what the agent raises that is no FedsecError, LineEndedError, and, where for minutes nobody welcomes it
        who is the plan's coordinator, the last reason: VerificationError, PeerViolationError, CodecError or
        TransportError.
        """
        channel = self._greet(deliver)
        while True:
            try:
                end = self._turn(channel, deliver)
            except LineEndedError:
                raise
            except (TransportError, VerificationError, CodecError) as e:
                # Nothing is decided by what did not authenticate, or by a desk that starts anew: greet it again.
                self._report({"event": "undelivered", "reason": str(e)})
                time.sleep(self._pace.again)
                channel = self._greet(deliver)
                continue
            if isinstance(end, Over):
                with suppress(TransportError, VerificationError, CodecError):  # then the coordinator waits in vain
                    channel.call(encode_request(Heard()), lambda frame: _carried(frame, deliver))
                return printable(end.words)
            if isinstance(end, Rest):
                return None

    def _greet(self, deliver: Deliver) -> SiteChannel:
        terms, refused = self._terms, 0
        while True:
            opening = Opening.make(terms.site, terms.plan, terms.says, terms.sign)
            try:
                answer = envelope.open_answer(deliver(envelope.greeting(terms.site, opening.packet)), envelope.GREETING)
                channel, says = opening.finish(answer, terms.plan, terms.roster)
            except LineEndedError:
                raise
            except UndeliveredError as e:
                self._report({"event": "undelivered", "reason": str(e)})
            except (TransportError, VerificationError, PeerViolationError, CodecError) as e:
                # An engine can make all of these up: a few of them end nothing.
                refused += 1
                if refused == _GREETINGS:
                    raise
                self._report({"event": "not-welcome", "reason": str(e)})
            else:
                self._report({"event": "connected", "coordinator": says})
                return channel
            time.sleep(max(refused, 1) * self._pace.again)

    def _ask(self, channel: SiteChannel, deliver: Deliver, request: Callable[[], Request]) -> Answer:
        """Until it is answered. Where the answer alone was lost, asking again changes nothing.

        ``request`` is made anew for each try: a piece that is too large for the time that the engine gives is cut.
        """
        while True:
            try:
                return decode_answer(channel.call(encode_request(request()), lambda frame: _carried(frame, deliver)))
            except UndeliveredError as e:
                self._report({"event": "undelivered", "reason": str(e)})
                self._piece = max(min(self._piece // 2, self._pace.piece), _LEAST_PIECE)
                time.sleep(self._pace.again)

    # ---- one turn: deliver what is ready, or take what there is to do

    def _turn(self, channel: SiteChannel, deliver: Deliver) -> Answer:
        work = self._work
        if work is not None:
            try:
                work.future.exception(self._pace.pulse)
            except FutureTimeoutError:
                return self._take(channel, deliver, Next(0, work.number))
            self._send(channel, deliver, work)
            self._work = None
        return self._take(channel, deliver, Next(round(1000 * self._pace.idle), 0))

    def _take(self, channel: SiteChannel, deliver: Deliver, question: Next) -> Answer:
        answer = self._ask(channel, deliver, lambda: question)
        if isinstance(answer, Nothing | Rest | Over):
            return answer
        if not isinstance(answer, Order):
            raise CodecError(f"the coordinator's desk answers {type(answer).__name__} where there is something to do")
        work = self._work
        if work is not None:
            if (work.name, work.sha256) == (answer.name, answer.sha256):
                work.number = answer.order
            return Nothing()  # something else has to wait until the agent is free
        body = self._pull(channel, deliver, answer)
        if body is not None:
            self._report({"event": "asked", "exchange": answer.name, "bytes": answer.size})
            future = self._threads.submit(self._handle, answer.name, body)
            self._work = _Work(answer.name, answer.sha256, future, answer.order)
        return Nothing()

    def _pull(self, channel: SiteChannel, deliver: Deliver, order: Order) -> bytes | None:
        """The request, whole and of the digest that the order names; None where it is not waited for any more."""
        if order.size > MAX_REQUEST:
            raise CodecError(f"a request has at most {MAX_REQUEST} bytes; announced: {order.size}")
        body, digest = io.BytesIO(), hashlib.sha256()
        while (at := body.tell()) < order.size:
            began = time.monotonic()
            answer = self._ask(channel, deliver, partial(self._pull_next, order, at))
            if isinstance(answer, Gone):
                return None
            if not isinstance(answer, Piece) or not 0 < len(answer.data) <= order.size - body.tell():
                raise CodecError("a piece of a request is missing, empty or longer than the request")
            body.write(answer.data)
            digest.update(answer.data)
            self._adapt(time.monotonic() - began)
        if digest.digest() != order.sha256:
            raise CodecError("a request is not the one that was announced")
        return body.getvalue()  # the same bytes, not another copy

    def _pull_next(self, order: Order, at: int) -> Pull:
        return Pull(order.order, at, min(self._piece, order.size - at))

    def _push_next(self, number: int, reply: Reply, at: int) -> Push:
        piece = _part(reply, at, self._piece)
        if not piece:
            raise LocalMisuseError("a reply's file was shortened while it was sent: nothing else may write to it")
        return Push(number, at, memoryview(piece))

    def _send(self, channel: SiteChannel, deliver: Deliver, work: _Work) -> None:
        failure = work.future.exception()
        if isinstance(failure, FedsecError):
            self._report({"event": "refusing", "exchange": work.name, "reason": str(failure)})
            reason = printable(f"{type(failure).__name__}: {failure}")
            self._ask(channel, deliver, lambda: Refuse(work.number, reason))
            return
        if failure is not None:
            own = Refuse(work.number, "the site met an error of its own, and stopped")
            self._ask(channel, deliver, lambda: own)
            raise failure
        reply = work.future.result()
        if work.announced is None:
            work.announced = _measured(reply)
        upload, size, sha256 = work.announced
        announced = Announce(work.number, upload, size, sha256)
        answer = self._ask(channel, deliver, lambda: announced)
        sent = False
        while isinstance(answer, Have) and answer.size < size:
            began = time.monotonic()
            push = partial(self._push_next, work.number, reply, answer.size)
            answer, sent = self._ask(channel, deliver, push), True
            self._adapt(time.monotonic() - began)
        event = "dropped" if isinstance(answer, Gone) else "sent"
        self._report({"event": event, "exchange": work.name, "bytes": size if sent else 0})

    def _adapt(self, seconds: float) -> None:
        """Pieces as large as go through in about two seconds: a cut costs no more than that."""
        if seconds < _PIECE_SECONDS / 2:
            self._piece = min(2 * self._piece, largest_piece(len(self._terms.roster.sites)))
        elif seconds > 2 * _PIECE_SECONDS:
            self._piece = max(self._piece // 2, _LEAST_PIECE)


def _carried(frame: bytes, deliver: Deliver) -> bytes:
    return envelope.open_answer(deliver(envelope.sealed(frame)), envelope.SEALED)


def _measured(reply: Reply) -> tuple[bool, int, bytes]:
    """Whether it is a file, its size and SHA-256."""
    if isinstance(reply, Path):
        with reply.open("rb") as source:
            return True, reply.stat().st_size, hashlib.file_digest(source, "sha256").digest()
    return False, len(reply), hashlib.sha256(reply).digest()


def _part(reply: Reply, offset: int, length: int) -> bytes:
    if isinstance(reply, bytes):
        return reply[offset : offset + length]
    with reply.open("rb") as source:
        source.seek(offset)
        return source.read(length)
