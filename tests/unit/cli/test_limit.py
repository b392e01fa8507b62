"""A limit on a site's examples, where the plan promises differential privacy: refused before anything is made."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import pytest

from fedsec.study.prepare import initialise, read_draft
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
