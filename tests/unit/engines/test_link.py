"""The link between sites and the coordinator: what arrives, what is lost, and why. Frames are carried by functions."""

import resource
from threading import Event, Lock

import pytest

from fedsec.engines.link import envelope
from fedsec.engines.link.desk import Desk
from fedsec.engines.link.messages import MAX_PIECE, Announce, Gone, Have, Next, Nothing, Pull, Rest
from fedsec.engines.link.station import LineEndedError, Pace, UndeliveredError
from fedsec_secure.errors import AbortError, FedsecError, LocalMisuseError
from tests.links import (
    KEYS,
    QUICK,
    A,
    Agent,
    B,
    Clock,
    Site,
    Speaker,
    make_desk,
    make_exchange,
    over,
    until,
)

REQUEST, LARGE = b"words " * 100_000, bytes(range(256)) * 5000
"""Of several pieces each."""


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path / "incoming")


def file_of(tmp_path, data=LARGE):
    path = tmp_path / "reply"
    path.write_bytes(data)
    return path


def asked(desk: Desk, spool, exchange, handles, deliver=None, **more):
    """One exchange with stations, to the end of the run; the sites afterwards."""
    sites = {s: Site(handle, deliver or desk.answer, s, **more) for s, handle in handles.items()}
    outcome = over(desk).exchange(exchange, spool)
    desk.close("done")
    for site in sites.values():
        site.join()
    return outcome, sites


# ---- replies


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=["empty", "one byte", "several pieces"])
@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("request_", [b"", REQUEST], ids=["empty request", "request of several pieces"])
def test_a_reply_arrives_as_it_was_sent(tmp_path, spool, desk, data, as_file, request_):
    agent = Agent(lambda name, body: file_of(tmp_path, data) if as_file else data)
    outcome, sites = asked(desk, spool, make_exchange(request_), {A: agent})
    assert agent.calls == [("train", request_)]
    assert not outcome.lost
    reply = outcome.replies[A]
    if as_file:
        assert reply == spool / "0000-0-train-site-a"
        assert reply.stat().st_mode & 0o777 == 0o600
        reply = reply.read_bytes()
    assert reply == data
    assert sites[A].words == "done"
    assert sites[A].named("answered")
    assert not list((tmp_path / "incoming").glob("*"))


def test_every_site_gets_its_own_request_and_gives_its_own_reply(spool, desk):
    requests = {s: s.encode() * 1000 for s in KEYS}
    exchange = make_exchange()
    exchange = type(exchange)("mask", 1, 2, requests, 60.0, 1)
    agents = {s: Agent(lambda name, body: body[::-1]) for s in KEYS}
    outcome, _ = asked(desk, spool, exchange, agents)
    assert outcome.replies == {s: r[::-1] for s, r in requests.items()}
    assert {s: a.calls for s, a in agents.items()} == {s: [("mask", r)] for s, r in requests.items()}


def refusing(words):
    def handle(name, body):
        raise AbortError(words)

    return handle


def test_a_refusal_arrives_with_its_reason_and_the_next_exchange_is_served(spool, desk):
    answers = iter([AbortError("the budget is spent"), b"yes"])

    def handle(name, body):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    site = Site(handle, desk.answer)
    assert over(desk).exchange(make_exchange(), spool).lost == {A: "AbortError: the budget is spent"}
    assert over(desk).exchange(make_exchange(), spool).replies == {A: b"yes"}
    desk.close("done")
    site.join()


def test_a_reason_of_any_length_and_characters_arrives_as_a_line(spool, desk):
    outcome, _ = asked(desk, spool, make_exchange(), {A: refusing("a file called \udcff\n" + "x" * 9000)})
    assert outcome.lost[A].startswith("AbortError: a file called ")
    assert outcome.lost[A].isprintable()
    assert 400 < len(outcome.lost[A]) <= 500


def test_a_bug_of_the_agent_ends_the_site_and_the_coordinator_is_told_no_more_than_that(spool, desk):
    def handle(name, body):
        raise ZeroDivisionError("notes of a patient")

    outcome, sites = asked(desk, spool, make_exchange(sites=(A, B)), {A: handle, B: lambda name, body: b"yes"})
    assert outcome.lost == {A: "the site met an error of its own, and stopped"}
    assert outcome.replies == {B: b"yes"}
    assert isinstance(sites[A].error, ZeroDivisionError)


def test_a_reply_s_file_that_is_shortened_while_it_is_sent_is_an_error_and_no_endless_loop(tmp_path, spool, desk):
    reply = file_of(tmp_path)

    def deliver(frame):
        answer = desk.answer(frame)
        if len(frame) > 1 << 16:
            reply.write_bytes(b"short")
        return answer

    site = Site(lambda name, body: reply, deliver)
    desk.post(make_exchange(), spool)
    until(lambda: site.error)
    assert isinstance(site.error, LocalMisuseError)
    assert not desk.outcome().replies


def test_words_at_the_end_are_shown_as_one_line(desk):
    desk.close("done\x1b[2J\n" + "x" * 10_000)
    site = Site(lambda name, body: b"", desk.answer)
    site.join()
    assert site.words.startswith("done [2J x")
    assert site.words.isprintable()


# ---- every frame in turn goes wrong


class Faulty:
    """Carries frames, and does something else to the frame of one number."""

    def __init__(self, desk, fault, at):
        self.desk, self.fault, self.at, self.count = desk, fault, at, -1
        self.happened, self.kept = False, None

    def __call__(self, frame):
        self.count += 1
        if self.kept is not None:
            late, self.kept = self.kept, None
            answer = self.desk.answer(frame)
            self.desk.answer(late)
            return answer
        if self.count != self.at:
            return self.desk.answer(frame)
        self.happened = True
        return self.fault(self, frame)


def lose_request(line, frame):
    raise UndeliveredError("lost")


def lose_reply(line, frame):
    line.desk.answer(frame)
    raise UndeliveredError("lost")


def duplicate(line, frame):
    first = line.desk.answer(frame)
    line.desk.answer(frame)
    return first


def second_of_two(line, frame):
    line.desk.answer(frame)
    return line.desk.answer(frame)


def reorder(line, frame):
    line.kept = frame
    raise UndeliveredError("late")


def cut_request(line, frame):
    return line.desk.answer(frame[: len(frame) // 2])


def cut_reply(line, frame):
    answer = line.desk.answer(frame)
    return answer[: len(answer) // 2]


def change_reply(line, frame):
    answer = line.desk.answer(frame)
    return answer[:-1] + bytes([answer[-1] ^ 1])


def empty_reply(line, frame):
    line.desk.answer(frame)
    return b""


def end_before(line, frame):
    raise LineEndedError("ended")


def end_after(line, frame):
    line.desk.answer(frame)
    raise LineEndedError("ended")


FAULTS = [
    lose_request,
    lose_reply,
    duplicate,
    second_of_two,
    reorder,
    cut_request,
    cut_reply,
    change_reply,
    empty_reply,
    end_before,
    end_after,
]


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_one_frame_that_goes_wrong_anywhere_changes_nothing(tmp_path, spool, fault, as_file):
    reply, request = file_of(tmp_path), b"words " * 20_000
    for at in range(100):
        desk = make_desk(tmp_path / f"incoming-{at}")
        agent = Agent(lambda name, body: reply if as_file else LARGE)
        line = Faulty(desk, fault, at)
        outcome, sites = asked(desk, spool, make_exchange(request, attempt=at), {A: agent}, line)
        found = outcome.replies[A]
        assert (found.read_bytes() if as_file else found) == LARGE, at
        assert agent.calls == [("train", request)], at
        assert sites[A].words == "done"
        if not line.happened:
            break
    assert 9 < at < 40, "a run has a greeting, some pieces each way, and an end"


def test_pieces_shrink_until_they_go_through(tmp_path, spool, desk):
    """An engine that gives a frame so much time, over a link that became slow: the same piece would never arrive."""

    def deliver(frame):
        if len(frame) > 40_000:
            raise UndeliveredError("timed out")
        return desk.answer(frame)

    outcome, _ = asked(desk, spool, make_exchange(), {A: lambda name, body: LARGE[:300_000]}, deliver)
    assert outcome.replies == {A: LARGE[:300_000]}


def test_pieces_of_a_request_shrink_until_they_come_through(spool, desk):
    def deliver(frame):
        answer = desk.answer(frame)
        if len(answer) > 40_000:
            raise UndeliveredError("timed out")
        return answer

    outcome, _ = asked(desk, spool, make_exchange(REQUEST), {A: lambda name, body: body[:9]}, deliver)
    assert outcome.replies == {A: REQUEST[:9]}


# ---- uploads go on where they were


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


@pytest.mark.parametrize("after", [200_000, 600_000, 1_279_000])
def test_an_upload_goes_on_over_the_next_connection_where_it_was(tmp_path, spool, desk, after):
    reply = file_of(tmp_path)
    agent = Agent(lambda name, body: reply)
    line = Counted(desk, after)
    outcome, sites = asked(desk, spool, make_exchange(), {A: agent}, line)
    assert outcome.uploads()[A].read_bytes() == LARGE
    assert sites[A].connections == 2
    assert len(agent.calls) == 1
    assert len(LARGE) < line.bytes < len(LARGE) + 20_000


def stopped_half_way(tmp_path, spool):
    """A coordinator that is killed after more than half a reply; the site, and the line that it is on."""
    first = make_desk(tmp_path / "incoming")
    line = Counted(first, None)
    pieces = Event()

    def deliver(frame):
        if line.desk is first and line.bytes > len(LARGE) // 2:
            pieces.set()
            raise UndeliveredError("the coordinator is down")
        return line(frame)

    agent = Agent(lambda name, body: file_of(tmp_path) if not agent.calls[1:] else tmp_path / "reply")
    site = Site(agent, deliver, pace=Pace(0.05, 0.01, 0.005, 1 << 15))
    first.post(make_exchange(), spool)
    assert pieces.wait(10)
    return site, line, agent


def go_on(tmp_path, spool, site, line):
    again = make_desk(tmp_path / "incoming")
    line.desk = again
    outcome = over(again).exchange(make_exchange(), spool)
    again.close("done")
    site.join()
    return outcome.uploads()[A].read_bytes()


def test_an_upload_goes_on_at_a_coordinator_that_was_killed_where_it_was(tmp_path, spool):
    site, line, agent = stopped_half_way(tmp_path, spool)
    assert go_on(tmp_path, spool, site, line) == LARGE
    assert len(LARGE) < line.bytes < len(LARGE) + 60_000, "one piece more: it was on its way to nobody"
    assert 1 <= len(agent.calls) <= 2
    assert not list((tmp_path / "incoming").glob("*"))


@pytest.mark.parametrize("damage", ["changed", "whole but changed", "longer", "emptied"])
def test_a_part_that_is_damaged_is_not_gone_on_with(tmp_path, spool, damage):
    site, line, _ = stopped_half_way(tmp_path, spool)
    (part,) = (tmp_path / "incoming").iterdir()
    data = part.read_bytes()
    wrong = bytes([data[0] ^ 1]) + data[1:]
    damaged = {
        "changed": wrong,
        "whole but changed": wrong + LARGE[len(wrong) :],
        "longer": wrong + LARGE,
        "emptied": b"",
    }
    part.write_bytes(damaged[damage])
    assert go_on(tmp_path, spool, site, line) == LARGE


def test_the_part_of_an_upload_that_nobody_goes_on_with_is_deleted_and_those_of_other_sites_stay(tmp_path, spool, desk):
    incoming = tmp_path / "incoming"
    for data in (LARGE, LARGE[1:], LARGE[2:]):
        desk.post(make_exchange(sites=(A, B)), spool)
        a, b = Speaker(desk, A), Speaker(desk, B)
        order = a.order()
        a.announce(order, data)
        a.push(order, 0, data[:1000])
        order = b.order()
        b.announce(order, LARGE)
        desk.outcome()
        assert sorted(p.name.rpartition("-")[0] for p in incoming.iterdir()) == [A, B]


def limit_files(size):
    """The operating system refuses to write beyond: a full disk's OSError, without one."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_comes_out_of_the_exchange_and_it_can_be_asked_again(tmp_path, spool, desk):
    reply = file_of(tmp_path)
    line = Counted(desk, None)
    site = Site(lambda name, body: reply, line)
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(500_000)
    try:
        with pytest.raises(OSError, match="too large"):
            over(desk).exchange(make_exchange(), spool)
    finally:
        limit_files(soft)
    (part,) = (tmp_path / "incoming").iterdir()
    there = part.read_bytes()
    assert len(there) == sum(1 << n for n in (16, 17, 18)), "the piece before stays, of the next one nothing does"
    assert LARGE.startswith(there)
    assert not list(spool.iterdir())
    got = line.bytes
    outcome = over(desk).exchange(make_exchange(), spool)
    desk.close("done")
    site.join()
    assert outcome.uploads()[A].read_bytes() == LARGE
    assert line.bytes - got < len(LARGE) - len(there) + 20_000


# ---- sites that do what they should not


def posted(desk, spool, site=A, **more):
    """An order for one site that the test speaks for."""
    desk.post(make_exchange(sites=(site,), **more), spool)
    speaker = Speaker(desk, site)
    return speaker, speaker.order()


def lost(desk, exchange=None, away=60.0):
    """Why nobody waits for the site any longer; None where it is waited for."""
    if desk.wait(exchange or make_exchange(), away, 0.0):
        return None
    return desk.outcome().lost[A]


@pytest.mark.parametrize("upload", [False, True])
def test_a_site_that_three_times_sends_other_bytes_than_it_announced_is_lost(tmp_path, spool, desk, upload):
    speaker, order = posted(desk, spool)
    speaker.announce(order, b"right", upload=upload)
    assert speaker.push(order, 0, b"wrong") == Have(0)
    assert speaker.push(order, 0, b"wrong") == Have(0)
    assert lost(desk) is None
    assert speaker.push(order, 0, b"wrong") == Gone()
    assert "3 times site-a sent or announced other bytes" in lost(desk)
    assert not list((tmp_path / "incoming").glob("*"))
    assert not list(spool.iterdir())


def test_other_bytes_twice_and_the_right_ones_then_are_a_reply(spool, desk):
    speaker, order = posted(desk, spool)
    speaker.announce(order, b"right")
    for word in (b"wrong", b"wrong", b"right"):
        last = speaker.push(order, 0, word)
    assert last == Have(5)
    assert desk.outcome().uploads()[A].read_bytes() == b"right"


def test_a_site_that_announces_another_reply_again_and_again_is_lost(tmp_path, spool):
    clock = Clock()
    desk = make_desk(tmp_path / "incoming", clock)
    speaker, order = posted(desk, spool)
    assert speaker.announce(order, b"one") == Have(0)
    assert speaker.announce(order, b"one") == Have(0)
    assert speaker.announce(order, b"two") == Have(0)
    assert speaker.announce(order, b"three") == Have(0)
    assert lost(desk) is None
    assert speaker.announce(order, b"four") == Gone()
    assert "3 times" in lost(desk)


def test_a_site_that_sends_more_than_it_announced_is_lost(tmp_path, spool, desk):
    speaker, order = posted(desk, spool)
    speaker.announce(order, b"12345")
    speaker.push(order, 0, b"123")
    assert speaker.push(order, 3, b"456") == Gone()
    assert "sends more than the 5 bytes that it announced" in lost(desk)


@pytest.mark.parametrize(("upload", "size", "most"), [(True, 1001, 1000), (False, (1 << 27) + 1, 1 << 27)])
def test_a_reply_that_is_announced_too_large_is_not_begun(tmp_path, spool, upload, size, most):
    desk = make_desk(tmp_path / "incoming", most=1000)
    speaker, order = posted(desk, spool)
    assert speaker.announce(order, b"", upload=upload, size=size) == Gone()
    reason = lost(desk)
    assert f"at most {most} bytes" in reason
    assert str(size) in reason
    assert not list((tmp_path / "incoming").glob("*"))


def test_a_reply_that_was_not_announced_loses_its_site_and_raises_nothing(spool, desk):
    speaker, order = posted(desk, spool)
    assert speaker.push(order, 0, b"words") == Gone()
    assert "did not announce" in lost(desk)


def test_what_does_not_follow_is_not_added(spool, desk):
    speaker, order = posted(desk, spool)
    speaker.announce(order, b"12345")
    assert speaker.push(order, 1, b"2345") == Have(0)
    assert speaker.push(order, 0, b"123") == Have(3)
    assert speaker.push(order, 0, b"123") == Have(3)
    assert speaker.push(order, 1 << 63, b"45") == Have(3)
    assert speaker.push(order, 3, b"45") == Have(5)
    assert desk.outcome().uploads()[A].read_bytes() == b"12345"


def test_an_order_of_another_site_or_number_is_gone(spool, desk):
    speaker, order = posted(desk, spool)
    other = Speaker(desk, B)
    for number in (order.order, order.order + 1, 0):
        assert other.ask(Pull(number, 0, 10)) == Gone()
        assert other.ask(Announce(number, True, 5, bytes(32))) == Gone()
    assert speaker.ask(Pull(order.order + 1, 0, 10)) == Gone()
    assert other.ask(Next(0, 0)) == Nothing()
    assert lost(desk) is None


# ---- late and later


def test_a_late_reply_to_an_order_that_was_withdrawn_is_dropped_and_the_next_order_is_done(spool, desk):
    """Also: what comes while the agent is busy waits until it is free."""
    free, now = Event(), Lock()

    def handle(name, body):
        with now:
            assert name == "mask" or free.wait(10)
            return name.encode()

    agent = Agent(handle)
    site = Site(agent, desk.answer)
    desk.post(make_exchange(), spool)
    until(lambda: agent.calls)
    assert desk.outcome().lost == {A: "it was not waited for any longer"}
    desk.post(make_exchange(name="mask"), spool)
    until(lambda: len(site.events) > 1)
    assert desk.wait(make_exchange(name="mask"), 60.0, 0.05) == {A}
    assert len(agent.calls) == 1
    free.set()
    assert not desk.wait(make_exchange(name="mask"), 60.0, 10.0)
    assert desk.outcome().replies == {A: b"mask"}
    assert [n for n, _ in agent.calls] == ["train", "mask"]
    assert [e["exchange"] for e in site.named("dropped")] == ["train"]
    desk.close("done")
    site.join()


def test_who_asks_the_same_again_waits_for_the_same_work(spool, desk):
    free = Event()
    agent = Agent(lambda name, body: b"yes" if free.wait(10) else b"no")
    site = Site(agent, desk.answer)
    desk.post(make_exchange(), spool)
    until(lambda: agent.calls)
    desk.outcome()
    desk.post(make_exchange(), spool)
    assert desk.wait(make_exchange(), 60.0, 0.1) == {A}
    free.set()
    assert not desk.wait(make_exchange(), 60.0, 10.0)
    assert desk.outcome().replies == {A: b"yes"}
    assert len(agent.calls) == 1
    desk.close("done")
    site.join()


def test_connections_end_when_they_should_and_the_work_goes_on_over_the_next(spool, desk):
    free, open_ = Event(), Event()
    open_.set()

    def deliver(frame):
        assert open_.wait(10)
        return desk.answer(frame)

    agent = Agent(lambda name, body: b"yes" if free.wait(10) else b"no")
    site = Site(agent, deliver)
    desk.post(make_exchange(), spool)
    until(lambda: agent.calls)
    desk.rest(True)
    until(lambda: site.connections > 1)
    open_.clear()
    desk.rest(False)
    free.set()
    open_.set()
    assert not desk.wait(make_exchange(), 60.0, 10.0)
    assert desk.outcome().replies == {A: b"yes"}
    assert len(agent.calls) == 1
    desk.close("done")
    site.join()


def test_whoever_waits_is_told_at_once_that_connections_end_or_that_the_run_is_over(desk):
    speaker = Speaker(desk)
    desk.rest(True)
    assert speaker.ask(Next(60_000, 0)) == Rest()
    desk.rest(False)
    site = Site(lambda name, body: b"", desk.answer, B, Pace(15.0, 0.01, 0.0))
    until(lambda: B in desk.heard())
    desk.close("the run is over")
    site.join()
    assert site.words == "the run is over"


def test_an_order_of_a_desk_before_is_none_of_this_one(tmp_path, spool):
    """A coordinator that is started again asks for something else: the reply to the order before is not its answer."""
    first, second = make_desk(tmp_path / "one"), make_desk(tmp_path / "two")
    _, order = posted(first, spool)
    speaker, other = posted(second, spool, name="mask")
    assert order.order != other.order
    assert speaker.announce(order, b"words") == Gone()
    assert speaker.ask(Next(0, order.order)) == other


# ---- how long a site has


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def slow_desk(tmp_path, clock):
    return make_desk(tmp_path / "incoming", clock)


def test_a_site_that_is_silent_for_long_is_lost_and_one_that_speaks_is_not(spool, slow_desk, clock):
    exchange = make_exchange(sites=(A, B), deadline=10_000)
    slow_desk.post(exchange, spool)
    speaker = Speaker(slow_desk, B)
    order = speaker.order()
    speaker.ask(Pull(order.order, 0, 100))
    for _ in range(6):
        clock.now += 10
        assert slow_desk.wait(exchange, 60.0, 0.0) == {A, B}
        speaker.ask(Next(0, order.order))
    clock.now += 1
    assert slow_desk.wait(exchange, 60.0, 0.0) == {B}
    clock.now += 60
    assert slow_desk.wait(exchange, 60.0, 0.0) == set()
    reasons = slow_desk.outcome().lost
    assert reasons[A].startswith("nothing was heard of it for 61 s")
    assert reasons[B].startswith("nothing was heard")


@pytest.mark.parametrize("request_", [b"", b"words"])
def test_a_site_that_works_past_the_plan_s_deadline_is_lost_and_not_before(spool, slow_desk, clock, request_):
    """Also one that answers nothing but that it works; an order without a byte is never pulled."""
    exchange = make_exchange(request_, deadline=3600)
    speaker, order = posted(slow_desk, spool, request=request_, deadline=3600)
    if request_:
        speaker.ask(Pull(order.order, 0, 100))
    speaker.ask(Next(0, order.order))
    for _ in range(72):
        clock.now += 50
        speaker.ask(Next(0, order.order))
        assert slow_desk.wait(exchange, 60.0, 0.0) == {A}
    clock.now += 1
    assert lost(slow_desk, exchange) == "it worked for 3601 s; the plan gives it 3600 s"


def test_a_site_that_works_on_for_a_coordinator_that_was_started_again_has_the_plan_s_deadline(spool, slow_desk, clock):
    """It has the request from the process before, and does not pull it again."""
    exchange = make_exchange(deadline=3600)
    speaker, order = posted(slow_desk, spool, deadline=3600)
    for _ in range(60):
        clock.now += 50
        speaker.ask(Next(0, order.order))
        assert slow_desk.wait(exchange, 60.0, 0.0) == {A}


def test_a_site_that_asks_and_never_takes_its_order_is_lost(spool, slow_desk, clock):
    speaker, _ = posted(slow_desk, spool, deadline=3600)
    for _ in range(2):
        clock.now += 59
        speaker.ask(Next(0, 0))
        assert slow_desk.wait(make_exchange(deadline=3600), 60.0, 0.0) == {A}
    clock.now += 3
    assert lost(slow_desk, make_exchange(deadline=3600)).startswith("the request is not through after 121 s")


def push_at(speaker, desk, clock, order, data, rate, exchange, piece=1 << 16, away=5.0):
    """Upload at so many bytes a second; why the site was lost, or None where all went through."""
    answer = speaker.announce(order, data)
    while isinstance(answer, Have) and answer.size < len(data):
        part = data[answer.size : answer.size + piece]
        for _ in range(int(len(part) / rate)):
            clock.now += 1
            speaker.ask(Next(0, order.order))
        clock.now += (len(part) / rate) % 1
        if not desk.wait(exchange, away, 0.0):
            break
        answer = speaker.push(order, answer.size, part)
    assert not desk.wait(exchange, away, 0.0)
    return desk.outcome().lost.get(A)


@pytest.mark.parametrize("rate", [500_000, 62_500, 20_000])
def test_a_link_that_is_slow_and_moves_is_waited_for(spool, slow_desk, clock, rate):
    speaker, order = posted(slow_desk, spool)
    assert push_at(speaker, slow_desk, clock, order, bytes(1 << 21), rate, make_exchange()) is None
    assert slow_desk.rates()[A] == pytest.approx(rate, rel=0.2)


def test_a_link_that_is_too_slow_is_lost(spool, slow_desk, clock):
    speaker, order = posted(slow_desk, spool)
    reason = push_at(speaker, slow_desk, clock, order, bytes(1 << 21), 2000, make_exchange())
    assert "its reply is not through after" in reason
    assert "at the rate of this link" in reason


def test_168_megabytes_have_the_six_minutes_that_they_need_at_4_megabits(spool, slow_desk, clock):
    speaker, order = posted(slow_desk, spool, deadline=1)
    data, exchange = bytes(168_000_000), make_exchange(deadline=1)
    began = clock.now
    assert push_at(speaker, slow_desk, clock, order, data, 500_000, exchange, piece=MAX_PIECE, away=20.0) is None
    assert clock.now - began == pytest.approx(336, abs=1)
    slow_desk.outcome()
    (spool / "0000-0-train-site-a").unlink()


def test_168_megabytes_that_stand_still_are_not_waited_for_for_ever(spool, slow_desk, clock):
    exchange = make_exchange(deadline=1)
    speaker, order = posted(slow_desk, spool, deadline=1)
    speaker.announce(order, b"", size=168_000_000)
    for _ in range(107):
        clock.now += 10
        speaker.ask(Next(0, order.order))
        assert slow_desk.wait(exchange, 20.0, 0.0) == {A}, "three times what it needs, a minute, and the time away"
    clock.now += 19
    assert lost(slow_desk, exchange, 20.0).startswith("its reply is not through after 1089 s")


def test_a_request_has_the_time_that_it_needs_at_the_rate_of_the_link(spool, slow_desk, clock):
    request = bytes(1 << 22)
    exchange = make_exchange(request, deadline=1)
    slow_desk.post(exchange, spool)
    speaker = Speaker(slow_desk)
    order = speaker.order()
    for at in range(0, len(request), 1 << 16):
        speaker.ask(Pull(order.order, at, 1 << 16))
        assert slow_desk.wait(exchange, 5.0, 0.0) == {A}
        clock.now += (1 << 16) / 40_000 if at + (1 << 16) < len(request) else 0
    assert clock.now > 90
    assert slow_desk.rates()[A] == pytest.approx(40_000, rel=0.2)


def test_sites_that_can_be_reached_are_those_that_were_heard_of_lately(slow_desk, clock):
    transport = over(slow_desk, away=60.0)
    assert transport.sites() == ()
    speaker = Speaker(slow_desk, B)
    speaker.ask(Next(0, 0))
    clock.now += 60
    assert transport.sites() == (B,)
    clock.now += 1
    assert transport.sites() == ()


def test_an_engine_that_cannot_carry_ends_the_exchange_and_leaves_no_order(spool, desk):
    class Broken:
        def keep(self, wanted, round_index):
            raise envelope.TransportError("no server")

    transport = over(desk)
    transport._carrier = Broken()
    with pytest.raises(FedsecError, match="no server"):
        transport.exchange(make_exchange(), spool)
    assert Speaker(desk).ask(Next(0, 0)) == Nothing()


def test_the_pace_is_as_documented():
    assert Pace() == Pace(15.0, 5.0, 1.0, 1 << 18) != QUICK
