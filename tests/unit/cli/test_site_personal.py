"""`fedsec site personal`: the run's A with the B that never left the site, as a plain PEFT folder."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedsec.plan.specs import PublicTest
from fedsec.site import work
from fedsec.study import scoring, use
from fedsec.study.folder import RunFolder
from fedsec.training.adapter import AdapterState, load_peft
from tests.e2e.federation import RUN, Federation, Keys, make_plan
from tests.scored import counted

SITE = """
name = "site-a"
officer = "{officer}"
state = "state/site-a"
[data]
path = "notes.jsonl"
"""


@dataclass(frozen=True)
class Finished:
    """A run folder, a site.toml beside the state that the run left, the shared adapter and the site's own B."""

    folder: Path
    adapter: AdapterState
    own: np.ndarray

    @property
    def run(self) -> RunFolder:
        return RunFolder.open(self.folder / "out")

    @property
    def site(self) -> Path:
        return self.folder / "site.toml"


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Finished:
    folder, keys = tmp_path_factory.mktemp("personal"), Keys.generate(3)
    plan = make_plan(keys, strategy="fedsa", rounds=1)
    with Federation(folder, keys, plan) as federation:
        adapter = federation.run()
        own = federation.stores["site-a"].personal.newest(RUN, plan.rounds)
    run = RunFolder.create(folder / "out", RUN, folder / "sites", plan, {})
    adapter.save_peft(run.adapter, plan.model, plan.lora)
    (folder / "site.toml").write_text(SITE.format(officer=keys.officers["site-a"].public.hex))
    return Finished(folder, adapter, own)


@pytest.fixture
def finished(once, tmp_path) -> Finished:
    return Finished(Path(shutil.copytree(once.folder, tmp_path / "copy")), once.adapter, once.own)


def said(result) -> str:
    """What stands in the error's box."""
    return " ".join(result.err.replace("│", " ").split())


def test_it_writes_a_plain_folder_that_only_its_owner_reads(fedsec, finished):
    done = fedsec("site", "personal", finished.site, finished.run.path, "--out", "mine", "--json")
    assert done.code == 0, done.err
    written, adapter = load_peft(Path("mine")), finished.adapter
    assert done.json == {"adapter": "mine", "sha256": written.digest().hex()}
    seconds = [n for n in adapter if ".lora_B." in n]
    assert all(np.array_equal(written[n], adapter[n]) for n in adapter if n not in seconds)
    assert np.array_equal(written.select(seconds), finished.own)
    assert finished.own.any()
    assert Path("mine").stat().st_mode & 0o777 == 0o700
    assert json.loads((Path("mine") / "adapter_config.json").read_text())["r"] == finished.run.plan.lora.rank
    again = fedsec("site", "personal", finished.site, finished.run.path, "--out", "mine")
    assert (again.code, "not empty" in said(again)) == (2, True)
    shown = fedsec("site", "personal", finished.site, finished.run.path, "--out", "other")
    assert written.digest().hex()[:12] in shown.out


def test_the_run_s_own_adapter_is_called_the_base_model_where_it_is_read(fedsec, finished, monkeypatch):
    assert fedsec("site", "personal", finished.site, finished.run.path, "--out", "mine").code == 0
    Path("notes.jsonl").write_text(json.dumps({"document_id": "d", "patient_id": "p", "text": "No harm."}) + "\n")
    monkeypatch.setattr(use, "load_base", lambda _: None)  # this run has no real model: nothing is read here
    monkeypatch.setattr(use, "Replicas", lambda _: None)
    monkeypatch.setattr(use.Finished, "predict", lambda *_: iter(()))
    read, own = ["predict", finished.run.path, "--in", "notes.jsonl"], ["--adapter", "mine"]
    assert "answers as the base model does" in said(fedsec(*read))
    assert fedsec(*read, *own).err.strip() == ""
    monkeypatch.setattr(scoring, "load_test", lambda *_: work.TestSet(PublicTest(name="x"), []))
    monkeypatch.setattr(work, "score_tests", lambda *_: {"x": counted(())})
    score = ["evaluate", finished.run.path, "--corpus", "x", "--json"]
    assert "answers as the base model does" in said(fedsec(*score))
    assert fedsec(*score, "--zero-shot").err.strip() == fedsec(*score, *own).err.strip() == ""


def test_another_adapter_than_the_site_verified_is_refused(fedsec, finished):
    plan = finished.run.plan
    other = AdapterState({n: t + np.float32(1) for n, t in finished.adapter.items()})
    other.save_peft(finished.run.adapter, plan.model, plan.lora)
    done = fedsec("site", "personal", finished.site, finished.run.path, "--out", "mine")
    assert done.code == 1
    assert "not the adapter that this site verified" in said(done)
    assert not Path("mine").exists()


def test_a_site_that_was_away_at_the_end_believes_only_a_run_that_verifies(fedsec, finished):
    with sqlite3.connect(finished.folder / "state" / "site-a" / "record.sqlite") as db:
        db.execute("UPDATE rounds SET result = NULL")
    done = fedsec("site", "personal", finished.site, finished.run.path, "--out", "mine")  # it has no certificate
    assert done.code == 1
    assert "failed" in done.err


def test_lost_values_are_named(fedsec, finished):
    path = finished.folder / "state" / "site-a" / f"{RUN}-0000.personal"
    path.write_bytes(path.read_bytes()[:-4])
    done = fedsec("site", "personal", finished.site, finished.run.path, "--out", "mine")
    assert (done.code, "lost its own part" in said(done)) == (1, True)


@pytest.mark.parametrize("what", ["adapter", "record", "run", "values", "strategy"])
def test_what_is_missing_is_named(fedsec, finished, what):
    run, record = finished.run, finished.folder / "state" / "site-a" / "record.sqlite"
    if what == "adapter":
        (run.adapter / "adapter_config.json").unlink()
    elif what == "record":
        record.unlink()
    elif what == "values":
        with sqlite3.connect(record) as db:
            db.execute("DELETE FROM personal")
    else:
        plan = run.plan
        if what == "strategy":
            plan = plan.model_copy(update={"lora": plan.lora.model_copy(update={"strategy": "ffa"})})
        run = RunFolder.create(finished.folder / "other", "run-2", finished.folder / "sites", plan, {})
        finished.adapter.save_peft(run.adapter, plan.model, plan.lora)
    done = fedsec("site", "personal", finished.site, run.path, "--out", "mine")
    expected = {
        "adapter": "has no adapter yet",
        "record": "has no record",
        "run": "knows no run run-2",
        "values": "trained nothing in run",
        "strategy": "strategy is ffa, which keeps nothing",
    }[what]
    assert done.code == (1 if what == "run" else 2)
    assert expected in said(done)
