"""A run that an officer did not approve is refused before anything is loaded, and leaves nothing behind."""

import shutil

import pytest

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
