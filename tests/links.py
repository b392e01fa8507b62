"""A desk and sites in one process, over functions that carry frames: what the tests of the link are built of."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from fedsec.coordinator.exchange import Exchange, Reply
from fedsec.engines.link import envelope
from fedsec.engines.link.desk import Desk, Terms
from fedsec.engines.link.messages import (
    Announce,
    Answer,
    Have,
    Next,
    Order,
    Push,
    Request,
    decode_answer,
    encode_request,
)
from fedsec.engines.link.station import Deliver, Handle, LineEndedError, Pace, SiteTerms, Station
from fedsec.engines.link.transport import LinkTransport
from fedsec_secure.identity.channel import Opening
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import Roster, SiteId

PLAN = bytes(range(32))
KEYS = {SiteId(f"site-{c}"): SigningKey.generate() for c in "abcd"}
COORDINATOR = SigningKey.generate()
ROSTER = Roster(COORDINATOR.public, {s: k.public for s, k in KEYS.items()})
A, B, C, D = KEYS
QUICK = Pace(idle=0.05, pulse=0.01, again=0.0, piece=1 << 15)


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


REQUEST, LARGE = b"words " * 100_000, bytes(range(256)) * 5000
"""Of several pieces each."""


def make_desk(incoming, clock=time.monotonic, *, most=1 << 28, key=COORDINATOR, plan=PLAN) -> Desk:
    desk = Desk(Terms(plan, ROSTER, key.sign, "fedsec 0"), Path(incoming), clock)
    desk.expect(most)
    return desk


def make_exchange(request=b"words", sites=(A,), *, name="train", deadline=60.0, attempt=0) -> Exchange:
    return Exchange(name, 0, attempt, dict.fromkeys(sites, request), deadline)


class Still:
    """A Carrier that has nothing to do."""

    def keep(self, wanted: frozenset[SiteId], round_index: int) -> None:
        pass


def over(desk: Desk, away: float = 15.0) -> LinkTransport:
    return LinkTransport(desk, Still(), away)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Speaker:
    """A site that says what a test has it say, over a channel as real as any."""

    def __init__(self, desk: Desk, site: SiteId = A) -> None:
        self._answer = desk.answer
        opening = Opening.make(site, PLAN, "fedsec 0", KEYS[site].sign)
        welcome = envelope.open_answer(desk.answer(envelope.greeting(site, opening.packet)), envelope.GREETING)
        self.channel, _ = opening.finish(welcome, PLAN, ROSTER)

    def ask(self, request: Request, deliver: Deliver | None = None) -> Answer:
        carry = deliver or self._answer
        reply = self.channel.call(
            encode_request(request), lambda f: envelope.open_answer(carry(envelope.sealed(f)), envelope.SEALED)
        )
        return decode_answer(reply)

    def order(self) -> Order:
        answer = self.ask(Next(0, 0))
        assert isinstance(answer, Order)
        return answer

    def announce(self, order: Order, data: bytes, *, upload: bool = True, size: int | None = None) -> Answer:
        return self.ask(Announce(order.order, upload, len(data) if size is None else size, sha256(data)))

    def push(self, order: Order, offset: int, data: bytes) -> Answer:
        return self.ask(Push(order.order, offset, memoryview(data)))

    def upload(self, order: Order, data: bytes, piece: int = 1 << 16) -> Answer:
        answer = self.announce(order, data)
        while isinstance(answer, Have) and answer.size < len(data):
            answer = self.push(order, answer.size, data[answer.size : answer.size + piece])
        return answer


@dataclass
class Agent:
    """Answers exchanges, and counts."""

    reply: Callable[[str, bytes], Reply]
    calls: list[tuple[str, bytes]] = field(default_factory=list)

    def __call__(self, name: str, body: bytes) -> Reply:
        self.calls.append((name, body))
        return self.reply(name, body)


class Site:
    """A station on a thread of its own, over connections made of ``deliver``, until the run is over."""

    def __init__(self, handle: Handle, deliver: Deliver, site: SiteId = A, pace: Pace = QUICK, key=None) -> None:
        self.events: list[dict[str, object]] = []
        self.words: str | None = None
        self.error: Exception | None = None
        self.connections = 0
        terms = SiteTerms(site, PLAN, ROSTER, (key or KEYS[site]).sign, "fedsec 0")
        self.station = Station(terms, handle, self.events.append, pace)
        self._deliver = deliver
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self.words is None:
            self.connections += 1
            try:
                self.words = self.station.serve(self._deliver)
            except LineEndedError:
                continue
            except Exception as e:
                self.error = e
                return

    def named(self, event: str) -> list[dict[str, object]]:
        return [e for e in self.events if e["event"] == event]

    def join(self) -> None:
        self._thread.join(20)
        self.station.close()
        assert not self._thread.is_alive(), f"the site did not end; its last words: {self.events[-3:]}"


def until(found: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def file_of(tmp_path, data=LARGE):
    path = tmp_path / "reply"
    path.write_bytes(data)
    return path


def exchanged(desk: Desk, spool, exchange, handles, deliver=None, **more):
    """One exchange with stations, to the end of the run; the sites afterwards."""
    sites = {s: Site(handle, deliver or desk.answer, s, **more) for s, handle in handles.items()}
    outcome = over(desk).exchange(exchange, spool)
    desk.close("done")
    for site in sites.values():
        site.join()
    return outcome, sites


def posted(desk, spool, site=A, **more):
    """An order for one site that the test speaks for."""
    desk.post(make_exchange(sites=(site,), **more), spool)
    speaker = Speaker(desk, site)
    return speaker, speaker.order()


def lost_reason(desk, exchange=None, away=60.0):
    """Why nobody waits for the site any longer; None where it is waited for."""
    if desk.wait(exchange or make_exchange(), away, 0.0):
        return None
    return desk.outcome().lost[A]


class Counted:
    """Carries frames to a desk, counts the bytes that it got, and ends the connection after some."""

    def __init__(self, desk, after):
        self.desk, self.after, self.bytes = desk, after, 0

    def __call__(self, frame):
        if self.after is not None and self.bytes + len(frame) > self.after:
            self.after = None
            raise LineEndedError("ended")
        self.bytes += len(frame)
        return self.desk.answer(frame)
