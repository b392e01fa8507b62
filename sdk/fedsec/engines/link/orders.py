"""One exchange with one site at the coordinator: its request goes out and its reply comes in, in pieces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from fedsec.coordinator.exchange import Reply
from fedsec.engines.link.incoming import Buffered, Spooled
from fedsec.engines.link.messages import Announce, Have, Order, Piece, Pull, Push
from fedsec.spool import read_chunks
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import SiteId

LOWEST_RATE: Final = 31_250.0
"""Bytes a second (0.25 Mbit/s): a link that is slower than this for three times as long as its bytes need is lost."""
FIRST_RATE: Final = 500_000.0
"""Bytes a second (4 Mbit/s): what is assumed of a link until it is measured."""
_LEAST_SECONDS = 60.0
_QUIET = 20.0
"""A site at work says so every five seconds."""
_TRIES = 3


@dataclass
class Line:
    """What the coordinator knows of its link to a site, in seconds of a monotonic clock."""

    heard: float | None = None
    """When it last said anything."""
    rate: float = FIRST_RATE
    """Bytes a second, smoothed."""

    def measure(self, size: int, seconds: float) -> None:
        """Another piece went through."""
        if size >= 1 << 14 and seconds > 0:
            self.rate += 0.3 * (size / seconds - self.rate)

    def allowance(self, size: int) -> float:
        """Seconds that so many bytes may take."""
        return _LEAST_SECONDS + 3 * size / max(self.rate, LOWEST_RATE)


@dataclass
class Errand:
    """An order that is open."""

    number: int
    site: SiteId
    name: str
    request: bytes = field(repr=False)
    sha256: bytes
    posted: float
    target: Path
    """Where an upload is to lie."""
    incoming: Path
    """The folder of uploads that are not whole."""
    most_upload: int
    lock: Lock = field(default_factory=Lock, repr=False)
    """Held by whoever moves its bytes."""
    pulled: float | None = None
    """When the site had the whole request."""
    announced: Announce | None = None
    replying: float | None = None
    """When the site announced its reply."""
    reply: Reply | None = None
    lost: str | None = None
    _incoming: Buffered | Spooled | None = field(default=None, repr=False)
    _tries: int = 0
    _moved: float = 0.0
    """When the piece before went through."""
    _free_since: float = 0.0
    """When it last said that it works on another order."""

    @property
    def open(self) -> bool:
        """Neither answered nor lost."""
        return self.reply is None and self.lost is None

    def order(self) -> Order:
        """What the site is told."""
        return Order(self.number, self.name, len(self.request), self.sha256)

    def pull(self, message: Pull, line: Line, now: float) -> Piece:
        """A part of the request."""
        piece = memoryview(self.request)[message.offset : message.offset + message.length]
        if message.offset:
            line.measure(len(piece), now - self._moved)
        self._moved = now
        if message.offset + len(piece) >= len(self.request):
            self.works(now)
        return Piece(piece)

    def works(self, now: float) -> None:
        """The site has the whole request: from now, or from before this process, which it does not ask for again."""
        self.pulled = now if self.pulled is None else self.pulled

    def announce(self, message: Announce, now: float) -> Have:
        """A reply begins, or goes on where it broke off. PeerViolationError for one that is too large."""
        if message.upload and message.size > self.most_upload:
            raise PeerViolationError(
                f"an upload of this plan has at most {self.most_upload} bytes; {self.site} announced {message.size}"
            )
        if message.upload and self.announced is None and self._lies_whole(message):
            self.announced, self.replying, self.reply = message, now, self.target
            return Have(message.size)
        if self.announced not in (None, message):
            self._miss()
        if self._incoming is None:
            self.announced, self._incoming = message, self._new(message)
        self.replying = now if self.replying is None else self.replying
        self.works(now)
        self._moved = now
        self._finish()
        return Have(self._incoming.size if self.reply is None else message.size)

    def _lies_whole(self, message: Announce) -> bool:
        """Whether it came before the coordinator was killed, in an exchange that was not over by then."""
        if not self.target.is_file() or self.target.stat().st_size != message.size:
            return False
        found = hashlib.sha256()
        for chunk in read_chunks(self.target):
            found.update(chunk)
        return found.digest() == message.sha256

    def push(self, message: Push, line: Line, now: float) -> Have:
        """A part of the reply; what does not follow the part before is not added."""
        if self.announced is None or self._incoming is None:
            raise PeerViolationError(f"{self.site} sends a reply that it did not announce")
        if message.offset == self._incoming.size:
            if message.offset + len(message.data) > self.announced.size:
                raise PeerViolationError(
                    f"{self.site} sends more than the {self.announced.size} bytes that it announced"
                )
            self._incoming.append(message.data)
            line.measure(len(message.data), now - self._moved)
        self._moved = now
        self._finish()
        return Have(self.announced.size if self.reply is not None else self._incoming.size)

    def _finish(self) -> None:
        """Where the reply is whole: hand it over, or start again where it is not what was announced."""
        assert self.announced is not None
        if self._incoming is None or self._incoming.size != self.announced.size:
            return
        if isinstance(self._incoming, Spooled):
            self.reply = self._incoming.move(self.announced.sha256, self.target)
        else:
            self.reply = self._incoming.take(self.announced.sha256)
        if self.reply is not None:
            self._incoming = None
            return
        self._miss()
        self._incoming = self._new(self.announced)

    def _miss(self) -> None:
        """What came is not the announced reply, or another one is announced: never handed on, not even in part."""
        self._tries += 1
        self.drop()
        if self._tries >= _TRIES:
            raise PeerViolationError(f"{_TRIES} times {self.site} sent or announced other bytes than before")

    def _new(self, announced: Announce) -> Buffered | Spooled:
        if not announced.upload:
            return Buffered(announced.size)
        return Spooled(self.incoming, self.site, announced.sha256, announced.size)

    def drop(self) -> None:
        """Forget what came of the reply."""
        if self._incoming is not None:
            self._incoming.drop()
        self._incoming = None

    def withdraw(self) -> None:
        """The order is withdrawn: what came of an upload stays on disk, for when it is asked for again."""
        if isinstance(self._incoming, Spooled):
            self._incoming.keep()
        self._incoming = None
        if self.open:
            self.lost = "it was not waited for any longer"

    def held_up(self, now: float) -> None:
        """The site cannot take this order yet: it works on another one, which is not waited for any more."""
        self._free_since = now

    def lose(self, why: str) -> None:
        """It is not waited for any longer, unless what it waits for came at this moment."""
        with self.lock:
            if self.open:
                self.lost = why

    def late(self, line: Line, now: float, deadline: float, away: float) -> str | None:
        """Why this order is not waited for any longer, or None. ``deadline``: seconds for the site's own work."""
        silent = now - (self.posted if line.heard is None else max(line.heard, self.posted))
        if silent > away:
            return f"nothing was heard of it for {silent:.0f} s; a site that is cut off has {away:.0f} s to come back"
        if self.pulled is None:
            waited = self._free_since - self.posted
            if waited > deadline:
                return f"it works on what was asked before, for {waited:.0f} s more; the plan gives it {deadline:.0f} s"
            since = max(self.posted, self._free_since)
            return _slow("the request", now - since, line.allowance(len(self.request)) + away)
        if self.replying is None:
            worked = now - self.pulled
            if worked <= deadline or silent > _QUIET:  # cut off, it may be done, and says so when it is back
                return None
            return f"it worked for {worked:.0f} s; the plan gives it {deadline:.0f} s"
        assert self.announced is not None
        return _slow("its reply", now - self.replying, line.allowance(self.announced.size) + away)


def _slow(what: str, took: float, allowed: float) -> str | None:
    if took <= allowed:
        return None
    return f"{what} is not through after {took:.0f} s; at the rate of this link {allowed:.0f} s are enough"


def digest(request: bytes) -> bytes:
    """SHA-256 of a request."""
    return hashlib.sha256(request).digest()
