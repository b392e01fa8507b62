"""Uploads go on where they were: over another connection, at another process, after a full disk."""

import resource
import tempfile
from pathlib import Path
from threading import Event

import pytest

from fedsec.coordinator.journal import Journal
from fedsec.engines.link.messages import Have
from fedsec.engines.link.station import Pace, UndeliveredError
from fedsec.spool import private_folder
from tests.links import LARGE, A, Agent, B, Counted, Site, Speaker, exchanged, file_of, make_desk, make_exchange, over


@pytest.mark.parametrize("after", [200_000, 600_000, 1_279_000])
def test_an_upload_goes_on_over_the_next_connection_where_it_was(tmp_path, spool, desk, after):
    reply = file_of(tmp_path)
    agent = Agent(lambda name, body: reply)
    line = Counted(desk, after)
    outcome, sites = exchanged(desk, spool, make_exchange(), {A: agent}, line)
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


@pytest.mark.parametrize("changed", [False, True])
def test_an_upload_that_came_whole_before_the_coordinator_was_killed_is_not_sent_again(tmp_path, changed):
    """Its exchange was not over, so that the journal does not know of it."""
    exchange = make_exchange(sites=(A, B), name="mask")

    def served() -> tuple[Journal, Speaker, Speaker]:
        journal = Journal(private_folder(tmp_path / "run"))
        journal.bind(b"plan", "run", b"roster")
        desk = make_desk(tmp_path / "incoming")
        desk.post(exchange, journal.spool)
        return journal, Speaker(desk, A), Speaker(desk, B)

    journal, fast, slow = served()
    fast.upload(fast.order(), LARGE)
    order = slow.order()
    slow.announce(order, LARGE)
    slow.push(order, 0, LARGE[:1000])
    journal.close()
    (whole,) = journal.spool.iterdir()
    if changed:
        whole.write_bytes(LARGE[:-1] + b"!")
    journal, fast, slow = served()
    assert fast.announce(fast.order(), LARGE) == Have(0 if changed else len(LARGE))
    assert slow.announce(slow.order(), LARGE) == Have(1000)
    journal.close()


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


def test_the_run_folder_may_be_on_another_disk(tmp_path):
    """/dev/shm is one, where it is a file system of its own."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir=other) as spool:
        desk, reply = make_desk(tmp_path / "incoming"), file_of(tmp_path)
        outcome, _ = exchanged(desk, Path(spool), make_exchange(), {A: Agent(lambda name, body: reply)})
        assert outcome.uploads()[A].parent == Path(spool)
        assert outcome.uploads()[A].read_bytes() == LARGE
        assert list((tmp_path / "incoming").iterdir()) == []
