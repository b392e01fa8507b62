from __future__ import annotations

import threading
import time

import pytest

from fedsec.coordinator.exchange import Exchange
from fedsec.engines.embedded import EmbeddedTransport
from fedsec_secure.errors import AbortError, PeerViolationError
from fedsec_secure.identity.roster import SiteId

SITES = [SiteId(name) for name in ("a", "b", "c", "d")]
ASKED = Exchange("train", 0, 0, {site: site.encode() for site in SITES}, 60.0)


class Site:
    """Answers what ``answer`` gives; knows how many sites were busy with it."""

    busy = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def handle(self, name, body):
        self.asked += 1
        with Site.lock:
            Site.busy += 1
            Site.most = max(Site.most, Site.busy)
        try:
            return self.answer(body)
        finally:
            with Site.lock:
                Site.busy -= 1


def slowly(body):
    time.sleep(0.02)
    return body.upper()


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_so_many_sites_work_at_a_time_and_replies_keep_the_order_of_the_requests(tmp_path, jobs):
    Site.most = 0
    together = threading.Barrier(jobs)

    def meet(body):
        together.wait(30)
        return body.upper()

    found = EmbeddedTransport({s: Site(meet) for s in reversed(SITES)}, jobs).exchange(ASKED, tmp_path)
    assert list(found.replies.items()) == [(s, s.upper().encode()) for s in SITES]
    assert found.lost == {}
    assert Site.most == jobs


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_refusal_is_a_lost_site_with_its_reason(tmp_path, jobs):
    def refuse(body):
        raise PeerViolationError("check 7")

    sites = {s: Site(refuse if s == "b" else slowly) for s in SITES if s != "d"}
    found = EmbeddedTransport(sites, jobs).exchange(ASKED, tmp_path)
    assert found.lost == {"b": "PeerViolationError: check 7", "d": "TransportError: not in this engine"}
    assert list(found.replies) == ["a", "c"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_anything_unforeseen_stops_the_other_sites_and_comes_out(tmp_path, error):
    stopping = threading.Event()

    def fail(body):
        time.sleep(0.02)
        raise error

    def until_stopped(body):
        if not stopping.wait(10):
            pytest.fail("was never told to stop")
        raise AbortError("stopped")

    sites = {s: Site(answer) for s, answer in zip(SITES, (fail, until_stopped, slowly, slowly), strict=True)}
    with pytest.raises(error):
        EmbeddedTransport(sites, 2, stopping).exchange(ASKED, tmp_path)
    assert stopping.is_set()
    assert sites[SITES[3]].asked == 0
