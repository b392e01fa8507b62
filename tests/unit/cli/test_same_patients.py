"""`fedsec run --init` on patients who were charged before: they do not start from 0 in a ledger of the run's own."""

from __future__ import annotations

import datetime
import shutil
from contextlib import closing

import pytest

from fedsec.plan.cost import releases
from fedsec.plan.policy import Policy
from fedsec.plan.sitefile import load_site
from fedsec.plan.toml import read_toml
from fedsec.site.charges import LedgerCharges
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec.spool import private_folder
from fedsec.study import prepare
from fedsec.study.prepare import initialise, read_draft
from fedsec.study.sites import require_startable
from fedsec_secure.errors import PrivacyBudgetExceededError
from tests.unit.cli.smoke import SMOKE

PRIVATE = ("dp.mode=local", "dp.target_epsilon=8", "weighting.rule=uniform", "evaluation.public_tests=[]")
NOW = datetime.datetime.now(datetime.UTC)


def _charge(site, plan) -> None:
    """All that one run of the plan releases there."""
    policy = read_toml(site.policy_path, Policy)
    private_folder(site.ledger_path.parent)
    with (
        closing(SiteStore(site.state_path)) as store,
        Ledger(site.ledger_path, site.population, plan.dp.unit, expected=store.ledger_head()) as ledger,
    ):
        charges = LedgerCharges(ledger, plan, store, policy)
        for number, purpose, _ in releases(plan):
            charges.reserve("earlier", number, purpose)


@pytest.fixture
def templates(tmp_path):
    """The sites of the smallest study; one says whose patients it has and where they are charged."""
    shutil.copytree(SMOKE / "sites", tmp_path / "templates")
    path = tmp_path / "templates" / "harbour" / "site.toml"
    named = 'population = "wards-of-the-harbour"\nledger = "../ledgers/harbour.sqlite"\n'
    path.write_text(named + path.read_text())
    return tmp_path / "templates"


def test_population_and_ledger_of_a_site_file_are_kept(tmp_path, templates):
    initialise(read_draft(SMOKE / "plan.toml", PRIVATE), templates, tmp_path / "set", NOW)
    named, other = (load_site(tmp_path / "set" / name / "site.toml") for name in ("harbour", "clifton"))
    assert named.population == "wards-of-the-harbour"
    assert named.ledger_path.resolve() == templates / "ledgers" / "harbour.sqlite"
    assert other.population == "clifton"
    assert other.ledger_path.resolve() == tmp_path / "set" / "clifton" / "state" / "ledger.sqlite"


@pytest.mark.parametrize("name", ["harbour", "clifton"])
def test_a_second_study_on_a_working_set_counts_what_the_first_was_charged(fedsec, tmp_path, templates, name):
    plan = initialise(read_draft(SMOKE / "plan.toml", PRIVATE), templates, tmp_path / "first-sites", NOW)
    first = load_site(tmp_path / "first-sites" / name / "site.toml")
    _charge(first, plan)
    settings = [part for setting in (*PRIVATE, "name=second") for part in ("--set", setting)]
    ask = ("run", SMOKE / "plan.toml", "--sites", tmp_path / "first-sites", "--out", tmp_path / "second", "--init")
    refused = fedsec(*ask, "--quiet", *settings)
    assert refused.code == 1, refused.err
    said = " ".join(refused.err.replace("│", " ").split())
    assert f"site {name}: expected at most epsilon 8" in said
    assert "3 earlier reservations count. Nothing was charged" in said
    assert not (tmp_path / "second").exists()
    assert not (tmp_path / "second-sites").exists()  # a second try is not held to policies of this plan
    initialise(read_draft(SMOKE / "plan.toml", PRIVATE), tmp_path / "first-sites", tmp_path / "second-sites", NOW)
    again = load_site(tmp_path / "second-sites" / name / "site.toml")
    assert (again.ledger_path.resolve(), again.population) == (first.ledger_path.resolve(), first.population)
    assert not again.state_path.exists()


def test_a_site_without_a_record_is_asked_for_its_ledger(tmp_path, templates):
    """Whose folder is new, and whose patients are not."""
    plan = initialise(read_draft(SMOKE / "plan.toml", PRIVATE), templates, tmp_path / "first-sites", NOW)
    site = load_site(tmp_path / "first-sites" / "harbour" / "site.toml")
    _charge(site, plan)
    shutil.rmtree(site.state_path)
    with pytest.raises(PrivacyBudgetExceededError, match=r"site harbour: .* 3 earlier reservations count"):
        require_startable(plan, {"harbour": site}, "later")


def test_no_noise_is_asked_for_where_none_would_help(fedsec, tmp_path, templates):
    """After a release without privacy the message says that it is never undone, not "ask for more noise"."""
    bare = read_draft(SMOKE / "plan.toml", ("evaluation.public_tests=[]",))
    plan = initialise(bare, templates, tmp_path / "first-sites", NOW)
    _charge(load_site(tmp_path / "first-sites" / "clifton" / "site.toml"), plan)
    settings = [part for setting in PRIVATE for part in ("--set", setting)]
    ask = ("run", SMOKE / "plan.toml", "--sites", tmp_path / "first-sites", "--out", tmp_path / "second", "--init")
    refused = fedsec(*ask, "--quiet", *settings)
    assert refused.code == 1, refused.err
    said = " ".join(refused.err.replace("│", " ").split())
    assert "would make it ∞: 3 earlier reservations count" in said
    assert "that is never undone: no noise and no budget over all studies can hold" in said
    assert "more noise," not in said


def test_a_ledger_in_a_folder_that_others_read_is_refused_before_a_run_is_made(fedsec, tmp_path, templates):
    (tmp_path / "templates" / "ledgers").mkdir(mode=0o755)
    settings = [part for setting in PRIVATE for part in ("--set", setting)]
    ask = ("run", SMOKE / "plan.toml", "--sites", templates, "--out", tmp_path / "run", "--init")
    refused = fedsec(*ask, "--quiet", *settings)
    assert refused.code == 2, refused.err
    assert "ledgers: run chmod 700 on it" in " ".join(refused.err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run-sites").exists()


def test_a_refused_run_takes_back_the_working_set_that_it_made_and_no_other(fedsec, tmp_path, templates):
    """Policies that were drafted for a refused plan would refuse the next; a set that was there is a user's own."""
    settings = [part for setting in (*PRIVATE, "dp.target_epsilon=4") for part in ("--set", setting)]
    ask = ("run", SMOKE / "plan.toml", "--sites", templates, "--out", tmp_path / "run", "--init", "--quiet")
    (tmp_path / "templates" / "ledgers").mkdir(mode=0o755)
    assert fedsec(*ask, *settings).code == 2
    (tmp_path / "templates" / "ledgers").chmod(0o700)
    initialise(read_draft(SMOKE / "plan.toml", PRIVATE), templates, tmp_path / "run-sites", NOW)
    before = sorted(tmp_path.joinpath("run-sites").rglob("*"))
    (tmp_path / "templates" / "ledgers").chmod(0o755)
    assert fedsec(*ask, *settings).code == 2
    assert sorted(tmp_path.joinpath("run-sites").rglob("*")) == before


def test_a_working_set_that_another_run_began_on_meanwhile_is_not_taken_back(tmp_path, templates, monkeypatch):
    """Two processes, one --out: the one that is refused must not take the other's ledgers along."""

    def begun_elsewhere(*_):
        private_folder(tmp_path / "run-sites" / "harbour" / "state")
        raise PrivacyBudgetExceededError("no room")

    monkeypatch.setattr(prepare, "require_startable", begun_elsewhere)
    with pytest.raises(PrivacyBudgetExceededError):
        prepare.prepare_run(SMOKE / "plan.toml", templates, tmp_path / "run", init=True, assignments=PRIVATE)
    assert (tmp_path / "run-sites" / "harbour" / "site.key").is_file()
