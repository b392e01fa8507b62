"""Sites that send what they should not."""

import pytest

from fedsec.engines.link.messages import Announce, Gone, Have, Next, Nothing, Pull
from tests.links import A, B, Clock, Speaker, lost_reason, make_desk, posted


@pytest.mark.parametrize("upload", [False, True])
def test_a_site_that_three_times_sends_other_bytes_than_it_announced_is_lost(tmp_path, spool, desk, upload):
    speaker, order = posted(desk, spool)
    speaker.announce(order, b"right", upload=upload)
    assert speaker.push(order, 0, b"wrong") == Have(0)
    assert speaker.push(order, 0, b"wrong") == Have(0)
    assert lost_reason(desk) is None
    assert speaker.push(order, 0, b"wrong") == Gone()
    assert "3 times site-a sent or announced other bytes" in lost_reason(desk)
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
    assert lost_reason(desk) is None
    assert speaker.announce(order, b"four") == Gone()
    assert "3 times" in lost_reason(desk)


def test_a_site_that_sends_more_than_it_announced_is_lost(tmp_path, spool, desk):
    speaker, order = posted(desk, spool)
    speaker.announce(order, b"12345")
    speaker.push(order, 0, b"123")
    assert speaker.push(order, 3, b"456") == Gone()
    assert "sends more than the 5 bytes that it announced" in lost_reason(desk)


@pytest.mark.parametrize(("upload", "size", "most"), [(True, 1001, 1000), (False, (1 << 27) + 1, 1 << 27)])
def test_a_reply_that_is_announced_too_large_is_not_begun(tmp_path, spool, upload, size, most):
    desk = make_desk(tmp_path / "incoming", most=1000)
    speaker, order = posted(desk, spool)
    assert speaker.announce(order, b"", upload=upload, size=size) == Gone()
    reason = lost_reason(desk)
    assert f"at most {most} bytes" in reason
    assert str(size) in reason
    assert not list((tmp_path / "incoming").glob("*"))


def test_a_reply_that_was_not_announced_loses_its_site_and_raises_nothing(spool, desk):
    speaker, order = posted(desk, spool)
    assert speaker.push(order, 0, b"words") == Gone()
    assert "did not announce" in lost_reason(desk)


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
    assert lost_reason(desk) is None
