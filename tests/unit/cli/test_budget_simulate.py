"""`fedsec budget simulate` and `show` of private runs: what they say is what the ledger does."""

import datetime
import itertools
import shutil
from contextlib import closing

import pytest

from fedsec.plan.cost import SPARE_DELTA, cost, releases
from fedsec.plan.policy import Policy, PrivacyBudget, draft_policy
from fedsec.plan.policy_checks import check_plan
from fedsec.plan.sitefile import load_site
from fedsec.plan.specs import DpSpec
from fedsec.plan.toml import read_toml, write_toml
from fedsec.site.charges import LedgerCharges
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec.study.sites import require_startable
from fedsec_secure.errors import PrivacyBudgetExceededError
from tests.e2e.federation import Keys, make_plan
from tests.marks import sampled

END = datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC)
DP = DpSpec(mode="local", unit="patient", target_epsilon=8.0, target_delta=1e-5, sampling_rate=0.25, steps=3)
SITE = """
name = "ward"
officer = "{officer}"
[data]
path = "notes.jsonl"
"""


@pytest.fixture(scope="module")
def keys():
    return Keys.generate(3)


class Ward:
    """One site's folder, with a ledger that real charges are made to."""

    def __init__(self, folder, keys) -> None:
        self.folder, self.path = folder, folder / "site.toml"
        folder.mkdir()
        self.path.write_text(SITE.format(officer=next(iter(keys.officers.values())).public.hex))

    def allow(self, plan, **line) -> Policy:
        """A policy for the plan with this line of budgets in place of its own."""
        budget = PrivacyBudget(**({"unit": plan.dp.unit, "max_epsilon": 8.0, "max_delta": 1e-5} | line))
        policy = draft_policy(plan, END).model_copy(update={"budgets": (budget,)})
        (self.folder / "policy.toml").write_text(write_toml(policy, "A policy."))
        return read_toml(self.folder / "policy.toml", Policy)

    def charge(self, plan, policy, run) -> None:
        """All that one run of the plan releases."""
        state = self.folder / "state"
        with (
            closing(SiteStore(state)) as store,
            Ledger(state / "ledger.sqlite", "ward", plan.dp.unit, expected=store.ledger_head()) as ledger,
        ):
            charges = LedgerCharges(ledger, plan, store, policy)
            for number, purpose, _ in releases(plan):
                charges.reserve(run, number, purpose)

    def simulate(self, fedsec, plan, *options):
        (self.folder / "plan.json").write_bytes(plan.canonical())
        return fedsec("budget", "simulate", self.folder / "plan.json", "--site", self.path, *options)


@pytest.fixture
def ward(tmp_path, keys):
    return Ward(tmp_path / "ward", keys)


def test_a_plan_that_ran_once_does_not_fit_its_own_target_again(fedsec, ward, keys):
    """Whatever the officer leaves for other studies."""
    plan = make_plan(keys, dp=DP)
    policy = ward.allow(plan, total_epsilon=16.0)
    assert ward.simulate(fedsec, plan).code == 0
    ward.charge(plan, policy, "first")
    again = ward.simulate(fedsec, plan, "--json")
    assert again.code == 1
    target, study, everything = again.json["limits"]
    assert target["limit"] == "the plan's target"
    assert target["before"] == study["before"] == everything["before"] == pytest.approx(cost(plan).charged)
    assert target["after"] > target["most"] == 8.0
    assert everything["after"] < everything["most"] == 16.0
    (refusal,) = again.json["refusals"]
    assert "expected at most epsilon 8 at delta 1e-05 per patient of this plan" in refusal
    with pytest.raises(PrivacyBudgetExceededError) as e:
        ward.charge(plan, policy, "second")
    assert refusal == f"privacy ledger: {e.value}"
    with pytest.raises(PrivacyBudgetExceededError, match=r"^site ward: expected at most epsilon 8 "):
        require_startable(plan, {"ward": load_site(ward.path)}, "second")
    page = ward.simulate(fedsec, plan).out
    assert max(len(line) for line in page.splitlines()) <= 100
    assert "per patient of this plan" in " ".join(page.split())
    assert "allow it" not in page


def test_each_limit_is_counted_at_its_own_delta(fedsec, ward, keys):
    """A policy at a smaller delta than the plan's counts more, one at a larger delta less."""
    plan = make_plan(keys, dp=DP)
    charged = cost(plan).charged
    ward.allow(plan, max_epsilon=9.0, max_delta=1e-7)
    tighter = ward.simulate(fedsec, plan, "--json")
    assert tighter.code == 1
    assert [limit["delta"] for limit in tighter.json["limits"]] == [1e-5, 1e-7, 1e-7]
    own, study, _ = tighter.json["limits"]
    assert own["after"] == pytest.approx(charged)
    assert study["after"] > 9.0 > own["after"]
    assert any("expected at most epsilon 9 at delta 1e-07 per patient" in why for why in tighter.json["refusals"])

    other = make_plan(keys, dp=DP, rank=3)
    probe = ward.allow(other, max_delta=1e-3, total_epsilon=100.0)
    ward.charge(plan, probe, "first")
    *_, everything = ward.simulate(fedsec, other, "--json").json["limits"]
    at_plan = ward.simulate(fedsec, other, "--json").json["after"]
    assert everything["after"] < at_plan
    between = (everything["after"] + at_plan) / 2
    policy = ward.allow(other, max_delta=1e-3, total_epsilon=between)
    looser = ward.simulate(fedsec, other)
    assert looser.code == 0, looser.out
    assert "The policy and the ledger allow it." in looser.out
    ward.charge(other, policy, "second")


TARGETS, STUDY, TOTAL, DELTAS = (2.0, 8.0), (7.0, 9.0), (9.0, 16.0), (1e-7, 1e-5, 1e-3)


@pytest.mark.parametrize(
    "earlier", sampled(("none", "the same plan", "another plan", "another unit"), "the same plan", "another unit")
)
def test_simulate_and_the_ledger_decide_alike(fedsec, tmp_path, keys, earlier):
    """Over a grid of policies and plans: a site runs what its policy's checks and its ledger let through."""
    decided = set()
    for number, (target, study, total, delta) in enumerate(itertools.product(TARGETS, STUDY, TOTAL, DELTAS)):
        ward = Ward(tmp_path / str(number), keys)
        plan = make_plan(keys, dp=DP.model_copy(update={"target_epsilon": target}))
        before = {
            "the same plan": plan,
            "another plan": make_plan(keys, dp=DP, rank=3),
            "another unit": make_plan(keys, dp=DP.model_copy(update={"unit": "record"})),
        }.get(earlier)
        if before is not None:
            ward.charge(before, ward.allow(before, max_epsilon=100.0), "earlier")
        policy = ward.allow(plan, max_epsilon=study, total_epsilon=total, max_delta=delta)
        said = ward.simulate(fedsec, plan, "--json")
        refused = [why for why in said.json["refusals"] if why.startswith("privacy ledger: ")]
        try:
            ward.charge(plan, policy, "now")
            held = []
        except PrivacyBudgetExceededError as e:
            held = [f"privacy ledger: {e}"]
        assert refused == held
        checked = not check_plan(policy, plan, datetime.datetime.now(datetime.UTC))
        assert (said.code == 0) == said.json["allowed"] == (checked and not held), (target, study, total, delta)
        decided.add(said.code)
    assert decided == ({1} if earlier == "the same plan" else {0, 1})


def test_a_population_without_a_line_is_refused_as_the_ledger_refuses_it(fedsec, ward, keys):
    plan = make_plan(keys, dp=DP)
    policy = ward.allow(plan, population="clinic")
    said = ward.simulate(fedsec, plan)
    assert said.code == 1
    assert "expected a budget per patient of population 'ward' in the policy" in " ".join(said.out.split())
    with pytest.raises(PrivacyBudgetExceededError, match="of population 'ward'"):
        ward.charge(plan, policy, "first")


def test_what_was_charged_to_patients_counts_against_their_records(fedsec, ward, keys):
    """Each record of a patient is in what the patient's noise hides; a budget for records holds over both."""
    patients, records = make_plan(keys, dp=DP), make_plan(keys, dp=DP.model_copy(update={"unit": "record"}))
    ward.charge(patients, ward.allow(patients), "first")
    policy = ward.allow(records)
    said = ward.simulate(fedsec, records, "--json")
    *_, everything = said.json["limits"]
    assert said.code == 1
    assert everything["before"] > cost(patients).charged
    assert everything["after"] > everything["most"] == 8.0
    with pytest.raises(PrivacyBudgetExceededError, match="per record of this population"):
        ward.charge(records, policy, "second")
    shown, found = fedsec("budget", "show", ward.path), fedsec("budget", "show", ward.path, "--json").json
    assert "What was charged to patients counts for their records too" in shown.out
    patient, record = found["rows"]
    assert (found["record_level_releases"], record["releases"]) == (0, 2)
    assert record["epsilon"] == pytest.approx(everything["before"])
    assert patient["epsilon"] >= cost(patients).charged  # at the smaller delta of what has no line of its own


def test_record_level_releases_leave_the_patient_without_a_bound(fedsec, ward, keys):
    plan = make_plan(keys, dp=DP.model_copy(update={"unit": "record"}))
    policy = ward.allow(plan)
    before = fedsec("budget", "show", ward.path, "--json").json
    assert (before["record_level_releases"], before["rows"][0]["epsilon"]) == (0, 0.0)
    ward.charge(plan, policy, "first")
    shown = fedsec("budget", "show", ward.path)
    assert "not bounded: 2 record-level releases" in shown.out
    assert "A record is one window of a note" in shown.out
    assert "What was charged to patients" not in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 100
    found = fedsec("budget", "show", ward.path, "--json").json
    patient, record = found["rows"]
    assert (found["record_level_releases"], patient["releases"], patient["epsilon"]) == (2, 0, "not bounded")
    assert (record["releases"], record["epsilon"]) == (2, pytest.approx(cost(plan).charged))


@pytest.mark.parametrize("put_back", [True, False])
def test_an_older_ledger_is_not_shown_as_the_newest(fedsec, ward, keys, put_back):
    """After a restore an officer asks what was spent: the record knows that the file does not have all of it."""
    first, second = make_plan(keys, dp=DP), make_plan(keys, dp=DP, rank=3)
    policy = ward.allow(second, total_epsilon=100.0)
    ledger, copy = ward.folder / "state" / "ledger.sqlite", ward.folder / "copy.sqlite"
    ward.charge(first, policy, "first")
    shutil.copy(ledger, copy)
    ward.charge(second, policy, "second")
    assert len(fedsec("budget", "history", ward.path, "--json").json["rows"]) == 4
    ledger.unlink()
    if put_back:
        shutil.copy(copy, ledger)
    for asked in (("show", ward.path), ("show", ward.path, "--json"), ("history", ward.path)):
        refused = fedsec("budget", *asked)
        assert (refused.code, refused.out) == (1, "")
        assert "restore the newest copy" in " ".join(refused.err.replace("│", " ").split()).lower()
    refused = ward.simulate(fedsec, second)
    assert (refused.code, refused.out) == (1, "")
    assert ledger.exists() == put_back


def test_a_ledger_is_shown_while_its_site_runs(fedsec, ward, keys):
    plan = make_plan(keys, dp=DP)
    ward.charge(plan, ward.allow(plan), "first")
    with closing(SiteStore(ward.folder / "state")):
        assert fedsec("budget", "show", ward.path).code == 0
    (ward.folder / "state" / "record.sqlite").write_bytes(b"no record" * 1000)
    damaged = fedsec("budget", "show", ward.path)
    assert damaged.code == 1
    assert "record.sqlite" in damaged.err


def test_an_epsilon_has_its_delta_with_it(fedsec, ward, keys):
    """That of records is counted although the policy has no line for them, so no line says at which delta."""
    plan = make_plan(keys, dp=DP)
    ward.charge(plan, ward.allow(plan), "first")
    shown, found = fedsec("budget", "show", ward.path), fedsec("budget", "show", ward.path, "--json").json
    assert [row["delta"] for row in found["rows"]] == [1e-5, SPARE_DELTA]
    (line,) = [line for line in shown.out.splitlines() if line.startswith("│ record")]
    assert f"no budget; ε is at δ = {SPARE_DELTA:g}" in line
    said = ward.simulate(fedsec, plan)
    assert "ε charged to each patient at δ = 1e-05: " in said.out
    assert ward.simulate(fedsec, plan, "--json").json["delta"] == 1e-5


def test_what_a_patient_plan_finds_charged_is_not_said_of_record_level_releases(fedsec, ward, keys):
    patients, records = make_plan(keys, dp=DP), make_plan(keys, dp=DP.model_copy(update={"unit": "record"}))
    ward.charge(records, ward.allow(records), "first")
    ward.allow(patients)
    said = ward.simulate(fedsec, patients)
    assert "patient at δ = 1e-05: 0 now" in said.out
    assert "Not in it: 2 record-level releases. A record is one window of a note" in " ".join(said.out.split())
    assert ward.simulate(fedsec, patients, "--json").json["record_level_releases"] == 2
    assert "Not in it" not in ward.simulate(fedsec, records).out


def test_the_same_ledger_under_another_name_is_remarked_on(fedsec, ward, keys):
    """A plan calls the hospital something else: without `population` its patients start from 0."""
    plan = make_plan(keys, dp=DP)
    ward.charge(plan, ward.allow(plan), "first")
    assert fedsec("budget", "show", ward.path, "--json").json["other_populations"] == []
    assert "other patients" not in fedsec("budget", "show", ward.path).out
    as_ward = ward.path.read_text()
    ward.path.write_text(as_ward.replace('name = "ward"', 'name = "ward-north"'))
    found = fedsec("budget", "show", ward.path, "--json").json
    assert (found["other_populations"], found["rows"][0]["epsilon"]) == (["ward"], 0.0)
    for page in (fedsec("budget", "show", ward.path).out, ward.simulate(fedsec, plan).out):
        assert 'If these are the same patients, the site file needs population = "ward"' in " ".join(page.split())
    ward.path.write_text(ward.path.read_text().replace("[data]", 'population = "ward"\n[data]'))
    found = fedsec("budget", "show", ward.path, "--json").json
    assert (found["other_populations"], found["rows"][0]["releases"]) == ([], 2)
