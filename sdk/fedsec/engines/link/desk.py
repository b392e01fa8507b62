"""The coordinator's end of all links: answers what sites ask, each under its own channel. Safe for threads."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock

from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.engines.link import envelope
from fedsec.engines.link.messages import (
    Announce,
    Answer,
    Gone,
    Heard,
    Next,
    Nothing,
    Over,
    Pull,
    Push,
    Refuse,
    Request,
    Rest,
    decode_request,
    encode_answer,
)
from fedsec.engines.link.orders import Errand, Line, digest
from fedsec_secure.codec import Sign
from fedsec_secure.errors import FedsecError, PeerViolationError
from fedsec_secure.identity.channel import SESSION_BYTES, CoordinatorChannel, welcome
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.record.entries import printable

_KEPT = 4
"""Greetings of a site that were not used yet: an engine may repeat old ones."""
LONGEST_WAIT = 20.0
"""Seconds that a question for something to do may stay open."""


@dataclass
class _Session:
    channel: CoordinatorChannel
    lock: Lock = field(default_factory=Lock)
    used: bool = False


@dataclass(frozen=True)
class Terms:
    """What a desk is for: one plan, its parties, this coordinator's signature, and words about its software."""

    plan: bytes
    roster: Roster
    sign: Sign = field(repr=False)
    says: str


class Desk:
    """Orders go out and replies come in. ``incoming``: a folder for uploads that are not whole."""

    def __init__(self, terms: Terms, incoming: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._terms = terms
        self._incoming = incoming
        self._clock = clock
        self._changed = Condition()
        self._sessions: dict[bytes, _Session] = {}
        self._lines = {site: Line() for site in terms.roster.sites}
        self._errands: dict[SiteId, Errand] = {}
        # Not from 1: what a site still sends for an order of a process before must not pass for one of this process.
        self._numbers = itertools.count(1 + secrets.randbits(62))
        self._resting = False
        self._over: str | None = None
        self._told: set[SiteId] = set()
        self._most_upload = 0
        self._failure: OSError | None = None
        self.refused: str | None = None
        """The newest reason why a greeting was not accepted, for people."""

    # ---- the engine's side

    def answer(self, frame: bytes) -> bytes:
        """To one frame of whoever sent it. Never raises: what cannot be answered is refused in words."""
        try:
            if frame[:1] == bytes([envelope.SEALED]):
                return self._served(memoryview(frame)[1:])
            return self._greeted(frame)
        except FedsecError as e:
            return envelope.refused(f"{type(e).__name__}: {e}")

    def _greeted(self, frame: bytes) -> bytes:
        claimed, hello = envelope.open_greeting(frame)
        terms = self._terms
        try:
            channel, answer, _ = welcome(hello, claimed, terms.plan, terms.roster, terms.says, terms.sign)
        except FedsecError as e:
            self.refused = f"a greeting in the name of {claimed!r}: {e}"
            raise
        with self._changed:
            waiting = [s for s, x in self._sessions.items() if x.channel.site == claimed and not x.used]
            for session in waiting[: max(0, len(waiting) - _KEPT + 1)]:
                del self._sessions[session]
            self._sessions[channel.session] = _Session(channel)
        return envelope.welcomed(answer)

    def _served(self, frame: memoryview) -> bytes:
        with self._changed:
            session = self._sessions.get(bytes(frame[:SESSION_BYTES]))
        if session is None:
            return envelope.UNKNOWN_SESSION
        with session.lock:
            return envelope.sealed(session.channel.serve(frame, lambda plain: self._reply(session, plain)))

    def _reply(self, session: _Session, plain: bytes) -> bytes:
        site = session.channel.site
        with self._changed:
            if not session.used:
                session.used = True
                older = [s for s, x in self._sessions.items() if x.channel.site == site and x.used and x is not session]
                for key in older:
                    del self._sessions[key]
            self._lines[site].heard = self._clock()
        return encode_answer(self._handle(site, decode_request(plain)))

    # ---- what sites ask

    def _handle(self, site: SiteId, message: Request) -> Answer:
        if isinstance(message, Next):
            return self._next(site, message)
        if isinstance(message, Heard):
            return self._heard_of_the_end(site)
        with self._changed:
            errand = self._errands.get(site)
        if errand is None or errand.number != message.order:
            return Gone()
        try:
            with errand.lock:  # hashing and writing of one site's bytes keep no other site waiting
                return self._on(errand, message) if errand.open else Gone()
        except PeerViolationError as e:
            errand.lost = f"PeerViolationError: {e}"
            return Gone()
        except OSError as e:
            self._failure = e
            return Gone()
        finally:
            if not errand.open or self._failure:
                with self._changed:
                    self._changed.notify_all()

    def _on(self, errand: Errand, message: Pull | Announce | Push | Refuse) -> Answer:
        line, now = self._lines[errand.site], self._clock()
        if isinstance(message, Pull):
            return errand.pull(message, line, now)
        if isinstance(message, Announce):
            return errand.announce(message, now)
        if isinstance(message, Push):
            return errand.push(message, line, now)
        errand.lost = printable(message.reason)
        return Nothing()

    def _next(self, site: SiteId, message: Next) -> Answer:
        until = self._clock() + min(message.wait_ms / 1000, LONGEST_WAIT)
        with self._changed:
            while True:
                errand = self._errands.get(site)
                if errand is not None and errand.open:
                    if errand.number != message.busy:
                        if message.busy:
                            errand.held_up(self._clock())
                        return errand.order()
                    errand.works(self._clock())
                if self._over is not None:
                    return Over(self._over)
                if self._resting:
                    return Rest()
                left = until - self._clock()
                if left <= 0:
                    return Nothing()
                self._changed.wait(left)

    def _heard_of_the_end(self, site: SiteId) -> Answer:
        with self._changed:
            if self._over is not None:
                self._told.add(site)
        return Nothing()

    # ---- the coordinator's side

    def expect(self, most_upload: int) -> None:
        """Uploads have at most so many bytes: what announces more is lost before anything of it is kept."""
        self._most_upload = most_upload

    def post(self, exchange: Exchange, spool: Path) -> None:
        """An order for every site of the exchange."""
        same = {id(request): request for request in exchange.requests.values()}
        digests = {key: digest(request) for key, request in same.items()}
        with self._changed:
            self._failure = None
            for site, request in exchange.requests.items():
                sha256 = digests[id(request)]
                name = f"{exchange.round:04d}-{exchange.attempt}-{exchange.name}-{site}"
                number, now = next(self._numbers), self._clock()
                files = (spool / name, self._incoming, self._most_upload)
                self._errands[site] = Errand(number, site, exchange.name, request, sha256, now, *files)
            self._changed.notify_all()

    def wait(self, exchange: Exchange, away: float, seconds: float) -> frozenset[SiteId]:
        """The sites that have not answered, after at most ``seconds``; who is too late is lost by then.

        Raises OSError where what sites sent could not be written.
        """
        until = self._clock() + seconds
        with self._changed:
            while True:
                now = self._clock()
                for errand in self._errands.values():
                    if errand.open:
                        why = errand.late(self._lines[errand.site], now, exchange.deadline, away)
                        if why is not None:
                            errand.lose(why)
                if self._failure is not None:
                    raise self._failure
                waiting = frozenset(s for s, errand in self._errands.items() if errand.open)
                if not waiting or now >= until:
                    return waiting
                self._changed.wait(until - now)

    def outcome(self) -> Outcome:
        """What came of the orders; they are withdrawn."""
        with self._changed:
            errands = dict(sorted(self._errands.items()))
            self._errands = {}
        for errand in errands.values():
            with errand.lock:
                errand.withdraw()
        replies = {s: e.reply for s, e in errands.items() if e.reply is not None}
        lost = {s: str(e.lost) for s, e in errands.items() if e.reply is None}
        return Outcome(replies, lost)

    def untold(self) -> frozenset[SiteId]:
        """Who has not said yet that it knows of the end: the answer that told it may have been lost."""
        with self._changed:
            return frozenset(self._lines) - self._told

    def roster(self) -> frozenset[SiteId]:
        """Whom it answers."""
        return frozenset(self._lines)

    def heard(self) -> Mapping[SiteId, float]:
        """Seconds since each site that ever said anything did."""
        with self._changed:
            now = self._clock()
            return {s: now - line.heard for s, line in self._lines.items() if line.heard is not None}

    def rates(self) -> Mapping[SiteId, float]:
        """Bytes a second over each site's link, as measured so far."""
        with self._changed:
            return {s: line.rate for s, line in self._lines.items() if line.heard is not None}

    def rest(self, resting: bool) -> None:
        """Whether the connections that there are should end."""
        with self._changed:
            self._resting = resting
            self._changed.notify_all()

    def close(self, words: str) -> None:
        """The run is over: sites are told, in these words, whenever they ask."""
        with self._changed:
            self._over = printable(words)
            self._changed.notify_all()
