"""A coordinator that can open no sum, its sites elsewhere: the run ends, and only the sites have the adapter."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsec.cli.run import finish_study, show_finished
from fedsec.report.page import render
from fedsec.report.seal import seal_run
from fedsec.study.certificate import CERTIFICATE, open_certificate, sign_certificate
from fedsec.study.coordinate import open_coordination
from fedsec.study.coordinated import coordination_folder, prepare_coordination
from fedsec.study.coordinator_key import coordinator_key
from fedsec.study.folder import RunFolder
from fedsec.study.manifest import write_manifest
from fedsec.study.prepare import prepare_run
from fedsec.study.verify import verify_run
from fedsec.training.adapter import load_peft
from fedsec_secure.errors import ConfigError
from tests.machines import Machines
from tests.marks import sampled
from tests.unit.cli.conftest import fedsec  # noqa: F401  a fixture
from tests.unit.cli.smoke import SMOKE

SMALL = (
    "rounds=2",
    "training.examples_per_round=2",
    "evaluation.max_new_tokens=4",
    "evaluation.single_test_limit=1",
    "evaluation.zero_shot_test_limit=1",
    "weighting.rule=uniform",
    "canaries.per_site=0",
)


MODES = {"he-mask": "fedit", "he": "fedsa"}


@pytest.fixture(scope="module", params=sampled(MODES, "he"))
def once(request, tmp_path_factory):
    """The same study in one process and over machines; the latter's run folder is sealed."""
    folder = tmp_path_factory.mktemp(request.param)
    wanted = (*SMALL, f"secure.mode={request.param}", f"lora.strategy={MODES[request.param]}")
    prepare_run(SMOKE / "plan.toml", SMOKE / "sites", folder / "run", init=True, assignments=wanted, run="one")
    machines = Machines(folder / "run-sites", folder / "machines")
    finish_study(folder / "run", 1, json=False, quiet=True)
    apart = coordination_folder(machines.plan_path, machines.coordinator, folder / "apart", "one")
    with ExitStack() as stack:
        open_coordination(apart, lambda event: None, 1).run(machines.transport(stack))
    seal_run(apart)
    return SimpleNamespace(folder=folder)


@pytest.fixture
def finished(once, tmp_path):
    folder = Path(shutil.copytree(once.folder, tmp_path / "copy"))
    return SimpleNamespace(
        embedded=RunFolder.open(folder / "run"), apart=RunFolder.open(folder / "apart"), machines=folder / "machines"
    )


def site_file(finished, name: str = "clifton") -> Path:
    return finished.machines / name / "site" / "site.toml"


def tensors(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def said(result) -> str:
    return " ".join(result.err.replace("│", " ").split())


def test_the_run_ends_without_an_adapter_and_every_site_writes_the_embedded_one(fedsec, finished):  # noqa: F811
    apart = finished.apart
    assert not apart.adapter.exists()
    assert set(apart.results().scores) == {"zero-shot", *(f"single:{name}" for name in apart.plan.roster.sites)}
    rows = {row.check: row for row in verify_run(apart.path)}
    absent = rows.pop("the adapter is the one that the rounds made")
    assert {row.outcome for row in rows.values()} == {"held", "not pinned"}
    assert (absent.outcome, "fedsec site adapter" in absent.reason) == ("not here", True)
    shown = fedsec("verify", apart.path)
    assert (shown.code, "not in the folder" in " ".join(shown.out.split())) == (0, True)
    said_at_the_end = io.StringIO()
    with redirect_stdout(said_at_the_end):
        show_finished(apart, json=True, quiet=False)
    assert json.loads(said_at_the_end.getvalue())["adapter"] is None
    page = render(apart)
    assert "Not in the run folder" in page
    assert "the coordinator could not score it" in page
    for name in apart.plan.roster.sites:
        made = fedsec("site", "adapter", site_file(finished, name), "--run", apart.path, "--out", name, "--json")
        assert made.code == 0, made.err
        assert tensors(Path(name)) == tensors(finished.embedded.adapter)
        assert made.json["sha256"] in absent.reason
    assert Path(name).stat().st_mode & 0o777 == 0o700
    plan = finished.machines / "office" / "plan.json"
    assert fedsec("site", "adapter", site_file(finished), "--run", "one", "--plan", plan, "--out", "by-id").code == 0
    assert tensors(Path("by-id")) == tensors(finished.embedded.adapter)
    Path("notes.jsonl").write_text(
        json.dumps({"document_id": "n", "patient_id": "p", "text": "Started kelvamide."}) + "\n"
    )
    using = ("predict", apart.path, "--in", "notes.jsonl", "--out", "read.jsonl", "--quiet")
    without = fedsec(*using)
    assert (without.code, "only its sites have the adapter" in said(without)) == (2, True)
    assert fedsec(*using, "--adapter", "by-id").code == 0


def test_a_site_gives_out_nothing_but_what_it_verified(fedsec, finished):  # noqa: F811
    def refused(*options):
        result = fedsec("site", "adapter", site_file(finished), "--out", "mine", *options)
        assert not Path("mine").exists()
        return result.code, said(result)

    folder, state = ("--run", finished.apart.path), finished.machines / "clifton" / "site" / "state"
    plan = ("--plan", finished.machines / "office" / "plan.json")
    code, why = refused("--run", "two", *plan)
    assert (code, "knows no run 'two'" in why) == (1, True)
    report = finished.apart.path / "report.html"
    kept = report.read_bytes()
    report.write_bytes(kept + b" ")
    code, why = refused(*folder)
    assert (code, "report.html was changed" in why) == (1, True)
    report.write_bytes(kept)
    with sqlite3.connect(state / "record.sqlite") as db:
        db.execute("UPDATE rounds SET result = NULL WHERE round = 1")
    code, why = refused(*folder)
    assert (code, "the site was away" in why) == (2, True)
    with sqlite3.connect(state / "record.sqlite") as db:
        db.execute("UPDATE rounds SET result = (SELECT adapter FROM rounds WHERE round = 2) WHERE round = 1")
    path = state / "one-0002.global"
    other = next(finished.embedded.adapter.glob("*.safetensors")).read_bytes()
    path.write_bytes(other[:-4] + b"\0\0\0\1")
    code, why = refused(*folder)
    assert (code, "not the adapter that this site verified" in why) == (1, True)
    path.unlink()
    code, why = refused(*folder)
    assert (code, "lost its adapter" in why) == (1, True)
    shutil.rmtree(state)
    code, why = refused(*folder)
    assert (code, "took part in no run" in why) == (2, True)


def test_a_site_s_own_part_goes_with_the_shared_part_of_its_record(fedsec, finished):  # noqa: F811
    made = fedsec("site", "personal", site_file(finished), finished.apart.path, "--out", "mine")
    if finished.apart.plan.lora.strategy == "fedit":
        assert (made.code, "keeps nothing at a site" in said(made)) == (2, True)
        return
    assert made.code == 0, made.err
    own, shared = load_peft(Path("mine")), load_peft(finished.embedded.adapter)
    assert {n for n in shared if (own[n] != shared[n]).any()} == {n for n in shared if ".lora_B." in n}


def test_a_certificate_of_another_adapter_at_the_sites_is_found(finished):
    apart = finished.apart
    key = coordinator_key(apart)
    statement = open_certificate((apart.path / CERTIFICATE).read_bytes(), key.public)
    (subject,) = statement.subject
    forged = statement.model_copy(update={"subject": (subject.model_copy(update={"digest": {"sha256": "0" * 64}}),)})
    (apart.path / CERTIFICATE).write_bytes(sign_certificate(forged, key))
    write_manifest(apart.path, apart.run, apart.plan, key)
    failed = next(row for row in verify_run(apart.path) if row.outcome == "failed")
    assert "the certificate's subject" in failed.reason


def test_scores_after_each_round_are_asked_of_no_coordinator_that_has_no_adapter(tmp_path):
    wanted = (*SMALL, "secure.mode=he-mask", "evaluation.round_test_limit=1")
    prepare_run(SMOKE / "plan.toml", SMOKE / "sites", tmp_path / "run", init=True, assignments=wanted)
    machines = Machines(tmp_path / "run-sites", tmp_path / "machines")
    with pytest.raises(ConfigError, match=r"evaluation\.round_test_limit"):
        prepare_coordination(machines.plan_path, machines.coordinator, tmp_path / "apart")
    assert not (tmp_path / "apart").exists()


def test_whether_a_site_withholds_stands_in_the_folder_alone(fedsec, tmp_path):  # noqa: F811
    wanted = (*SMALL, "secure.mode=he-mask", "canaries.per_site=2")
    prepare_run(SMOKE / "plan.toml", SMOKE / "sites", tmp_path / "run", init=True, assignments=wanted)
    plan = tmp_path / "run-sites" / "coordinator" / "plan.json"
    site = tmp_path / "run-sites" / "clifton" / "site.toml"
    refused = fedsec("site", "adapter", site, "--run", "one", "--plan", plan, "--out", "mine")
    assert (refused.code, "any site may withhold" in said(refused)) == (2, True)


def test_a_run_whose_adapter_the_coordinator_has_is_not_written_by_a_site(fedsec, tmp_path):  # noqa: F811
    prepare_run(SMOKE / "plan.toml", SMOKE / "sites", tmp_path / "run", init=True, assignments=("canaries.per_site=0",))
    plan = tmp_path / "run-sites" / "coordinator" / "plan.json"
    site = tmp_path / "run-sites" / "clifton" / "site.toml"
    refused = fedsec("site", "adapter", site, "--run", "one", "--plan", plan, "--out", "mine")
    assert (refused.code, "is in its run folder" in said(refused)) == (2, True)
