"""Every release is on the privacy ledger before notes are read for it, once, and stays there."""

from __future__ import annotations

import datetime
import math
import shutil
import sqlite3
from contextlib import ExitStack, closing

import pytest

from fedsec.plan.cost import cost, releases
from fedsec.plan.policy import PrivacyBudget, draft_policy
from fedsec.plan.specs import DpSpec, EvaluationSpec
from fedsec.privacy.accountant import RdpFilter
from fedsec.site.charges import LedgerCharges, budgets_of
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec.site.store_answers import Place
from fedsec_secure.accounting.events import encode_event
from fedsec_secure.errors import (
    AbortError,
    ConfigError,
    LocalMisuseError,
    PrivacyBudgetExceededError,
    TransportError,
    VerificationError,
)
from tests.e2e.federation import RUN, Federation, Keys, make_plan
from tests.marks import sampled

SITES = 4
END = datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC)


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
        runner.baselines(bytes)
        expected = [(0, "update", True), (1, "update", True), (2, "baseline", True)]
        assert all(charged(federation, site) == expected for site in keys.sites)
        assert federation.ledgers["site-a"].spent(RdpFilter(), 1e-6) == math.inf
    with Federation(tmp_path, keys, plan) as federation:  # resumed: nothing is charged again
        runner = federation.runner()
        runner.rounds(federation.initial())
        runner.baselines(bytes)
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


EXCHANGES = ("share", "mask", "confirm", "unmask", "verdict", "attest", "witness")


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


def test_a_copy_of_the_record_answers_nothing_beside_it(tmp_path, keys):
    """Both were opened while they were the same: whichever answers first is the record, and the other one stops."""
    plan, state = make_plan(keys, rounds=1), tmp_path / "state"
    with closing(SiteStore(state)) as store:
        store.answers.save(Place(RUN, 0, 0), "mask", bytes(32), b"request", b"secrets", b"upload")
    shutil.copytree(state, tmp_path / "copy")
    with ExitStack() as stack:
        found = []
        for folder in (state, tmp_path / "copy"):
            store = stack.enter_context(closing(SiteStore(folder)))
            ledger = stack.enter_context(Ledger(tmp_path / "books" / "ledger.sqlite", "ward", "patient"))
            found.append((store, LedgerCharges(ledger, plan, store, draft_policy(plan, END))))
        for number, (store, _) in enumerate(found):
            store.save_confirmed(Place(RUN, 0, 0), bytes(32), b"U3 no. %d" % number, b"", b"", frozenset({"a"}))
        (_, charges), (_, other) = found
        charges.pin()
        for refused in (other.pin, lambda: other.spend(RUN, 0, "update", bytes(32)), other.pin):
            with pytest.raises(VerificationError, match="another process answers with a copy of it"):
                refused()
        charges.spend(RUN, 0, "update", bytes(32))
        charges.pin()


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
        charges = LedgerCharges(ledger, plan, store, draft_policy(plan, END))
        for number, purpose in ((1, "update"), (1, "baseline"), (0, "score")):
            with pytest.raises(ConfigError, match=f"releases no {purpose} in round {number}"):
                charges.reserve(RUN, number, purpose)
        charges.spend(RUN, 0, "update", bytes(32))
        charges.spend(RUN, 0, "update", bytes(32))
        with pytest.raises(LocalMisuseError, match="a reservation pays for one output"):
            charges.spend(RUN, 0, "update", bytes([1]) * 32)
        assert charges.passed(charges.head())
        assert not charges.passed(bytes([7]) * 32)


PRIVATE = DpSpec(mode="local", unit="record", target_epsilon=4.0, sampling_rate=0.25, steps=3)


def test_a_private_run_is_charged_what_it_costs_and_no_more_than_its_target(tmp_path, keys):
    plan = make_plan(keys, dp=PRIVATE)
    planned = cost(plan)
    assert 0 < planned.epsilon < planned.charged <= 4.0
    assert planned.epsilon < planned.replace_one
    with Federation(tmp_path, keys, plan, allow_non_private=False) as federation:
        federation.run()
        assert charged(federation) == [(0, "update", True), (1, "update", True)]
        said = federation.agents["site-a"]._id.charges.privacy(RUN)
        assert (said.epsilon_run, said.epsilon_run_replace_one) == (planned.epsilon, planned.replace_one)
        assert (said.epsilon_before, said.epsilon_after) == (0.0, planned.charged)
        assert (said.unit, said.delta, said.releases) == ("record", 1e-5, 2)


@pytest.mark.parametrize("mode", sampled(("local", "distributed"), "distributed"))
def test_examples_that_are_drawn_one_by_one_are_charged_to_the_patient(tmp_path, keys, mode):
    """The same noise costs a patient more than if patients were drawn, and at four examples each four times at most."""
    dp = DpSpec(mode=mode, sampling="record", max_records=4, target_epsilon=8.0, sampling_rate=0.25, steps=3)
    if mode == "distributed":
        dp = dp.model_copy(update={"dimension": 192})
    plan = make_plan(keys, dp=dp, rounds=2)
    drawn = plan.dp.model_copy(update={"sampling": "unit", "max_records": 1})
    patients = cost(make_plan(keys, dp=drawn, rounds=2))
    assert patients.epsilon < cost(plan).epsilon < cost(plan).charged <= 8.0
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
        said = federation.agents["site-a"]._id.charges.privacy(RUN)
        assert said.epsilon_run == pytest.approx(cost(plan).epsilon, rel=1e-3)
        assert said.epsilon_after == pytest.approx(cost(plan).charged, rel=1e-3)
        stored = [r.charge.event for r in federation.ledgers["site-a"].history()]
        assert len(stored) == 2
        assert all(b"poisson-sampled-records" in encode_event(event) for event in stored)


def test_a_second_study_on_the_same_patients_does_not_fit_the_budget_of_one(tmp_path, keys):
    first, second = make_plan(keys, dp=PRIVATE, rounds=1), make_plan(keys, dp=PRIVATE, rounds=1, rank=3)
    with Federation(tmp_path, keys, first) as federation:
        federation.run()
    for name in keys.sites:  # another study: another record, and the same ledger
        (tmp_path / "other" / "state" / name).mkdir(parents=True, mode=0o700)
        shutil.copy(tmp_path / "state" / name / "ledger.sqlite", tmp_path / "other" / "state" / name)
        (tmp_path / "other" / "state" / name / "ledger.sqlite").chmod(0o600)
    with Federation(tmp_path / "other", keys, second) as federation:
        with pytest.raises(AbortError):
            federation.run("second")
        why = next(e["sites"] for e in federation.events if e["event"] == "lost")
        assert all("per record of this population; all of this run would make it" in w for w in why.values())
        assert all(work.trained == [] for work in federation.works.values())


def test_a_run_that_would_stop_half_way_for_its_budget_does_not_begin(tmp_path, keys):
    """One of its two rounds would fit."""
    plan = make_plan(keys, dp=PRIVATE)
    half = cost(make_plan(keys, dp=PRIVATE.model_copy(update={"noise_multiplier": plan.dp.noise_multiplier}), rounds=1))
    line = PrivacyBudget(unit="record", max_epsilon=half.charged + 0.1, max_delta=1e-5)
    store = SiteStore(tmp_path / "state")
    with closing(store), Ledger(tmp_path / "state" / "ledger.sqlite", "ward", "record") as ledger:
        policy = draft_policy(plan, END).model_copy(update={"budgets": (line,)})
        charges = LedgerCharges(ledger, plan, store, policy)
        with pytest.raises(PrivacyBudgetExceededError, match="all of this run would make it"):
            charges.reserve(RUN, 0, "update")
        assert ledger.history() == ()
        enough = policy.model_copy(update={"budgets": (line.model_copy(update={"max_epsilon": 4.0}),)})
        LedgerCharges(ledger, plan, store, enough).reserve(RUN, 0, "update")
        assert len(ledger.history()) == 1


def test_a_plan_and_a_policy_are_held_to_the_stricter_of_their_limits(keys):
    plan = make_plan(keys, dp=PRIVATE)
    lines = (
        PrivacyBudget(unit="record", max_epsilon=5.0, max_delta=1e-4, total_epsilon=9.0),
        PrivacyBudget(unit="record", max_epsilon=1.0, max_delta=1e-6, population="ward"),
    )
    policy = draft_policy(plan, END).model_copy(update={"budgets": lines})
    other = [(b.epsilon, b.delta, b.scope) for b in budgets_of(plan, policy, "clinic")]
    assert other == [(4.0, 1e-5, "plan"), (5.0, 1e-4, "plan"), (9.0, 1e-4, "population")]
    named = [(b.epsilon, b.delta, b.scope) for b in budgets_of(plan, policy, "ward")]
    assert named == [(4.0, 1e-5, "plan"), (1.0, 1e-6, "plan"), (1.0, 1e-6, "population")]
    only_ward = policy.model_copy(update={"budgets": lines[1:]})
    with pytest.raises(PrivacyBudgetExceededError, match="budget per record of population 'clinic'"):
        budgets_of(plan, only_ward, "clinic")
    assert budgets_of(make_plan(keys), policy, "ward") == ()


def test_a_baseline_is_charged_for_the_rounds_that_it_trains_alone(keys):
    plan = make_plan(keys, dp=PRIVATE, rounds=3, evaluation=EvaluationSpec(baselines=("single",)))
    counts = [(number, purpose, event.count) for number, purpose, event in releases(plan)]
    assert counts == [(0, "update", 3), (1, "update", 3), (2, "update", 3), (3, "baseline", 6)]
    assert cost(plan).charged <= 4.0
