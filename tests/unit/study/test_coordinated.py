"""A coordinator whose sites are elsewhere: what it refuses before anything starts, and where it goes on."""

import datetime
import shutil

import pytest

from fedsec.plan.approval import approve
from fedsec.plan.document import compile_plan
from fedsec.plan.model import Draft
from fedsec.plan.policy import Policy
from fedsec.plan.toml import read_toml
from fedsec.study.coordinate import Coordination, open_coordination
from fedsec.study.coordinated import coordination_folder, prepare_coordination, reopen_coordination
from fedsec.study.coordinator_key import coordinator_key
from fedsec.study.corpora import PublicSets
from fedsec.study.federation import open_study
from fedsec.study.folder import RunFolder
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from tests.machines import Machines
from tests.unit.cli.conftest import fedsec  # noqa: F401  a fixture
from tests.unit.cli.smoke import finished_run

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@pytest.fixture
def machines(tmp_path):
    return Machines(finished_run().with_name("run-sites"), tmp_path / "machines")


@pytest.fixture
def prepared(machines, tmp_path):
    return prepare_coordination(machines.plan_path, machines.coordinator, tmp_path / "run", "one")


def refused(machines, tmp_path, error, match):
    with pytest.raises(error, match=match) as e:
        prepare_coordination(machines.plan_path, machines.coordinator, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(e.value)


def test_the_folder_has_plan_and_approvals_and_remembers_whose_it_is(machines, prepared):
    assert RunFolder.open(prepared.path).plan == machines.plan
    assert RunFolder.open(prepared.path).distributed
    assert coordinator_key(RunFolder.open(prepared.path)).public.hex == machines.plan.roster.coordinator
    assert {p.stem for p in (prepared.path / "approvals").iterdir()} == set(machines.plan.roster.sites)
    assert len(prepared.approval_entries()) == len(machines.plan.roster.sites)


def test_each_missing_approval_is_named_and_those_that_are_there_are_not(machines, tmp_path):
    for name in ("clifton", "priory"):
        (machines.office / "approvals" / f"{name}.json").unlink()
    said = refused(machines, tmp_path, VerificationError, "not approved by 2 of 6 sites")
    assert "clifton: expected" in said
    assert "priory: expected" in said
    assert "harbour" not in said


def test_an_approval_of_another_site_or_by_another_officer_or_that_ended_is_refused(machines, tmp_path):
    folder = machines.office / "approvals"
    real, policy = (folder / "clifton.json").read_bytes(), read_toml(machines.site("clifton").policy_path, Policy)
    shutil.copy(folder / "harbour.json", folder / "clifton.json")
    refused(machines, tmp_path, VerificationError, "clifton: ")
    stranger = SigningKey.generate()
    sites = dict(machines.plan.roster.sites)
    sites["clifton"] = sites["clifton"].model_copy(update={"officer": stranger.public.hex})
    other = machines.plan.model_copy(update={"roster": machines.plan.roster.model_copy(update={"sites": sites})})
    forged = approve(other, policy, "clifton", stranger, NOW + datetime.timedelta(days=1), NOW)
    (folder / "clifton.json").write_bytes(forged)
    refused(machines, tmp_path, VerificationError, "clifton: ")
    officer = SigningKey.load(finished_run().with_name("run-sites") / "clifton" / "officer.key")
    then = NOW - datetime.timedelta(days=2)
    (folder / "clifton.json").write_bytes(
        approve(machines.plan, policy, "clifton", officer, then + datetime.timedelta(days=1), then)
    )
    refused(machines, tmp_path, VerificationError, "clifton: the approval ended")
    (folder / "clifton.json").write_bytes(real)
    prepare_coordination(machines.plan_path, machines.coordinator, tmp_path / "run")


def test_another_key_than_the_plan_s_is_refused(machines, tmp_path, prepared):
    (machines.office / "coordinator.key").unlink()
    SigningKey.generate().save(machines.office / "coordinator.key")
    with pytest.raises(ConfigError, match="not the key of the plan's coordinator"):
        open_coordination(prepared, lambda event: None)
    shutil.rmtree(prepared.path)
    refused(machines, tmp_path, ConfigError, "not the key of the plan's coordinator")


class Unreachable:
    def sites(self):
        return ()

    def exchange(self, exchange, spool):
        pytest.fail(f"a site was asked for {exchange.name}")


def test_pooled_notes_are_asked_of_no_coordinator_that_has_none(machines, tmp_path, prepared):
    evaluation = machines.plan.evaluation.model_copy(update={"baselines": ("central",)})
    value = machines.plan.model_copy(update={"evaluation": evaluation})
    draft = Draft.model_validate({n: getattr(value, n) for n in Draft.model_fields})
    plan = compile_plan(draft, machines.plan.roster)
    machines.plan_path.write_bytes(plan.canonical())
    shutil.rmtree(prepared.path)
    refused(machines, tmp_path, ConfigError, "baseline central")
    folder = RunFolder.create(tmp_path / "run", "one", machines.coordinator, plan, {}, distributed=True)
    coordination = Coordination(folder, coordinator_key(folder), None, PublicSets())
    with pytest.raises(ConfigError, match="take central out"):
        coordination.run(Unreachable())
    assert not (folder.path / "journal.sqlite").exists()


def test_the_same_command_goes_on_and_another_plan_run_or_file_does_not(machines, tmp_path, prepared):
    where = (machines.plan_path, machines.coordinator, prepared.path)
    assert coordination_folder(*where).run == coordination_folder(*where, "one").run == "one"
    with pytest.raises(ConfigError, match="choose another --out"):
        coordination_folder(*where, "two")
    with pytest.raises(ConfigError, match="not empty"):
        prepare_coordination(*where)
    moved = shutil.copy(machines.coordinator, machines.office / "moved.toml")
    with pytest.raises(ConfigError, match="expected it again"):
        reopen_coordination(machines.plan_path, machines.office / moved, prepared.path)
    other = machines.plan.model_copy(update={"seed": 8})
    machines.plan_path.write_bytes(other.canonical())
    with pytest.raises(ConfigError, match="choose another --out"):
        reopen_coordination(*where)
    with pytest.raises(ConfigError, match="fedsec resume"):
        reopen_coordination(finished_run() / "plan.json", machines.coordinator, finished_run())
    assert coordination_folder(finished_run() / "plan.json", machines.coordinator, tmp_path / "new").run != "one"


def test_no_embedded_command_goes_on_with_it(fedsec, prepared):  # noqa: F811
    with pytest.raises(ConfigError, match="fedsec coordinator serve"):
        open_study(prepared, lambda event: None)
    assert "go on with `fedsec coordinator serve`" in " ".join(fedsec("status", prepared.path).out.split())
