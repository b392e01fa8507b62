"""How long a site has: by its silence, its work and the rate of its link."""

from threading import Event

import pytest

from fedsec.engines.link import envelope
from fedsec.engines.link.messages import MAX_PIECE, Have, Next, Nothing, Pull
from fedsec.engines.link.orders import Errand
from fedsec.engines.link.station import Pace
from fedsec.engines.link.transport import LinkTransport
from fedsec_secure.errors import FedsecError
from tests.links import QUICK, A, B, Clock, Site, Speaker, Still, lost_reason, make_desk, make_exchange, over, posted


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
    assert lost_reason(slow_desk, exchange) == "it worked for 3601 s; the plan gives it 3600 s"


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
    assert lost_reason(slow_desk, make_exchange(deadline=3600)).startswith("the request is not through after 121 s")


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
    assert lost_reason(slow_desk, exchange, 20.0).startswith("its reply is not through after 1089 s")


def test_another_announcement_gives_a_site_no_more_time(spool, slow_desk, clock):
    exchange = make_exchange(deadline=1)
    speaker, order = posted(slow_desk, spool, deadline=1)
    speaker.announce(order, b"one", size=168_000_000)
    for n in range(108):
        clock.now += 10
        speaker.announce(order, b"one" if n < 50 else b"two", size=168_000_000)
        assert slow_desk.wait(exchange, 20.0, 0.0) == {A}
    clock.now += 9
    assert lost_reason(slow_desk, exchange, 20.0).startswith("its reply is not through after 1089 s")


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


def test_a_site_that_is_still_at_work_on_the_order_before_has_the_plans_deadline(spool, slow_desk, clock):
    """Its link is fine: it may not pull what comes next before its agent is free."""
    speaker, order = posted(slow_desk, spool, deadline=1)
    speaker.ask(Pull(order.order, 0, 100))
    clock.now += 2
    assert "the plan gives it 1 s" in lost_reason(slow_desk, make_exchange(deadline=1))
    later = make_exchange(b"attempt 1", deadline=3600, attempt=1)
    slow_desk.post(later, spool)
    for _ in range(360):
        clock.now += 10
        assert speaker.ask(Next(0, order.order)) != Nothing()
        assert slow_desk.wait(later, 60.0, 0.0) == {A}
    following = speaker.order()
    clock.now += 30
    assert slow_desk.wait(later, 60.0, 0.0) == {A}, "free only now, it has the time that the request needs"
    speaker.ask(Next(0, order.order))
    assert lost_reason(slow_desk, later).startswith("it works on what was asked before, for 3630 s more")
    assert following.name == "train"


def test_a_site_that_is_cut_off_at_the_end_of_its_work_may_come_back(spool, slow_desk, clock):
    exchange = make_exchange(deadline=100)
    speaker, order = posted(slow_desk, spool, deadline=100)
    speaker.ask(Pull(order.order, 0, 100))
    clock.now += 95
    speaker.ask(Next(0, order.order))
    clock.now += 300
    assert slow_desk.wait(exchange, 600.0, 0.0) == {A}, "it may have been done at 96 s"
    speaker.announce(order, b"", size=10)
    assert slow_desk.wait(exchange, 600.0, 0.0) == {A}
    slow_desk.outcome()


def test_a_site_that_comes_back_and_is_not_done_after_its_deadline_is_late(spool, slow_desk, clock):
    exchange = make_exchange(deadline=100)
    speaker, order = posted(slow_desk, spool, deadline=100)
    speaker.ask(Pull(order.order, 0, 100))
    clock.now += 300
    speaker.ask(Next(0, order.order))
    assert lost_reason(slow_desk, exchange, 600.0) == "it worked for 300 s; the plan gives it 100 s"


def test_what_comes_at_the_last_moment_is_not_lost_again(spool, slow_desk, clock, monkeypatch):
    """The refusal arrives between the look at the clock and what follows from it."""
    exchange = make_exchange(deadline=1)
    speaker, order = posted(slow_desk, spool, deadline=1)
    speaker.ask(Pull(order.order, 0, 100))
    late = Errand.late

    def meanwhile(errand, *given):
        found = late(errand, *given)
        errand.lose("PeerViolationError: check 7")
        return found

    monkeypatch.setattr(Errand, "late", meanwhile)
    assert not slow_desk.wait(exchange, 60.0, 0.0)
    assert slow_desk.outcome().lost == {A: "PeerViolationError: check 7"}


def test_a_coordinator_that_waits_gives_signs_of_life(desk, spool):
    ticks: list[int] = []
    done = Event()
    site = Site(lambda name, body: b"yes" if done.wait(20) else b"", desk.answer)
    transport = LinkTransport(desk, Still(), 60.0, tick=lambda: ticks.append(1) or (len(ticks) == 2 and done.set()))
    assert transport.exchange(make_exchange(), spool).replies == {A: b"yes"}
    assert len(ticks) >= 2
    desk.close("done")
    site.join()


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
