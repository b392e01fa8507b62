"""The link between sites and the coordinator: what arrives, what is refused, and what comes late."""

from threading import Event, Lock

import pytest

from fedsec.engines.link.messages import Gone, Heard, Next, Nothing, Over, Rest
from fedsec.engines.link.station import LineEndedError, Pace
from fedsec_secure.errors import AbortError, LocalMisuseError
from tests.links import (
    KEYS,
    LARGE,
    REQUEST,
    A,
    Agent,
    B,
    Site,
    Speaker,
    exchanged,
    file_of,
    make_desk,
    make_exchange,
    over,
    posted,
    until,
)

# ---- replies


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=["empty", "one byte", "several pieces"])
@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("request_", [b"", REQUEST], ids=["empty request", "request of several pieces"])
def test_a_reply_arrives_as_it_was_sent(tmp_path, spool, desk, data, as_file, request_):
    agent = Agent(lambda name, body: file_of(tmp_path, data) if as_file else data)
    outcome, sites = exchanged(desk, spool, make_exchange(request_), {A: agent})
    assert agent.calls == [("train", request_)]
    assert not outcome.lost
    reply = outcome.replies[A]
    if as_file:
        assert reply == spool / "0000-0-train-site-a"
        assert reply.stat().st_mode & 0o777 == 0o600
        reply = reply.read_bytes()
    assert reply == data
    assert sites[A].words == "done"
    assert sites[A].named("sent")
    assert not list((tmp_path / "incoming").glob("*"))


def test_every_site_gets_its_own_request_and_gives_its_own_reply(spool, desk):
    requests = {s: s.encode() * 1000 for s in KEYS}
    exchange = make_exchange()
    exchange = type(exchange)("mask", 1, 2, requests, 60.0, 1)
    agents = {s: Agent(lambda name, body: body[::-1]) for s in KEYS}
    outcome, _ = exchanged(desk, spool, exchange, agents)
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
    outcome, _ = exchanged(desk, spool, make_exchange(), {A: refusing("a file called \udcff\n" + "x" * 9000)})
    assert outcome.lost[A].startswith("AbortError: a file called ")
    assert outcome.lost[A].isprintable()
    assert 400 < len(outcome.lost[A]) <= 500


def test_a_bug_of_the_agent_ends_the_site_and_the_coordinator_is_told_no_more_than_that(spool, desk):
    def handle(name, body):
        raise ZeroDivisionError("notes of a patient")

    outcome, sites = exchanged(desk, spool, make_exchange(sites=(A, B)), {A: handle, B: lambda name, body: b"yes"})
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


@pytest.mark.parametrize("honest", [True, False])
def test_words_at_the_end_are_shown_as_one_line(desk, honest):
    words = "done\x1b[2J\n" + "x" * (10_000 if honest else 2000)
    desk.close(words)
    if not honest:  # a coordinator that sends what it should not
        desk._over = words
    site = Site(lambda name, body: b"", desk.answer)
    site.join()
    assert site.words.startswith("done [2J x")
    assert site.words.isprintable()


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


def test_the_end_is_told_again_to_whom_the_answer_did_not_reach(desk):
    """The connection is cut at the answer; over the next one the site hears of it, and says so."""
    ended, cut = Event(), list[bytes]()

    def deliver(frame: bytes) -> bytes:
        answer = desk.answer(frame)
        if ended.is_set() and not cut:
            cut.append(answer)
            raise LineEndedError("the job ended")
        return answer

    site = Site(lambda name, body: b"", deliver, B, Pace(15.0, 0.01, 0.0))
    until(lambda: B in desk.heard())
    ended.set()
    desk.close("the run is over")
    site.join()
    assert cut
    assert site.connections == 2
    assert site.words == "the run is over"
    assert B not in desk.untold()


def test_a_site_that_was_answered_and_did_not_say_that_it_heard_is_untold(desk):
    speaker, others = Speaker(desk), desk.untold() - {A}
    assert speaker.ask(Heard()) == Nothing(), "before the end it means nothing"
    desk.close("the run is over")
    assert speaker.ask(Next(0, 0)) == Over("the run is over")
    assert desk.untold() == {A, *others}
    assert speaker.ask(Heard()) == Nothing()
    assert desk.untold() == others


def test_an_order_of_a_desk_before_is_none_of_this_one(tmp_path, spool):
    """A coordinator that is started again asks for something else: the reply to the order before is not its answer."""
    first, second = make_desk(tmp_path / "one"), make_desk(tmp_path / "two")
    _, order = posted(first, spool)
    speaker, other = posted(second, spool, name="mask")
    assert order.order != other.order
    assert speaker.announce(order, b"words") == Gone()
    assert speaker.ask(Next(0, order.order)) == other
