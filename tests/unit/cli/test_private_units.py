"""Under differential privacy a limit, or notes that do not say whose they are, are refused before anything is made."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import pytest

from fedsec.study.prepare import initialise, read_draft
from fedsec.training.private import mates
from tests.unit.cli.smoke import SMOKE

PRIVATE = ("dp.mode=local", "dp.target_epsilon=8", "weighting.rule=uniform")


@pytest.fixture
def limited(tmp_path) -> Path:
    """The sites of the smallest study, one of them with a limit."""
    shutil.copytree(SMOKE, tmp_path / "smoke")
    path = tmp_path / "smoke" / "sites" / "harbour" / "site.toml"
    path.write_text(path.read_text().replace("[data]\n", "[data]\nlimit = 10\n"))
    return path.parents[1]


def test_a_run_is_refused_before_anything_is_made(fedsec, tmp_path, limited):
    settings = [part for setting in PRIVATE for part in ("--set", setting)]
    ask = ("run", SMOKE / "plan.toml", "--sites", limited, "--out", tmp_path / "run", "--init", "--quiet")
    refused = fedsec(*ask, *settings)
    assert refused.code == 2
    assert "site harbour: [data] sets limit" in refused.err.replace("\n", " ")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("run")]


def test_an_approved_plan_is_refused_without_a_run_folder(fedsec, tmp_path):
    draft = read_draft(SMOKE / "plan.toml", [*PRIVATE, "evaluation.public_tests=[]"])
    initialise(draft, SMOKE / "sites", tmp_path / "sites", datetime.datetime.now(datetime.UTC))
    path = tmp_path / "sites" / "harbour" / "site.toml"
    path.write_text(path.read_text().replace("[data]\n", "[data]\nlimit = 10\n"))
    plan = tmp_path / "sites" / "coordinator" / "plan.json"
    refused = fedsec("run", plan, "--sites", tmp_path / "sites", "--out", tmp_path / "run", "--quiet")
    assert refused.code == 2
    assert "site harbour: [data] sets limit" in refused.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_the_sites_own_check_refuses_too(fedsec, tmp_path, limited):
    plan = tmp_path / "plan.toml"
    ask = ("site", "check", limited / "harbour" / "site.toml", "--plan", plan, "--no-measure", "--json")
    draft = (SMOKE / "plan.toml").read_text()
    plan.write_text(draft)
    assert fedsec(*ask).json["cost"]["examples"] == 10
    plan.write_text(
        draft.replace('rule = "size"', 'rule = "uniform"') + '\n[dp]\nmode = "local"\ntarget_epsilon = 8.0\n'
    )
    refused = fedsec(*ask)
    assert refused.code == 2
    assert "site harbour: [data] sets limit" in refused.err.replace("\n", " ")


def test_a_machine_on_which_batch_mates_move_each_other_is_refused_before_a_round(fedsec, tmp_path, monkeypatch):
    monkeypatch.setattr(mates, "moved_by_mates", lambda *_: 1.3e-4)
    settings = [part for setting in PRIVATE for part in ("--set", setting)]
    ask = ("run", SMOKE / "plan.toml", "--sites", SMOKE / "sites", "--out", tmp_path / "run", "--init", "--quiet")
    refused = fedsec(*ask, *settings)
    assert refused.code == 2
    assert "set training.batch_size = 1" in " ".join(refused.err.replace("│", " ").split())
    assert not list(tmp_path.glob("run-sites/*/state/ledger.sqlite"))


# ---- notes that do not say whose they are


def two_of_one_patient(folder: Path, **section: str) -> None:
    """The harbour site with two notes of Anna in brat, which knows nobody."""
    (folder / "notes").mkdir()
    for name in ("anna-1", "anna-2"):
        (folder / "notes" / f"{name}.txt").write_text("Took belvapril for pain.")
        (folder / "notes" / f"{name}.ann").write_text("T1\tDrug 5 14\tbelvapril\n")
    head = (SMOKE / "sites" / "harbour" / "site.toml").read_text().partition("[data]")[0]
    told = {"format": '"brat"', "path": '"notes"', "entity_types": '["Drug"]', **section}
    (folder / "site.toml").write_text(f"{head}[data]\n" + "".join(f"{k} = {v}\n" for k, v in told.items()))


def written_plan(folder: Path, unit: str | None) -> Path:
    plan = (SMOKE / "plan.toml").read_text().replace('rule = "size"', 'rule = "uniform"')
    plan = plan.replace("count_min = 10\ncount_max = 30\n", "")
    dp = "" if unit is None else f'\n[dp]\nmode = "local"\ntarget_epsilon = 8\nunit = "{unit}"\n'
    (folder / "plan.toml").write_text(plan + dp)
    return folder / "plan.toml"


@pytest.mark.parametrize(("unit", "refused"), [("patient", True), ("record", False), (None, False)])
def test_epsilon_per_patient_is_refused_where_a_format_knows_no_patients(fedsec, tmp_path, unit, refused):
    """Two notes of one patient are two patients to brat, and epsilon would be of a note."""
    two_of_one_patient(tmp_path)
    ask = ("--plan", written_plan(tmp_path, unit), "--json", "--no-measure")
    done = fedsec("site", "check", tmp_path / "site.toml", *ask)
    assert done.code == (2 if refused else 0), done.err
    said = done.err.replace("\n", " ")
    assert not refused or "[data] has format brat, which does not say whose a note is" in said
    assert not refused or "each file would count as one, whoever has several" in said


def test_a_site_may_say_that_nobody_has_several(fedsec, tmp_path):
    two_of_one_patient(tmp_path, one_patient_each="true")
    ask = ("--plan", written_plan(tmp_path, "patient"), "--json", "--no-measure")
    done = fedsec("site", "check", tmp_path / "site.toml", *ask)
    assert done.code == 0, done.err
    assert done.json["notes"]["patients"] == 2
    assert [text for text in done.json["warnings"] if text.startswith("each file counts as a patient, because")]


def test_no_run_per_patient_begins_with_such_a_site(fedsec, tmp_path):
    shutil.copytree(SMOKE / "sites", tmp_path / "sites")
    harbour = tmp_path / "sites" / "harbour"
    two_of_one_patient(harbour)
    settings = [part for setting in PRIVATE for part in ("--set", setting)]
    out = tmp_path / "run"
    refused = fedsec(
        "run", SMOKE / "plan.toml", "--sites", harbour.parent, "--out", out, "--init", "--quiet", *settings
    )
    assert refused.code == 2
    assert "site harbour: [data] has format brat" in refused.err.replace("\n", " ")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("run")]
