"""The example of five real corpora: what it trains and tests on, what its README says of it, and that it runs."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from fedsec.data.corpora import CORPORA as CORPORA_INFO
from fedsec.data.corpora import DATA_VARIABLE, data_root
from fedsec.data.readers.common import read_text
from fedsec.plan.model import Draft
from fedsec.plan.toml import read_toml
from fedsec.study.prepare import read_draft

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cdr_sites"
CORPORA = ["bc5cdr", "biored", "maccrobat", "ncbi-disease", "phee"]

real_data = [
    pytest.mark.real_data,
    pytest.mark.slow,  # all five corpora are read several times
    pytest.mark.skipif(
        not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not name the folder of the real corpora"
    ),
]


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"cdr_sites_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prepare, run_seeds = script("prepare"), script("run_seeds")


def test_the_plan_loads_and_is_supported():
    draft = read_draft(EXAMPLE / "plan.toml")
    assert sorted(t.name for t in draft.evaluation.public_tests) == CORPORA
    assert draft.secure.quorum == 4
    assert (draft.rounds, draft.training.examples_per_round) == (2, 200)


def test_a_run_that_exists_is_resumed_and_any_other_is_started(tmp_path):
    study = run_seeds.Study(EXAMPLE / "plan.toml", EXAMPLE / "sites", ["rounds=1"], jobs=1)
    started = run_seeds.command(tmp_path, 3, study)
    assert started[:2] == ["run", str(EXAMPLE / "plan.toml")]
    assert started[-6:] == ["--jobs", "1", "--set", "rounds=1", "--set", "seed=3"]
    (tmp_path / "run.json").write_text("{}")
    assert run_seeds.command(tmp_path, 3, study) == ["resume", str(tmp_path), "--quiet", "--jobs", "1"]
    assert run_seeds.command(tmp_path, 3, study._replace(jobs=None)) == ["resume", str(tmp_path), "--quiet"]


@pytest.fixture(scope="module")
def loaded():
    return prepare.load()


@pytest.fixture(scope="module")
def draft():
    return read_toml(EXAMPLE / "plan.toml", Draft)


def cut_down(target: Path) -> None:
    """The corpora with a few documents each: reading all of them several times takes longer than the study."""
    root = data_root()
    for name in ("bc5cdr", "biored", "ncbi-disease", "phee"):
        (target / name).mkdir(parents=True)
        for split in ("train", "test"):
            for path in (p for p in (root / name).iterdir() if split in p.name.lower() and p.is_file()):
                few = "\n".join(read_text(path).split("\n")[:20])
                if name != "phee":
                    few = "\n\n".join(read_text(path).replace("\r", "").strip().split("\n\n")[:5]) + "\n"
                data = few.encode()
                (target / name / path.name).write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    reports = target / CORPORA_INFO["maccrobat"].folder
    reports.mkdir(parents=True)
    for path in sorted((root / CORPORA_INFO["maccrobat"].folder).glob("*.txt"))[:12]:
        shutil.copy(path, reports)
        shutil.copy(path.with_suffix(".ann"), reports)


class TestReal:
    pytestmark = real_data

    def test_five_sites_and_five_test_sets(self, loaded):
        assert [sorted(some) for some in loaded] == [CORPORA, CORPORA]

    def test_no_publication_is_trained_on_and_tested_on(self, loaded):
        trains, tests = loaded
        tested = {d.patient_id for *_, some in tests.values() for d in some.documents}
        for *_, some in trains.values():
            assert tested.isdisjoint(d.patient_id for d in some.documents)
        assert {name: some.excluded for name, (*_, some) in trains.items()} == {
            "bc5cdr": 11,
            "biored": 54,
            "maccrobat": 0,
            "ncbi-disease": 1,
            "phee": 18,
        }

    def test_the_list_is_what_the_script_writes_and_nobody_else_is_left_out(self):
        listed = (EXAMPLE / prepare.SHARED).read_text().splitlines()
        trains, tests = prepare.load(exclude=False)
        assert [line for line in listed if not line.startswith("#")] == prepare.shared_publications(trains, tests)

    def test_the_readme_has_the_counts_and_the_unmapped_labels(self, loaded, draft):
        readme = (EXAMPLE / "README.md").read_text()
        for table in (
            prepare.counts_table(draft, *loaded),
            prepare.lost_table(draft, *loaded),
            prepare.unmapped_table(*loaded),
        ):
            assert "\n".join(table) in readme

    def test_only_the_studys_labels_are_left_and_links_run_from_drug_to_problem(self, loaded):
        for some in loaded:
            for *_, site in some.values():
                for document in site.documents:
                    kind = {e.id: e.type for e in document.entities}
                    assert set(kind.values()) <= {"Drug", "Problem"}
                    for r in document.relations or ():
                        assert (r.type, kind[r.head], kind[r.tail]) == ("causes", "Drug", "Problem")

    def test_a_seed_runs_end_to_end_and_a_second_call_trains_nothing(self, tmp_path, monkeypatch):
        cut_down(tmp_path / "data")
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
        shutil.copytree(EXAMPLE, tmp_path / "example")
        plan = tmp_path / "example" / "plan.toml"
        plan.write_text(plan.read_text().replace("limit = 100", "limit = 2").replace("limit = 40", "limit = 1"))
        for site in (tmp_path / "example" / "sites").glob("*/site.toml"):
            site.write_text(site.read_text().replace("limit = 400", "limit = 4"))
        small = ["model.base=tiny-random", "rounds=1", 'lora.targets=["q_proj","v_proj"]', "lora.rank=2"]
        small += ["training.examples_per_round=4", "training.threads=1", "evaluation.max_new_tokens=4"]
        where = ["--out", str(tmp_path / "runs"), "--plan", str(plan), "--sites", str(plan.parent / "sites")]
        where += ["--results", str(tmp_path / "results"), "--seeds", "5"]
        run_seeds.main([*where, *(part for s in small for part in ("--set", s))])
        first = (tmp_path / "results" / "scores.csv").read_bytes()
        adapter = tmp_path / "runs" / "seed-5" / "adapter" / "adapter_model.safetensors"
        written = adapter.stat().st_mtime_ns
        run_seeds.main([*where, "--collect-only"])
        assert (tmp_path / "results" / "scores.csv").read_bytes() == first
        assert adapter.stat().st_mtime_ns == written

        rows = list(csv.DictReader(first.decode().splitlines()))
        systems = {"zero-shot", "federated", "central"}
        assert {r["system"] for r in rows} == {
            *systems,
            *(s + " (same)" for s in systems),
            *(f"single:{c}" for c in CORPORA),
        }
        assert {r["test"] for r in rows if r["kind"] == "relations"} == {"bc5cdr", "biored", "phee", "all"}
        assert {r["test"] for r in rows if r["kind"] == "entities"} == {*CORPORA, "all"}
        with pytest.raises(SystemExit, match="is not a finished run"):
            run_seeds.main([*where[:-1], "6", "--collect-only"])
