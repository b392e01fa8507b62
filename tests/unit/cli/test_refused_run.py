"""A run that an officer did not approve is refused before anything is loaded, and leaves nothing behind."""

import datetime
import shutil

import pytest

from fedsec.plan.document import load_plan
from fedsec.plan.init import complete_working_set
from fedsec.plan.model import Draft
from fedsec.study import coordinate
from tests.unit.cli.smoke import finished_run


@pytest.mark.parametrize("how", ["taken away", "changed policy"])
def test_a_run_without_an_approval_makes_no_folder_and_loads_no_model(fedsec, tmp_path, monkeypatch, how):
    working_set = tmp_path / "run-sites"
    shutil.copytree(finished_run().with_name("run-sites"), working_set)
    site = working_set / "clifton"
    if how == "taken away":
        (site / "approval.json").unlink()
    else:
        policy = site / "policy.toml"
        policy.write_text(policy.read_text().replace("max_rounds = 2", "max_rounds = 3"))
    monkeypatch.setattr(coordinate, "load_base", lambda spec: pytest.fail("the base model was loaded"))
    plan = working_set / "coordinator" / "plan.json"
    refused = fedsec("run", plan, "--sites", working_set, "--out", tmp_path / "second", "--quiet")
    assert refused.code == 1
    assert "clifton" in refused.err
    assert not (tmp_path / "second").exists()


def test_a_roster_that_is_close_to_an_earlier_one_makes_no_folder(fedsec, tmp_path, monkeypatch):
    """The rosters of earlier runs stand in each site's record, which no approval is compared with."""
    working_set = tmp_path / "run-sites"
    shutil.copytree(finished_run().with_name("run-sites"), working_set)
    plan = working_set / "coordinator" / "plan.json"
    six = load_plan(plan)
    fewer = {name: working_set / name for name in six.roster.sites if name != "westlake"}
    draft = Draft(**{name: getattr(six, name) for name in Draft.model_fields} | {"name": "fewer"})
    complete_working_set(draft, fewer, working_set / "coordinator", datetime.datetime.now(datetime.UTC))
    monkeypatch.setattr(coordinate, "load_base", lambda spec: pytest.fail("the base model was loaded"))
    refused = fedsec("run", plan, "--sites", working_set, "--out", tmp_path / "second", "--quiet")
    assert refused.code == 1
    said = " ".join(refused.err.replace("│", " ").split())
    assert "site clifton: policy check 15: expected the roster of an earlier run, or one that differs by 2" in said
    assert not (tmp_path / "second").exists()
