"""Sums of two rounds that differ by one site: refused by the sites, avoided by the coordinator where it can."""

from __future__ import annotations

import pytest

from fedsec_secure.errors import AbortError, TransportError
from fedsec_secure.masking.checks import close_cohort
from tests.e2e.federation import Federation, Keys, make_plan, run_once

SITES = 7  # threshold and floor 5: two may be lost


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


class Absent:
    """A site that does not answer `mask` of the given attempts of round 1."""

    def __init__(self, agent, attempts: set[int]) -> None:
        self.agent, self.attempts, self.rounds, self.masks = agent, attempts, 0, 0

    def handle(self, name: str, body: bytes):
        self.rounds += name == "verdict"
        if name == "mask" and self.rounds == 1:
            self.masks += 1
            if self.masks - 1 in self.attempts:
                raise TransportError("connection refused")
        return self.agent.handle(name, body)


def away(site: str, attempts: set[int]):
    return lambda name, agent: Absent(agent, attempts) if name == site else agent


def of(federation: Federation, event: str) -> list[dict]:
    return [e for e in federation.events if e["event"] == event]


def test_one_dropout_ends_the_attempt_and_the_next_goes_on_with_all(tmp_path, keys):
    plan = make_plan(keys, change=2)
    calm = run_once(tmp_path / "calm", keys, plan)
    with Federation(tmp_path / "run", keys, plan, wrap=away("site-b", {0})) as federation:
        assert federation.run() == calm
        assert [e["survivors"] for e in of(federation, "round")] == [list(keys.sites)] * 2
        (aborted,) = of(federation, "attempt-aborted")
        assert "differs from an earlier cohort by fewer than 2; trying again with all" in aborted["reason"]
        asked = [(e["exchange"], e["round"], e["attempt"]) for e in of(federation, "exchange")]
        assert ("confirm", 1, 0) not in asked, "a set was shown that sites would refuse"


def test_one_that_stays_away_takes_another_with_it(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys, change=2), wrap=away("site-b", {0, 1, 2})) as federation:
        federation.run()
        first, second = [e["survivors"] for e in of(federation, "round")]
        assert first == list(keys.sites)
        assert second == ["site-a", "site-c", "site-d", "site-e", "site-f"]
        assert [list(e["sites"]) for e in of(federation, "left-out")] == [["site-g"]]


def test_where_the_floor_leaves_no_room_the_run_stops_before_anything_is_revealed(tmp_path, keys):
    plan = make_plan(keys, change=3)
    with Federation(tmp_path, keys, plan, wrap=away("site-b", {0, 1, 2})) as federation:
        with pytest.raises(AbortError, match=r"all smaller ones down to 5\. It was tried"):
            federation.run()
        late = {e["exchange"] for e in of(federation, "exchange") if e["round"] == 1}
        assert late == {"train", "share", "mask"}


def test_sites_refuse_what_a_coordinator_with_another_idea_shows_them(tmp_path, keys):
    """The plan allows any difference, the sites' own policies do not."""
    wrap = away("site-b", {0, 1, 2})
    with Federation(tmp_path, keys, make_plan(keys, change=1), wrap=wrap, change=2) as federation:
        with pytest.raises(AbortError, match="the set of confirmations has 0 sites"):
            federation.run()
        refusals = of(federation, "lost")[-1]["sites"]
        assert set(refusals) == set(keys.sites) - {"site-b"}
        assert all("differs by 1 from a set that this site confirmed" in why for why in refusals.values())
        assert all(len(store.runs.survivor_sets()) == 1 for store in federation.stores.values())


def test_earlier_runs_count_as_well(tmp_path, keys):
    """The same sites in another run of the plan: one dropout there is a difference, too."""
    plan = make_plan(keys, rounds=1, change=2)
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()

    (tmp_path / "run").rename(tmp_path / "finished")  # the sites' records stay

    def wrap(name, agent):
        return Silent(agent) if name == "site-c" else agent

    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        with pytest.raises(AbortError, match="0 sites"):
            federation.run("run-2")
        assert "differs by 1" in of(federation, "lost")[-1]["sites"]["site-a"]


class Silent:
    """A site that never uploads."""

    def __init__(self, agent) -> None:
        self.agent = agent

    def handle(self, name: str, body: bytes):
        if name == "mask":
            raise TransportError("connection refused")
        return self.agent.handle(name, body)


def test_what_is_close():
    a, b = frozenset("abcde"), frozenset("abcd")
    assert close_cohort(a, [a], 9) is None
    assert close_cohort(b, [frozenset("xyz"), a], 2) == a
    assert close_cohort(b, [a], 1) is None
    assert close_cohort(frozenset("abcx"), [b], 3) == b
    assert close_cohort(frozenset("abcx"), [b], 2) is None
