"""The paper's experiments: what is dealt and left out, what is computed, their files, and that they run and go on."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import run
from cells.figure import drawn
from cells.table import Table
from suite import (
    notes,
    poisoned,
    rows,
    titles,
)
from suite.in_domain import BOUND, DEVIATION
from suite.lab import Lab
from suite.rows import Row
from suite.settings import FULL, TINY

from fedsec.data.schema import Document
from fedsec.data.sitedata import site_examples

EXAMPLE = Path(run.__file__).parent


@pytest.fixture(scope="module")
def invented() -> notes.Notes:
    return notes.read(TINY)


def documents(*patients: str) -> list[Document]:
    return [Document(document_id=f"d{n}-{p}", patient_id=p, text="x") for n, p in enumerate(patients)]


class TestNotes:
    def test_no_publication_is_trained_on_and_tested_on_and_the_new_site_is_new(self):
        train = {"old": documents("1", "2", "3"), "other": documents("4"), "new": documents("2", "4", "5", "6")}
        kept, left_out = notes.separated(train, [documents("3"), documents("6", "9")], "new")
        assert {n: [d.patient_id for d in some] for n, some in kept.items()} == {
            "old": ["1", "2"],
            "other": ["4"],
            "new": ["5"],
        }
        assert left_out == {"old": 1, "other": 0, "new": 3}

    @pytest.mark.parametrize("name", ["pool-3", "pool-5", *notes.HETEROGENEOUS])
    def test_like_sites_share_no_patient(self, invented, name):
        deal = invented.deal(name, 0)
        patients = [{d.patient_id for d in some} for some, _ in deal.values()]
        assert sum(map(len, patients)) == len(set.union(*patients))
        if name.startswith("pool-"):
            assert sum(section.limit for _, section in deal.values()) <= TINY.pool

    def test_kinds_of_annotation(self):
        both = notes.Labels(("A", "B"), ("r",))
        asked = {k: [(x.entities, x.relations) for x in notes.heterogeneous(k, both)] for k in notes.HETEROGENEOUS}
        assert asked["complete"] == asked["linked-at-all"] == [(("A", "B"), ("r",))] * 3
        assert [links for _, links in asked["linked-at-one"]] == [("r",), None, None]
        assert asked["incomplete"] == [(("A", "B"), ("r",)), (("A",), None), (("B",), None)]
        assert asked["disjoint"] == [(("A",), None), (("B",), None), (("A",), None)]

    def test_public_sets_hold_no_patient_of_a_site(self, invented):
        trained = {d.patient_id for some in invented.train.values() for d in some}
        public = [*invented.tests.values(), invented.validation]
        assert trained.isdisjoint(d.patient_id for some in public for d in some)


class TestCommand:
    def cells(self, *arguments: str) -> list[str]:
        given_ = run.parser().parse_args(arguments)
        return [cell.name for cell in run.cells_of(given_, TINY if given_.tiny else FULL)]

    def test_names_are_unique_and_the_first_seed_of_everything_comes_first(self):
        names = self.cells()
        assert len(set(names)) == len(names)
        assert {name.split("/")[0] for name in names} == set(run.EXPERIMENTS)
        seeds = [name[-1] for name in names]
        assert seeds == sorted(seeds, key=lambda s: s != "0")
        main_ = [name for name in names if name.startswith("in_domain/")]
        assert {name[-1] for name in main_} == {"0", "1", "2"}
        assert {name[-1] for name in names if name.startswith("poisoned/")} == {"0"}
        assert main_[-1].endswith("-s0+1+2")
        assert not [name for name in self.cells("in_domain", "--seeds", "1") if "+" in name.split("-s")[-1]]

    def test_options_choose(self):
        assert self.cells("sites", "--only", "*/5-*", "--seeds", "4") == ["sites/5-sites-s4", "sites/5-compare-s4"]
        with pytest.raises(SystemExit, match="no experiment of that name"):
            self.cells("elsewhere")

    def test_a_listing_says_what_is_left(self, tmp_path, capsys):
        assert run.main(["in_domain", "--list", "--out", str(tmp_path), "--results", str(tmp_path)]) == 0
        assert "CPU hours are left" in capsys.readouterr().out

    @pytest.mark.parametrize("name", list(run.EXPERIMENTS))
    def test_no_row_no_figure_and_a_summary_all_the_same(self, name, tmp_path):
        experiment = run.EXPERIMENTS[name]
        with drawn(tmp_path / "figure", 3, 2) as figure:
            assert experiment.draw(figure, []) is False
        assert experiment.title in experiment.summarised([])


class TestLab:
    def test_what_was_made_is_not_made_again_and_others_wait_for_it(self, tmp_path):
        lab, made, results = Lab(tmp_path, TINY), [], []

        def make(path: Path) -> bytes:
            made.append(path)
            return b"x"

        threads = [threading.Thread(target=lambda: results.append(lab._once("key", make))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [b"x"] * 4
        assert len(made) == 1

    def test_a_kill_leaves_nothing_that_looks_made(self, tmp_path):
        lab = Lab(tmp_path, TINY)

        def killed(path: Path) -> bytes:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lab._once("key", killed)
        assert lab._once("key", lambda path: b"y") == b"y"


def test_one_small_cell_runs_masked_and_as_a_plain_sum(tmp_path):
    """What changes under the suite is noticed here before the whole of it runs."""
    where = ["in_domain", "--tiny", "--out", str(tmp_path), "--only", "*/fed-medlora-plus-s0"]
    assert run.main(where) == 0
    found = Table(tmp_path / "results" / "in_domain" / "results.csv", Row).rows()
    bounds = {r.x: r.value for r in found if r.measure == BOUND}
    masked = {r.x: r.value for r in found if r.measure == DEVIATION}
    assert len(masked) == 2
    assert all(0 < value <= bounds[x] for x, value in masked.items())
    assert run.main([*where, "--table"]) == 0
    assert "Masked and plain sums of the same updates" in (tmp_path / "results" / "in_domain" / "summary.md").read_text(
        encoding="utf-8"
    )


def test_titles_are_learnt_from_the_same_first_round_as_single_sites(tmp_path):
    """The other task: what depends on the kind of the plan is noticed here."""
    where = ["titles", "--tiny", "--out", str(tmp_path)]
    assert run.main([*where, "--only", "*/single-site-s0"]) == 0
    alone = {p for p in (tmp_path / "made").glob("train-*") if not p.suffix}
    assert run.main([*where, "--only", "*/fed-medlora-s0"]) == 0
    both = {p for p in (tmp_path / "made").glob("train-*") if not p.suffix}
    assert (len(alone), len(both)) == (6, 9)  # three sites and two rounds; the federation's second round
    assert run.main(where) == 0
    found = Table(tmp_path / "results" / "titles" / "results.csv", Row).rows()
    assert all(r.low <= r.value <= r.high for r in found if not math.isnan(r.low))
    losses = {r.system: r.value for r in rows.select(found, measure=titles.LOSS, test=rows.ALL)}
    assert losses[titles.FED] < losses[titles.ZERO_SHOT]
    text = (tmp_path / "results" / "titles" / "summary.md").read_text(encoding="utf-8")
    assert "Tested on: 2 of clifton" in text


@pytest.mark.slow
def test_a_small_suite_runs_end_to_end_and_a_second_call_trains_nothing(tmp_path):
    pytest.importorskip("pycrfsuite")
    where = ["--tiny", "--out", str(tmp_path)]
    assert run.main(where) == 0
    results = tmp_path / "results"
    for name in run.EXPERIMENTS:
        assert {p.name for p in (results / name).iterdir()} == {"results.csv", "summary.md", "figure.svg", "figure.png"}
        ElementTree.parse(results / name / "figure.svg")
    found = Table(results / "in_domain" / "results.csv", Row).rows()
    masked = {(r.cell, r.x): r.value for r in found if r.measure == DEVIATION}
    bounds = {(r.cell, r.x): r.value for r in found if r.measure == BOUND}
    assert len(masked) == 4
    assert all(0 < value <= bounds[key] for key, value in masked.items())
    shares = [r for r in Table(results / "poisoned" / "results.csv", Row).rows() if r.measure == poisoned.SHARE]
    assert all(0 <= r.value <= 1 for r in shares)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir() if path.suffix != ".lock"}
    table = results / "sites" / "results.csv"
    before = table.read_text().splitlines(keepends=True)
    kept = [line for line in before if not line.startswith("sites/3-sites-s0")]
    table.write_text("".join(kept))  # killed before the rows were written
    assert run.main(["sites", *where]) == 0
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir() if path.suffix != ".lock"}
    again = table.read_text().splitlines(keepends=True)
    assert sorted(line for line in again if "CPU" not in line) == sorted(line for line in before if "CPU" not in line)
    over = [
        "in_domain",
        "fairness",
        *where,
        "--seeds",
        "0",
        "1",
        "--only",
        "in_domain/compare-plus-s0+1",
        "fairness/*-s0+1",
    ]
    assert run.main(over) == 0
    every = [
        r for name in over[:2] for r in Table(results / name / "results.csv", Row).rows() if r.seed == rows.EVERY_SEED
    ]
    assert {r.cell for r in every} >= {"fairness/fed-medlora-s0+1", "fairness/fed-medlora-plus-s0+1"}
    assert all(r.low <= r.value <= r.high for r in every)
    assert "-1" not in (results / "fairness" / "summary.md").read_text(encoding="utf-8").splitlines()[2]


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_finishes(tmp_path):
    """Killed in the masked run, after the first site has trained."""
    where = ["in_domain", "--tiny", "--out", str(tmp_path), "--only", "*/fed-medlora-s0"]
    process = subprocess.Popen([sys.executable, str(EXAMPLE / "run.py"), *where], stderr=subprocess.DEVNULL)
    made = tmp_path / "made"
    end = time.monotonic() + 180
    while not (made.is_dir() and any(p.suffix == "" and p.name.startswith("train-") for p in made.iterdir())):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    table = Table(tmp_path / "results" / "in_domain" / "results.csv", Row)
    assert table.rows() == []
    assert run.main(where) == 0
    assert {row.cell for row in table.rows()} == {"in_domain/fed-medlora-s0"}
    assert all(0 <= r.value <= 1 for r in table.rows() if r.measure == rows.MEASURE)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not name the folder of the real corpora"
)
def test_the_corpora_fill_every_site_and_no_publication_is_on_both_sides(tmp_path):
    lab = Lab(tmp_path, FULL)
    suite = lab.notes
    public = {d.patient_id for some in (*suite.tests.values(), suite.validation) for d in some}
    assert all(public.isdisjoint(d.patient_id for d in some) for some in suite.train.values())
    known = {d.patient_id for name in suite.sites for d in suite.train[name]}
    assert known.isdisjoint(d.patient_id for d in suite.train[suite.new])
    assert suite.left_out[suite.new] >= 54
    for name in ("four", "pool-3", "pool-5", "pool-10", *notes.HETEROGENEOUS):
        for documents_, section in suite.deal(name, 0).values():
            assert len(site_examples(documents_, section, lab.draft.task)[0]) == section.limit
    other = titles.asked_for_titles(lab)
    for documents_, section in other.notes.deal(notes.TITLED, 0).values():
        assert len(site_examples(documents_, section, other.draft.task)[0]) == FULL.abstracts
    assert all(len(other.test(name).examples) == FULL.titles for name in other.notes.sites)
    assert all(len(lab.wide_test(name).examples) >= FULL.test for name in suite.tests)
    assert len(lab.validation(FULL.validation_pool)) == FULL.validation_pool
    assert {e.example_id for e in lab.validation(5)} <= {e.example_id for e in lab.validation(60)}
