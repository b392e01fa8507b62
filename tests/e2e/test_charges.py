"""Every release is on the privacy ledger before notes are read for it, once, and stays there."""

from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing

import pytest

from fedsec.plan.model import DpSpec, EvaluationSpec
from fedsec.site.charges import LedgerCharges, releases
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec_secure.accounting.accountant import TrivialAccountant
from fedsec_secure.errors import AbortError, ConfigError, LocalMisuseError, TransportError, VerificationError
from tests.e2e.federation import RUN, Federation, Keys, make_plan

SITES = 4


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def charged(federation: Federation, site: str = "site-a") -> list[tuple[int, str, bool]]:
    history = federation.ledgers[site].history()
    return [(r.charge.round, r.charge.purpose, r.released is not None) for r in history]


def test_a_run_charges_each_round_once_and_the_baseline(tmp_path, keys):
    plan = make_plan(keys, evaluation=EvaluationSpec(baselines=("single",)))
    with Federation(tmp_path, keys, plan) as federation:
        runner = federation.runner()
        runner.rounds(federation.initial())
        runner.baselines()
        expected = [(0, "update", True), (1, "update", True), (2, "baseline", True)]
        assert all(charged(federation, site) == expected for site in keys.sites)
        assert federation.ledgers["site-a"].spent(TrivialAccountant(), 1e-6) == math.inf
    with Federation(tmp_path, keys, plan) as federation:  # resumed: nothing is charged again
        runner = federation.runner()
        runner.rounds(federation.initial())
        runner.baselines()
        assert charged(federation) == expected


class Lost:
    """A site whose answers to one exchange are lost."""

    def __init__(self, agent, exchange: str, times: int) -> None:
        self.agent, self.exchange, self.times = agent, exchange, times

    def handle(self, name: str, body: bytes):
        if name == self.exchange and self.times:
            self.times -= 1
            raise TransportError("connection refused")
        return self.agent.handle(name, body)


def test_a_release_that_never_left_stays_charged(tmp_path, keys):
    wrap = lambda site, agent: Lost(agent, "mask", 9) if site == "site-a" else agent  # noqa: E731
    with Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=wrap) as federation:
        federation.run()
        assert charged(federation) == [(0, "update", False)]
        assert charged(federation, "site-b") == [(0, "update", True)]


def test_a_second_attempt_is_the_same_release(tmp_path, keys):
    wrap = lambda site, agent: Lost(agent, "share", 1) if site in ("site-a", "site-b") else agent  # noqa: E731
    with Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=wrap) as federation:
        federation.run()
        assert [e["attempt"] for e in federation.events if e["event"] == "attempt-aborted"] == [0]
        assert charged(federation) == [(0, "update", True)]


def test_a_site_whose_policy_requires_privacy_trains_nothing(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys), allow_non_private=False) as federation:
        with pytest.raises(AbortError):
            federation.run()
        why = next(e["sites"] for e in federation.events if e["event"] == "lost")
        assert all("expected a privacy budget per patient, found none" in w for w in why.values())
        assert all(work.trained == [] for work in federation.works.values())
        assert charged(federation) == []


def test_a_ledger_that_was_set_back_or_lost_stops_its_site(tmp_path, keys):
    plan, path = make_plan(keys, rounds=1), tmp_path / "state" / "site-a" / "ledger.sqlite"
    with Federation(tmp_path, keys, plan):
        pass
    shutil.copy(path, tmp_path / "older")
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
    for set_back in (lambda: shutil.copy(tmp_path / "older", path), path.unlink):
        set_back()
        with pytest.raises(VerificationError, match=r"[Rr]estore the newest copy"):
            Federation(tmp_path, keys, plan).__enter__()
        for name in keys.sites:  # let go of what was opened before the refusal
            (tmp_path / "state" / name / "lock").unlink()


class Snapshots:
    """Copies the record of a site before it answers an exchange, as a backup would."""

    def __init__(self, agent, folder, at: str) -> None:
        self.agent, self.folder, self.at = agent, folder, at

    def handle(self, name: str, body: bytes):
        if name == self.at:
            source = sqlite3.connect(self.folder / "record.sqlite")
            with closing(sqlite3.connect(self.folder / "older")) as copy, closing(source):
                source.backup(copy)
        return self.agent.handle(name, body)


EXCHANGES = ("share", "mask", "confirm", "unmask", "verdict", "attest")


@pytest.mark.parametrize("at", EXCHANGES)
def test_a_record_that_was_set_back_stops_its_site(tmp_path, keys, at):
    """To any moment before an answer: the ledger has pinned the answer."""
    plan, state = make_plan(keys, rounds=1), tmp_path / "state" / "site-a"
    wrap = lambda site, agent: Snapshots(agent, state, at) if site == "site-a" else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
    for name in ("record.sqlite-wal", "record.sqlite-shm"):
        (state / name).unlink(missing_ok=True)
    shutil.move(state / "older", state / "record.sqlite")
    with pytest.raises(VerificationError, match="the record was rolled back, truncated or replaced"):
        Federation(tmp_path, keys, plan).__enter__()


def test_a_record_that_was_lost_releases_nothing_of_the_run_again(tmp_path, keys):
    """A fresh record knows of no survivor set that was signed before: it may not sign another."""
    plan, state = make_plan(keys, rounds=1), tmp_path / "state" / "site-a"
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
    for path in (*state.glob("record.sqlite*"), *(tmp_path / "run").glob("journal.sqlite*")):
        path.unlink()
    shutil.rmtree(tmp_path / "run")
    for name in ("site-b", "site-c", "site-d"):  # sites that forget as well, to help the coordinator
        shutil.rmtree(tmp_path / "state" / name)
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
        why = [e["sites"] for e in federation.events if e["event"] == "lost" and e["exchange"] == "train"]
        assert "was charged by another record of this site" in why[0]["site-a"]
        assert federation.works["site-a"].trained == []


def test_only_what_the_plan_releases_is_charged(tmp_path, keys):
    plan = make_plan(keys, rounds=1)
    store = SiteStore(tmp_path / "state")
    with closing(store), Ledger(tmp_path / "state" / "ledger.sqlite", "ward", "patient") as ledger:
        charges = LedgerCharges(ledger, plan, store, allow_non_private=True)
        for number, purpose in ((1, "update"), (1, "baseline"), (0, "score")):
            with pytest.raises(ConfigError, match=f"releases no {purpose} in round {number}"):
                charges.reserve(RUN, number, purpose)
        charges.spend(RUN, 0, "update", bytes(32))
        charges.spend(RUN, 0, "update", bytes(32))
        with pytest.raises(LocalMisuseError, match="a reservation pays for one output"):
            charges.spend(RUN, 0, "update", bytes([1]) * 32)
        assert charges.passed(charges.head())
        assert not charges.passed(bytes([7]) * 32)
    private = plan.model_copy(update={"dp": DpSpec(mode="local", target_epsilon=1.0, target_delta=1e-6)})
    with pytest.raises(ConfigError, match=r"dp\.mode local is not built"):
        releases(private)
