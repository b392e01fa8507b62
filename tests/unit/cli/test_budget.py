"""`fedsec budget`: what a site's ledger says, and what a plan would cost."""

import shutil
from pathlib import Path

import pytest

from fedsec.plan.cost import SPARE_DELTA
from tests.unit.cli.smoke import finished_run


@pytest.fixture
def site(tmp_path):
    shutil.copytree(finished_run().with_name("run-sites"), tmp_path / "sites")
    return tmp_path / "sites" / "clifton" / "site.toml"


def test_a_run_without_privacy_is_on_the_ledger_for_ever(fedsec, site):
    shown = fedsec("budget", "show", site)
    assert shown.code == 0
    assert "∞" in shown.out
    assert "never undone" in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 100
    rows = fedsec("budget", "show", site, "--json").json["rows"]
    assert [(r["unit"], r["releases"], r["epsilon"]) for r in rows] == [
        ("patient", 2, "infinity"),
        ("record", 2, "infinity"),
    ]


def test_every_charge_is_listed(fedsec, site):
    rows = fedsec("budget", "history", site, "--json").json["rows"]
    assert [(r["round"], r["purpose"], r["event"], r["released"]) for r in rows] == [
        (0, "update", "without differential privacy", True),
        (1, "update", "without differential privacy", True),
    ]
    page = fedsec("budget", "history", site).out
    assert max(len(line) for line in page.splitlines()) <= 100
    lines = [line.split() for line in page.splitlines() if "update" in line]
    assert [(line[3], line[4]) for line in lines] == [("one", "1"), ("one", "2")], "rounds count from one, as in status"


def test_a_plan_that_ran_as_often_as_it_may_is_refused_before_anything_is_made(fedsec, site):
    plan, sites = site.parent.parent / "coordinator" / "plan.json", site.parent.parent
    refused = fedsec("run", plan, "--sites", sites, "--out", "two", "--quiet")
    assert (refused.code, Path("two").exists()) == (2, False)
    assert "max_runs = 1 for one plan, and 1 of this plan began there" in " ".join(
        refused.err.replace("│", " ").split()
    )


def test_a_plan_is_priced_without_charging_it(fedsec, site):
    plan = site.parent.parent / "coordinator" / "plan.json"
    before = fedsec("budget", "history", site, "--json").json
    result = fedsec("budget", "simulate", plan, "--site", site, "--json")
    assert result.code == 0
    # Three at most: two updates, and the baseline, which this run had no tests for.
    unbounded = dict.fromkeys(("before", "after", "epsilon", "replace_one"), "infinity")
    asked = {"releases": 3, "delta": SPARE_DELTA, "record_level_releases": 0}
    assert result.json == asked | {"allowed": True, "limits": [], "refusals": []} | unbounded
    assert "3 releases without differential privacy" in fedsec("budget", "simulate", plan, "--site", site).out
    assert fedsec("budget", "history", site, "--json").json == before
    policy = site.parent / "policy.toml"
    policy.write_text(policy.read_text().replace('dp_modes = ["none"]', 'dp_modes = ["local"]'))
    refused = fedsec("budget", "simulate", plan, "--site", site)
    assert refused.code == 1
    assert "Refused: policy check 12: expected dp.mode of local; found none" in refused.out


def test_looking_at_a_site_that_never_ran_makes_no_ledger(fedsec, site):
    state = site.parent / "state"
    shutil.rmtree(state)
    rows = fedsec("budget", "show", site, "--json").json["rows"]
    assert [(r["releases"], r["epsilon"]) for r in rows] == [(0, 0.0), (0, 0.0)]
    assert fedsec("budget", "history", site).code == 0
    plan = site.parent.parent / "coordinator" / "plan.json"
    assert fedsec("budget", "simulate", plan, "--site", site, "--json").json["before"] == 0.0
    assert not state.exists()


@pytest.mark.parametrize("emptied", [False, True])
def test_a_site_that_lost_its_ledger_and_its_record_is_not_shown_as_one_that_never_ran(fedsec, site, emptied):
    """Nor begins with a new one: its own log still says that something left, and each answer was pinned first."""
    state, sites = site.parent / "state", site.parent.parent
    for file in state.glob("*.sqlite*"):
        file.unlink()
    if emptied:
        (state / "ledger.sqlite").touch(mode=0o600)
    plan = sites / "coordinator" / "plan.json"
    for asked in (("show", site), ("history", site), ("simulate", plan, "--site", site)):
        refused = fedsec("budget", *asked)
        assert (refused.code, refused.out) == (1, "")
        assert "a new ledger would forget what was spent" in " ".join(refused.err.replace("│", " ").split())
    out = sites.parent / "two"
    refused = fedsec("run", plan, "--sites", sites, "--out", out, "--quiet")
    assert (refused.code, out.exists()) == (1, False)
    assert "a new ledger would forget what was spent" in " ".join(refused.err.replace("│", " ").split())
