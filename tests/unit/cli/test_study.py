"""The commands that run a study and use what it gave: what they leave behind, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest

from fedsec.study.folder import RunFolder
from fedsec.training.adapter import AdapterState, load_peft

ROOT = Path(__file__).resolve().parents[3]
SMOKE = ROOT / "examples" / "smoke"
SMALL = ("--set", "rounds=2", "--set", "training.examples_per_round=4", "--set", "evaluation.max_new_tokens=4")


@pytest.fixture
def smoke(fedsec, tmp_path):
    """``smoke(*more)`` runs the smoke study in ``tmp_path/run``."""

    def call(*more, out="run"):
        where = ("--sites", SMOKE / "sites", "--out", tmp_path / out)
        return fedsec("run", SMOKE / "plan.toml", *where, "--init", "--json", *SMALL, *more)

    return call


def test_a_study_runs_and_its_adapter_can_be_used(fedsec, smoke, tmp_path):
    done = smoke("--run-id", "one")
    assert done.code == 0, done.err
    assert done.json["run"] == "one"
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    assert names >= {"plan.json", "approvals", "journal.sqlite", "adapter", "metrics.jsonl", "results.json", "run.json"}
    systems = {"zero-shot", "federated", *(f"single:{s.parent.name}" for s in SMOKE.glob("sites/*/site.toml"))}
    assert set(done.json["macro_f1"]) == systems
    assert (tmp_path / "run-sites").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "run-sites").glob("*/*.key")} == {0o600}

    status = fedsec("status", run, "--json").json
    assert status["finished"]
    assert [r["round"] for r in status["rounds"]] == [0, 1]
    again = fedsec("resume", run, "--json")
    assert (again.code, again.json) == (0, done.json)

    scored = fedsec("evaluate", run, "--corpus", "harbour", "--json").json
    stored = json.loads((run / "results.json").read_text())["scores"]["federated"]["harbour"]
    assert scored["entities"] == stored["entities"]

    own = fedsec("evaluate", run, "--corpus", "harbour", "--adapter", run / "adapter", "--json").json
    assert own["entities"] == stored["entities"]
    part = AdapterState(dict(list(load_peft(run / "adapter").items())[:2]))
    part.save_peft(tmp_path / "part", RunFolder.open(run).plan.model, RunFolder.open(run).plan.lora)
    refused = fedsec("evaluate", run, "--corpus", "harbour", "--adapter", tmp_path / "part")
    assert (refused.code, "other tensors" in refused.err) == (2, True)

    note = {"document_id": "n", "patient_id": "p", "text": "Started kelvamide. No fever since."}
    (tmp_path / "notes.jsonl").write_text(json.dumps(note) + "\n")
    assert fedsec("predict", run, "--in", "notes.jsonl", "--out", "read.jsonl", "--quiet").code == 0
    (line,) = (tmp_path / "read.jsonl").read_text().splitlines()
    read = json.loads(line)
    assert read["text"] == note["text"]
    assert all(read["text"][e["start"] : e["end"]] == e["text"] for e in read["entities"])
    refused = fedsec("predict", run, "--in", "notes.jsonl", "--out", "notes.jsonl")
    assert (refused.code, "notes.jsonl exists and is not overwritten" in refused.err) == (2, True)
    assert json.loads((tmp_path / "notes.jsonl").read_text()) == note

    stored = json.loads((run / "results.json").read_text())
    stored["scores"] = {"federated": stored["scores"]["federated"]}
    (run / "results.json").write_text(json.dumps(stored))
    page = fedsec("resume", run).out
    assert "Relations: F1, strict/lenient, by test set" in page, "a title is not wrapped at a narrow table's width"
    (run / "results.json").write_bytes((run / "results.json").read_bytes()[:200])
    refused = fedsec("resume", run)
    assert (
        refused.code,
        "results.json: expected the scores as" in " ".join(refused.err.replace("│", " ").split()),
    ) == (2, True)


def test_metrics_hold_no_losses_scores_or_counts_of_one_site(smoke, tmp_path):
    smoke("--set", "evaluation.round_test_limit=1")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {e["event"] for e in events} == {"exchange", "round", "scored", "finished"}
    scored = [e for e in events if e["event"] == "scored"]
    assert [e["round"] for e in scored] == [0, 1], "the shared adapter after each round, and no site's"
    assert all(set(e) == {"event", "round", "f1"} and set(e["f1"]) == {"harbour", "northgate"} for e in scored)
    assert "there is no learning curve" not in (tmp_path / "run" / "report.html").read_text()
    assert not any("loss" in key for e in events for key in e)


def test_the_same_run_id_and_keys_give_the_same_adapter_and_the_journal_is_not_needed_for_it(fedsec, smoke, tmp_path):
    assert smoke("--run-id", "one").code == 0
    shutil.copytree(tmp_path / "run-sites", tmp_path / "copy-sites")
    for state in (tmp_path / "copy-sites").glob("*/state"):
        shutil.rmtree(state)
    plan = tmp_path / "copy-sites" / "coordinator" / "plan.json"
    where = ("--sites", tmp_path / "copy-sites", "--out", tmp_path / "second", "--run-id", "one", "--json")
    assert fedsec("run", plan, *where).code == 0
    first, second = ((tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("run", "second"))
    assert first == second


def test_a_draft_without_init_is_refused_and_nothing_is_left(fedsec, tmp_path):
    refused = fedsec("run", SMOKE / "plan.toml", "--sites", SMOKE / "sites", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "--init" in refused.err
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_never_overwritten(smoke, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    refused = smoke()
    assert (refused.code, (tmp_path / "run" / "mine").read_text()) == (2, "x")


def test_a_start_that_was_killed_does_not_stand_in_the_way(smoke, tmp_path):
    (tmp_path / ".run.part").mkdir()
    (tmp_path / ".run.part" / "plan.json").write_text("half")
    assert smoke().code == 0
    assert not (tmp_path / ".run.part").exists()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_site_whose_approval_is_gone_or_of_another_plan_stops_everything(fedsec, smoke, tmp_path):
    assert smoke("--run-id", "one").code == 0
    sites = tmp_path / "run-sites"
    other = smoke("--set", "seed=8", out="other")
    assert other.code == 0
    shutil.copy(tmp_path / "other-sites" / "harbour" / "approval.json", sites / "harbour" / "approval.json")
    plan = sites / "coordinator" / "plan.json"
    refused = fedsec("run", plan, "--sites", sites, "--out", tmp_path / "third")
    assert refused.code == 1
    assert "approval" in refused.err
    (sites / "harbour" / "approval.json").unlink()
    refused = fedsec("run", plan, "--sites", sites, "--out", tmp_path / "fourth")
    assert refused.code == 1
    assert "nothing runs" in " ".join(refused.err.split())


def test_a_public_test_set_that_changed_is_refused(fedsec, smoke, tmp_path):
    assert smoke().code == 0
    path = tmp_path / "run-sites" / "public" / "harbour.toml"
    moved = path.read_text().replace("harbour.jsonl", "northgate.jsonl")
    path.write_text(moved)
    refused = fedsec("resume", tmp_path / "run")
    assert refused.code == 1
    assert "is not the one that the plan pins" in " ".join(refused.err.split())


def test_pooled_notes_and_open_sums_run_only_where_the_plan_names_them(smoke):
    baselines = 'evaluation.baselines=["central"]'
    done = smoke("--set", baselines, "--set", "secure.mode=none", "--set", "lora.strategy=fed-sb")
    assert done.code == 0, done.err
    assert set(done.json["macro_f1"]) == {"federated", "central"}


@pytest.mark.parametrize(("mode", "warned"), [pytest.param("he", True, marks=pytest.mark.slow), ("he-mask", False)])
def test_encrypted_studies_run_and_say_who_opens_what(fedsec, smoke, tmp_path, mode, warned):
    """Workers, ceremony, an adapter that the coordinator has not, and a folder that verifies offline."""
    done = smoke("--set", f"secure.mode={mode}", "--set", "evaluation.baselines=[]", "--set", "rounds=1")
    assert done.code == 0, done.err
    assert ("together with any one site" in " ".join(done.err.split())) == warned
    assert fedsec("verify", tmp_path / "run").code == 0
    assert load_peft(tmp_path / "run" / "adapter")


def test_site_check_counts_and_refuses_malformed_rows_with_their_line(fedsec, tmp_path):
    ask = ("site", "check", SMOKE / "sites" / "harbour" / "site.toml", "--plan", SMOKE / "plan.toml", "--json")
    done = fedsec(*ask, "--no-measure")
    assert done.code == 0
    assert done.json["notes"]["sentences"] == 24
    assert done.json["cost"] == {"examples": 24, "examples_a_round": 12, "steps_a_round": 3, "trial": None}
    shutil.copytree(SMOKE / "sites" / "harbour", tmp_path / "harbour")
    notes = tmp_path / "harbour" / "notes.jsonl"
    lines = notes.read_text().splitlines()
    notes.write_text("\n".join([lines[0], lines[1].replace('"T1"', '"T9"', 1), "{", *lines[2:]]))
    refused = fedsec("site", "check", tmp_path / "harbour" / "site.toml")
    assert refused.code == 2
    assert "notes.jsonl" in refused.err.replace("\n", "")


@pytest.mark.parametrize(
    ("dp", "taken", "steps"),
    [
        ('mode = "local"\nunit = "record"\nsampling_rate = 0.25\nsteps = 5', 30, 5),
        ('mode = "local"\nunit = "patient"\nsampling_rate = 1\nsteps = 5\nmax_records = 1', None, 5),
        ('mode = "distributed"\nunit = "record"\nsampling_rate = 0.25', 6, 1),
    ],
)
def test_site_check_counts_the_steps_that_a_private_round_takes(fedsec, tmp_path, dp, taken, steps):
    """Whatever epochs and examples_per_round say, which private steps do not heed."""
    plan = (SMOKE / "plan.toml").read_text().replace('rule = "size"', 'rule = "uniform"')
    plan = plan.replace("count_min = 10\ncount_max = 30\n", "").replace('"zero-shot", "single"', '"zero-shot"')
    (tmp_path / "private.toml").write_text(f"{plan}\n[dp]\ntarget_epsilon = 8\n{dp}\n")
    site = SMOKE / "sites" / "harbour" / "site.toml"
    done = fedsec("site", "check", site, "--plan", tmp_path / "private.toml", "--json", "--no-measure")
    assert done.code == 0, done.err
    taken = 5 * done.json["notes"]["patients"] if taken is None else taken
    assert done.json["cost"] == {"examples": 24, "examples_a_round": taken, "steps_a_round": steps, "trial": None}


def test_site_check_measures_memory_and_time_on_the_sites_own_notes(fedsec):
    ask = ("site", "check", SMOKE / "sites" / "harbour" / "site.toml", "--plan", SMOKE / "plan.toml")
    trial = fedsec(*ask, "--json").json["cost"]["trial"]
    assert 20 < trial["tokens"]["minimum"] < trial["tokens"]["maximum"] <= 512
    assert trial["shortened"] == 0
    assert trial["seconds_a_round"] == pytest.approx(3 * trial["seconds_a_step"])
    assert 1e8 < trial["peak_bytes"] < 1e11
    assert "memory at its peak" in fedsec(*ask).out


def test_excluded_patients_never_reach_training(fedsec, tmp_path):
    shutil.copytree(SMOKE / "sites" / "harbour", tmp_path / "harbour")
    first = json.loads((tmp_path / "harbour" / "notes.jsonl").read_text().splitlines()[0])["patient_id"]
    (tmp_path / "harbour" / "left-out.txt").write_text(f"# asked not to take part\n{first}\n")
    site = tmp_path / "harbour" / "site.toml"
    site.write_text(site.read_text() + 'exclude_patients = "left-out.txt"\n')
    done = fedsec("site", "check", site, "--json").json
    whole = fedsec("site", "check", SMOKE / "sites" / "harbour" / "site.toml", "--json").json
    assert done["excluded"] >= 1
    assert done["notes"]["patients"] == whole["notes"]["patients"] - 1


def test_the_demo_writes_a_working_set_that_runs_again(fedsec, tmp_path):
    small = ("--base", "tiny-random", "--sentences", "6", "--test-sentences", "1", "--rounds", "1", "--json")
    done = fedsec("demo", "--out", tmp_path / "demo", *small)
    assert done.code == 0, done.err
    assert len(done.json["macro_f1"]) == 7
    sites = tmp_path / "demo-sites"
    for folder, out in ((sites, "again"), (tmp_path / "again-sites", "third")):
        where = ("--sites", folder, "--out", tmp_path / out, "--init", "--json")
        again = fedsec("run", folder / "plan.toml", *where, "--set", 'evaluation.baselines=["zero-shot"]')
        assert again.code == 0, again.err
