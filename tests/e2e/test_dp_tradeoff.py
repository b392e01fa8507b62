"""The example that trades privacy for accuracy: its grid, its files, and that it runs and goes on after a kill."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import run_grid
from cells import folders
from cells.loop import BusyError, FailedError, held
from cells.table import Table
from matplotlib.figure import Figure
from tradeoff import notes, plot, run, tables
from tradeoff.cells import FULL, PATIENT, RATES, TINY, TRIED, Cell, Scale, main_grid, named, product_grid, require_plan
from tradeoff.measure import Row

from fedsec.data.partition import by_patient
from fedsec.data.sitedata import load_site_documents, site_examples
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import DataSection, SiteTemplate, site_paths
from fedsec.plan.toml import read_toml
from fedsec.study.folder import RunFolder
from fedsec.training.round import schedule_factor

EXAMPLE = Path(run_grid.__file__).parent
PATHS = [str(EXAMPLE), str(EXAMPLE.parent)]
GRID = main_grid([0, 1, 2])


def a_row(name: str, **changes) -> Row:
    """A row that the cell could give."""
    cell = named(name)
    values = {field: kind(1) for field, kind in zip(Row._fields, map(type_of, Row._fields), strict=True)}
    values |= {f: getattr(cell, f) for f in ("mode", "epsilon", "strategy", "sites", "seed", "rate")}
    values |= {"cell": name, "unit": "" if cell.mode == "none" else cell.unit}
    return Row(**values | changes)


def type_of(field: str) -> type:
    return {"str": str, "int": int, "float": float}[Row.__annotations__[field].__forward_arg__]


def times_usual(name: str, times: float = 1) -> str:
    """The cell with so many times the learning rate of its mode's curve."""
    cell = named(name)
    return replace(cell, rate=times * RATES[cell.strategy][cell.mode]).name


def some_rows() -> list[Row]:
    names = [
        [times_usual(f"{head}-s{seed}") for seed in (0, 1)]
        for head in ("none-ffa-10sites", "local-e8-ffa-10sites-record", "distributed-e8-ffa-10sites-record")
    ]
    plain = [a_row(name, f1=f1, loss=0.5) for name, f1 in zip(names[0], (0.5, 0.7), strict=True)]
    local = [a_row(name, f1=0.1, loss=1.0 + seed / 2) for seed, name in enumerate(names[1])]
    shared = [a_row(name, f1=0.3, loss=0.75) for name in names[2]]
    other = [a_row(times_usual("distributed-e8-ffa-10sites-patient-s0"), f1=0.2, loss=2.0)]
    untrained = plain[0]._replace(cell="zero-shot", mode="zero-shot", f1=0.0, loss=3.5)
    return [*plain, untrained, *local, *shared, *other]


def furthest(draft: Draft, round_index: int) -> float:
    """How far a round's steps of AdamW can move a coordinate, whatever its gradients are.

    Of moments m, v that start at zero |m| / sqrt(v) is at most sqrt(sum of a^2 / b), with a and b the weights of the
    gradients so far in m and in v (Cauchy and Schwarz).
    """
    spec, steps = draft.training, FULL.local_steps

    def weights(decay: float, upto: int) -> list[float]:
        return [(1 - decay) * decay**age / (1 - decay**upto) for age in range(upto)]

    def step(number: int) -> float:
        pairs = zip(weights(0.9, number + 1), weights(0.999, number + 1), strict=True)
        factor = schedule_factor(round_index * steps + number, draft.rounds * steps, spec)
        return spec.learning_rate * factor * math.sqrt(sum(a * a / b for a, b in pairs))

    return sum(map(step, range(steps)))


class TestGrid:
    def test_names_tell_cells_apart_and_are_read_back(self):
        assert len({cell.name for cell in GRID}) == len(GRID) == 55
        assert [named(cell.name) for cell in GRID] == GRID

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "none-e8-ffa-10sites-s0",
            "local-ffa-10sites-record-s0",
            "local-e8",
            "local-e1.2.3-ffa-3sites-s0",
            "local-e8-ffa-3sites-x.-s0",
        ],
    )
    def test_other_names_are_refused(self, name):
        with pytest.raises(SystemExit, match="no name of a cell"):
            named(name)

    def test_the_most_telling_cells_come_first(self):
        first = [(cell.mode, cell.epsilon) for cell in GRID[:9]]
        assert first[:5] == [
            ("none", math.inf),
            ("local", 8),
            ("distributed", 8),
            ("distributed", 2),
            ("local", 2),
        ]
        assert set(first) == {("none", math.inf)} | {(m, e) for m in ("local", "distributed") for e in (1, 2, 4, 8)}
        assert [cell.seed for cell in GRID[:18]] == [0] * 17 + [1]

    def test_every_combination_once_and_one_cell_without_privacy(self):
        cells = product_grid([0], ["none", "local"], [1.0, 8.0], ["ffa", "fedit"], [3, 5], ["record", "patient"], [1.0])
        assert len(cells) == len(set(cells)) == 4 + 16

    @pytest.mark.parametrize("cell", [c for c in GRID if c.seed == 0], ids=lambda c: c.name)
    def test_equal_epsilon_has_equal_rate_and_number_of_steps(self, cell):
        """So the noise multiplier, which is a function of these, is equal too."""
        draft = cell.draft(FULL)
        if cell.mode == "none":
            size, examples = draft.training.batch_size, draft.training.examples_per_round
            assert draft.rounds * -(-examples // size) == FULL.steps
            assert cell.sites * draft.rounds * examples == FULL.batch * FULL.steps
            return
        dp = draft.dp
        assert draft.rounds * (1 if cell.mode == "distributed" else dp.steps) == FULL.steps
        assert dp.sampling_rate == FULL.sampling_rate == 0.032
        units = FULL.patients if cell.unit == PATIENT else FULL.records
        expected = dp.expected_batch * (1 if cell.mode == "distributed" else cell.sites)
        assert expected == pytest.approx(units * dp.sampling_rate, rel=0.3)

    def test_noise_moves_the_adapter_as_far_in_both_modes(self):
        rates = {mode: Cell(mode, 8, sites=4).learning_rate() for mode in ("none", "local", "distributed")}
        assert rates == {"none": 2e-3, "local": pytest.approx(4e-3), "distributed": 2e-3}

    @pytest.mark.parametrize("cell", [c for c in GRID if c.mode != "distributed"], ids=lambda c: c.name)
    def test_no_update_is_cut_before_it_is_masked(self, cell):
        """What is beyond `secure.clip` would not reach the sum: a cell would not only be about its learning rate."""
        draft = cell.draft(FULL)
        assert max(furthest(draft, number) for number in range(draft.rounds)) < draft.secure.clip

    def test_at_the_highest_rate_of_local_noise_the_usual_clip_would_cut(self):
        cell = Cell("local", 8, rate=16)
        assert furthest(cell.draft(FULL), 0) > Cell("local", 8, rate=8).draft(FULL).secure.clip

    @pytest.mark.parametrize(
        ("part", "changes"),
        [
            ("task", {"window": "note"}),
            ("model", {"dtype": "bfloat16"}),
            ("evaluation", {"max_new_tokens": 32}),
            ("weighting", {"rule": "size"}),
            ("dp", {"clipping_norm": 1.0}),
            ("training", {"max_tokens": 128}),
        ],
    )
    def test_a_run_of_another_plan_is_not_the_cell_s(self, part, changes):
        """What is filled in when a plan is compiled makes no other plan, nor does the baseline of one cell."""
        cell = named("local-e8-ffa-10sites-record-s0")
        draft = cell.draft(FULL)
        tests = tuple(test.model_copy(update={"sha256": "0" * 64}) for test in draft.evaluation.public_tests)
        filled_in = {
            "model": {"weights_sha256": "0" * 64},
            "dp": {"target_delta": 1e-5, "noise_multiplier": 0.636, "dimension": 184320},
            "evaluation": {"public_tests": tests, "baselines": ("zero-shot",)},
        }
        compiled = draft.model_copy(update={k: getattr(draft, k).model_copy(update=v) for k, v in filled_in.items()})
        require_plan(cell, FULL, compiled)
        other = compiled.model_copy(update={part: getattr(compiled, part).model_copy(update=changes)})
        with pytest.raises(SystemExit, match=rf"has another plan \({part}\); choose another --out"):
            require_plan(cell, FULL, other)

    @pytest.mark.parametrize("mode", ["none", "local", "distributed"])
    @pytest.mark.parametrize("strategy", ["ffa", "fedit"])
    def test_each_has_the_best_learning_rate_that_was_tried(self, strategy, mode):
        epsilon = math.inf if mode == "none" else 8
        cells = [Cell(mode, epsilon, strategy, rate=rate) for rate in TRIED[strategy][mode]]
        rows = {row.cell: row for row in Table(EXAMPLE / "results" / "results.csv", Row).rows()}
        losses = {cell.rate: rows[cell.name].loss for cell in cells}
        assert min(losses, key=losses.__getitem__) == RATES[strategy][mode]

    def test_batches_that_do_not_come_out_are_refused(self):
        with pytest.raises(SystemExit, match="do not make 4 batches"):
            Cell("none", sites=3).draft(Scale(60, 12, 7, 4, 4, 1))

    def test_options_choose_cells(self):
        def names(*arguments: str) -> list[str]:
            return [cell.name for cell in run_grid.cells_of(run_grid.parser().parse_args(arguments))]

        assert names("--only", "*-e4-*", "--seeds", "5") == [
            times_usual(f"{mode}-e4-ffa-10sites-record-s5") for mode in ("distributed", "local")
        ]
        more = ("--modes", "local", "--epsilons", "3", "--seeds", "0")
        assert names(*more, "--sites", "3", "5") == [
            times_usual(f"local-e3-ffa-{sites}sites-record-s0") for sites in (3, 5)
        ]
        assert names(*more, "--rates", "1", "2") == [f"local-e3-ffa-10sites-record-{rate}s0" for rate in ("", "x2-")]
        assert names("--cells", "none-fedit-3sites-s7") == ["none-fedit-3sites-s7"]
        assert len(names("--tiny")) == 5
        with pytest.raises(SystemExit, match="at least 3 sites"):
            names("--sites", "2")
        with pytest.raises(SystemExit, match="no cell of the grid"):
            names("--only", "*-e7-*")


class TestTable:
    def test_rows_come_back_as_they_were(self, tmp_path):
        table = Table(tmp_path / "new" / "results.csv", Row)
        assert table.rows() == []
        rows = some_rows()
        table.add(*rows[:2])
        table.add(rows[2])
        assert Table(table.path, Row).rows() == rows[:3]
        assert [type(value) for value in table.rows()[0]] == [type_of(field) for field in Row._fields]

    def test_a_cell_has_one_row(self, tmp_path):
        table = Table(tmp_path / "results.csv", Row)
        table.add(*some_rows()[:2])
        table.add(some_rows()[0]._replace(loss=9.0))
        assert sorted(row.loss for row in table.rows()) == [0.5, 9.0]

    def test_a_kill_while_a_row_is_written_costs_no_other_row(self, tmp_path, monkeypatch):
        table = Table(tmp_path / "results.csv", Row)
        table.add(some_rows()[0])

        def killed(path, chunks):
            (tmp_path / "results.csv.part").write_bytes(b"half a ro")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("cells.table.write_durably", killed)
            with pytest.raises(KeyboardInterrupt):
                table.add(some_rows()[1])
        assert table.rows() == some_rows()[:1]
        table.add(some_rows()[1])
        assert table.rows() == some_rows()[:2]

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "results.csv").write_text("seed,f1\n0,1\n")
        with pytest.raises(SystemExit, match="expected the columns"):
            Table(tmp_path / "results.csv", Row).rows()

    @pytest.mark.parametrize("damage", [b"none-ffa-10sites-s1,none,in", b"\xff\xfe", b"a" + b",x" * 26])
    def test_a_damaged_line_is_named(self, tmp_path, damage):
        table = Table(tmp_path / "results.csv", Row)
        table.add(some_rows()[0])
        whole = table.path.read_bytes()
        table.path.write_bytes(whole + damage + b"\n")
        with pytest.raises(
            SystemExit, match=r"results\.csv, line 3: expected a cell's 27 columns, .* Take the line out"
        ):
            table.rows()


class TestTablesAndPlot:
    def test_the_summary_has_means_ranges_shares_and_differences(self):
        text = "\n".join(tables.summary(some_rows()))
        assert "Untrained: loss 3.500, F1 0.000 strict" in text
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        (local,) = [line for line in lines if line[1:3] == ["local", "8"]]
        assert local[7:9] == ["1.250 (1.000 to 1.500)", "0.100 (0.100 to 0.100)"]
        assert local[-1] == "17%"  # 0.1 of 0.6
        (patients,) = [line for line in lines if line[:2] == ["patients", "distributed"]]
        assert patients[6:9] == ["1", "2.000", "0.200"]
        assert patients[-1] == "40%"  # 0.2 of seed 0's 0.5
        assert "| the main grid | 8 | 2 | -0.500 (-0.750 to -0.250) | +0.200 (+0.200 to +0.200) |" in text

    def test_modes_stand_side_by_side(self):
        settings = ("distributed-e8-fedit-10sites-record-s0", "none-fedit-10sites-s0")
        more = [a_row(times_usual(name), f1=0.4, loss=0.9) for name in settings]
        tried = [a_row(times_usual("local-e8-ffa-10sites-record-s0", times), f1=0.0, loss=1.5) for times in (1 / 2, 2)]
        text = list(tables.summary([*some_rows(), *more, *tried]))
        assert "| 8 | 1.250 (1.000 to 1.500) | 0.750 (0.750 to 0.750) | – |" in " ".join(text)
        assert "| ∞ | – | – | 0.500 (0.500 to 0.500) | – | – | 0.600 (0.500 to 0.700) |" in text
        assert "| ffa, 10 sites, records | 1.000 | 0.750 | 0.500 | 0.100 | 0.300 | 0.500 |" in text
        assert "| fedit | – | 0.900 | 0.900 | – | 0.400 | 0.400 |" in text
        assert "| patients | – | 2.000 | 0.500 | – | 0.200 | 0.500 |" in text
        for rate in (RATES["ffa"]["local"] / 2, 2 * RATES["ffa"]["local"]):
            assert any(line.startswith(f"| × {tables.times(rate)} | 1.500 | – | ") for line in text)

    def test_the_page_has_the_tables_of_its_rows(self):
        rows = Table(EXAMPLE / "results" / "results.csv", Row).rows()
        groups, usual = tables.groups_of(rows), tables.usual_of(rows)
        assert usual is not None
        page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
        found = [tables.curve_table(groups, usual), tables.settings_table(groups, usual, 8)]
        for table in (*found, *(tables.rates_table(rows, usual, 8, strategy) for strategy in ("ffa", "fedit"))):
            assert "\n".join(table) in page

    def test_no_row_no_table(self):
        assert list(tables.summary([])) == ["No run is finished."]

    def test_a_figure_of_any_part_of_the_grid_is_drawn(self, tmp_path):
        rows = some_rows()
        for number, some in enumerate((rows, rows[:1], rows[2:4], rows[-1:])):
            paths = plot.draw(some, tmp_path / str(number))
            assert [path.name for path in paths] == ["tradeoff.svg", "tradeoff.png"]
            ElementTree.parse(paths[0])
            assert paths[1].read_bytes()[:4] == b"\x89PNG"
        again = plot.draw(rows, tmp_path / "again")
        assert again[0].read_bytes() == (tmp_path / "0" / "tradeoff.svg").read_bytes()
        assert plot.draw([], tmp_path / "none") == []

    def test_other_settings_have_a_panel_where_a_private_run_has_them(self, tmp_path, monkeypatch):
        drawn, seen = plot._settings, []
        monkeypatch.setattr(plot, "_settings", lambda *rest: (seen.append(rest[1]), drawn(*rest)))
        plot.draw([*some_rows()[:-1], a_row(times_usual("none-fedit-10sites-s0"))], tmp_path)
        assert seen == []
        plot.draw(some_rows(), tmp_path)
        assert len(seen) == 2

    def test_learning_rates_have_a_panel_of_their_own(self, tmp_path, monkeypatch):
        """Beside other settings their names would not fit, and a curve says more."""
        drawn, seen = plot._points, []
        monkeypatch.setattr(plot, "_points", lambda axes, *rest: (seen.append((axes, *rest)), drawn(axes, *rest)))
        more = [("local-e8", 4), ("local-e8", 1 / 8), ("distributed-e1", 2)]
        names = [times_usual(f"{head}-ffa-10sites-record-s0", times) for head, times in more]
        rows = [*some_rows(), *map(a_row, names)]
        plot.draw(rows, tmp_path)
        panels = {axes.get_xlabel(): axes for axes, *_ in seen}
        assert list(panels) == [
            "ε, target (less is more private)",
            "times the learning rate of the curves\nat ε = 8 (line), 1 (dashed)",
            "settings at ε = 8",
        ]
        rates, settings = list(panels.values())[1:]
        assert [label.get_text() for label in rates.get_xticklabels()] == ["1/8", "1", "2", "4"]
        assert [label.get_text() for label in settings.get_xticklabels()] == ["the main grid", "patients"]
        found = {
            (colour, line): [[tables.setting_of(row).rate for row in group] for group in some]
            for axes, _, some, _, colour, line in seen
            if axes is rates
        }
        assert found == {
            (plot.COLOURS["none"], "-"): [[1, 1]],
            (plot.COLOURS["local"], "-"): [[1 / 8], [1, 1], [4]],
            (plot.COLOURS["distributed"], "-"): [[1, 1]],
            (plot.COLOURS["distributed"], "--"): [[2]],
        }

    def test_one_run_has_no_error_bar(self):
        rows = some_rows()[:2]
        axes = Figure().subplots()
        plot._points(axes, [0, 1], [rows[:1], rows], lambda row: row.f1, "black", "-")
        (bar,) = axes.containers
        (ends,) = bar.lines[2][0].get_segments()
        assert ends.tolist() == [[1, pytest.approx(0.5)], [1, pytest.approx(0.7)]]


class TestRunning:
    def grid(self, out: Path, names=("none-ffa-3sites-s0", "local-e8-ffa-3sites-record-s0")) -> run.Grid:
        return run.Grid(out, TINY, [named(name) for name in names])

    def test_what_has_a_row_is_left_alone_and_a_failure_stops_nothing_else(self, tmp_path, monkeypatch):
        table, asked = Table(tmp_path / "results.csv", Row), []

        def fake(grid, cell, bar):
            asked.append(cell.mode)
            if cell.mode == "none" and len(asked) == 1:
                raise FailedError("no")
            return [a_row(cell.name)]

        monkeypatch.setattr(run, "run_cell", fake)
        grid = self.grid(tmp_path)
        assert run.run_grid(grid, table, None) == 1
        assert [row.mode for row in table.rows()] == ["local"]
        assert run.run_grid(grid, table, minutes=-1) == 1
        assert run.run_grid(grid, table, None) == 0
        assert asked == ["none", "local", "none"]

    def test_a_cell_that_another_process_has_is_left_to_it(self, tmp_path):
        grid, table = self.grid(tmp_path), Table(tmp_path / "results.csv", Row)
        with held(tmp_path / "cells" / f"{grid.cells[0].name}.log"):
            busy = run.Grid(tmp_path, TINY, grid.cells[:1])
            assert run.run_grid(busy, table, None) == 1
        assert table.rows() == []

    def test_what_another_process_has_finished_in_the_meantime_is_not_left(self, tmp_path, monkeypatch):
        grid, table = self.grid(tmp_path), Table(tmp_path / "results.csv", Row)

        def fake(grid, cell, bar):
            if cell.mode == "none":
                raise BusyError
            table.add(a_row("none-ffa-3sites-s0"))  # the other process, as this one's cell ends
            return [a_row(cell.name)]

        monkeypatch.setattr(run, "run_cell", fake)
        assert run.run_grid(grid, table, None) == 0

    def test_a_run_that_exists_is_resumed_and_any_other_is_started(self, tmp_path):
        grid = self.grid(tmp_path)
        started = grid.command(grid.cells[0], tmp_path / "sites")
        assert started[0] == "run"
        assert started[-1] == 'evaluation.baselines=["zero-shot"]'
        assert "dp.mode=local" in grid.command(grid.cells[1], tmp_path / "sites")
        folder = grid.folder(grid.cells[0])
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        assert grid.command(grid.cells[0], tmp_path / "sites") == ["resume", str(folder), "--quiet"]

    def test_a_run_of_another_cell_is_refused_before_it_is_resumed(self, tmp_path, monkeypatch):
        grid = self.grid(tmp_path)
        cell, other = grid.cells
        folder = grid.folder(cell)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        (tmp_path / "dealt" / "3-s0").mkdir(parents=True)
        monkeypatch.setattr(run, "_in_a_process", lambda *_: pytest.fail("the run was resumed"))
        monkeypatch.setattr(run.RunFolder, "open", lambda _: SimpleNamespace(plan=other.draft(TINY)))
        with pytest.raises(SystemExit, match=rf"^{cell.name}: the run .* has another plan \(training, dp"):
            run.run_cell(grid, cell, None)

    def test_notes_are_dealt_by_patient_and_written_once(self, tmp_path):
        folder = notes.deal(tmp_path / "sites", notes.invented(TINY), 3, 0, TINY.records)
        sections = [(read_toml(path, SiteTemplate).data, path.parent) for path in site_paths(folder)]
        patients = [{d.patient_id for d in load_site_documents(*section).documents} for section in sections]
        assert len(set.union(*patients)) == sum(map(len, patients)) == TINY.patients
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        notes.deal(tmp_path / "sites", ([], []), 3, 0, TINY.records)
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def test_two_that_write_the_same_notes_at_once_write_them_once(self, tmp_path, monkeypatch):
        """Two processes that begin together are at two cells of the same sites."""
        written_, write = [], folders._write

        def slowly(notes, *rest):
            written_.append(notes.name)
            time.sleep(0.05)
            write(notes, *rest)

        monkeypatch.setattr(folders, "_write", slowly)
        corpus = notes.invented(TINY)
        with ThreadPoolExecutor(2) as pool:
            deals = [pool.submit(notes.deal, tmp_path / "new" / "sites", corpus, 3, 0, TINY.records) for _ in range(2)]
            assert [deal.result() for deal in deals] == [tmp_path / "new" / "sites"] * 2
        assert len(written_) == 4
        assert written(tmp_path / "new" / "sites") == limited(corpus[0], 3, TINY.records)

    def test_what_is_written_is_the_whole_data_set(self, tmp_path):
        """At each site the sentences that a limit would keep, and no limit: who leaves changes nobody else's."""
        train, test = notes.invented(TINY)
        folder = notes.deal(tmp_path / "sites", (train, test), 3, 0, TINY.records)
        assert written(folder) == limited(train, 3, TINY.records)
        path = folder / "site-01"
        section = read_toml(path / "site.toml", SiteTemplate).data
        assert section.limit is None
        lines = (path / "notes.jsonl").read_text().splitlines(keepends=True)
        (path / "notes.jsonl").write_text("".join(lines[1:]))
        assert written(folder)["site-01"] == limited(train, 3, TINY.records)["site-01"][1:]

    def test_a_patient_of_the_test_set_is_not_trained_on(self, tmp_path):
        train, _ = notes.invented(TINY)
        with pytest.raises(SystemExit, match="a patient stands in"):
            notes.deal(tmp_path / "sites", (train, train[:1]), 3, 0, TINY.records)
        assert not (tmp_path / "sites").exists()


def written(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """What each site of a folder trains on, in order."""
    found = {}
    for path in site_paths(folder):
        section = read_toml(path, SiteTemplate).data
        documents = load_site_documents(section, path.parent).documents
        found[path.parent.name] = site_examples(documents, section, Cell("none").draft(FULL).task)[0]
    return {site: [(e.document_id, e.patient_id, e.prompt, e.answer) for e in some] for site, some in found.items()}


def limited(train, sites: int, records: int) -> dict[str, list[tuple[str, ...]]]:
    """The same, by dealing whole documents and a limit at each site."""
    dealt = by_patient(train, [f"site-{number:02d}" for number in range(1, sites + 1)], 0)
    section = DataSection(path="x", entity_types=("Drug", "Problem"), limit=records // sites)
    found = {site: site_examples(some, section, Cell("none").draft(FULL).task)[0] for site, some in dealt.items()}
    return {site: [(e.example_id, e.patient_id, e.prompt, e.answer) for e in some] for site, some in found.items()}


@pytest.mark.slow
def test_a_small_study_runs_end_to_end_and_a_second_call_trains_nothing(tmp_path):
    where = ["--tiny", "--out", str(tmp_path)]
    assert run_grid.main(where) == 0
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == {"results.csv", "summary.md", "tradeoff.svg", "tradeoff.png"}
    rows = {row.cell: row for row in Table(results / "results.csv", Row).rows()}
    assert len(rows) == 6
    assert all(math.isfinite(row.loss) and row.loss > 1 for row in rows.values())
    for epsilon in ("e1", "e8"):
        local, shared = (rows[f"{mode}-{epsilon}-ffa-3sites-record-s0"] for mode in ("local", "distributed"))
        same = ("noise_multiplier", "epsilon_pld", "epsilon_charged", "sampling_rate", "steps", "dimension", "delta")
        assert [getattr(local, f) for f in same] == [getattr(shared, f) for f in same]
        assert local.epsilon_pld < local.epsilon_charged <= local.epsilon
        norm = local.noise_multiplier * math.sqrt(local.dimension)
        assert local.noise_in_mean == pytest.approx(norm / 2 / math.sqrt(3), rel=0.01)
        assert shared.noise_in_mean == pytest.approx(norm / 6 * math.sqrt(3 / 2), rel=0.01)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/adapter/*")}
    before = (results / "results.csv").read_bytes()
    lines = before.decode().splitlines(keepends=True)
    (results / "results.csv").write_text("".join(lines[:-1]))  # killed before the row was written
    assert run_grid.main(where) == 0
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/adapter/*")}
    assert (results / "results.csv").read_bytes() == before


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_process_leaves_a_cell_that_the_next_one_finishes(tmp_path):
    name = "distributed-e8-ffa-3sites-record-s0"
    grid = run.Grid(tmp_path, TINY, [named(name)])
    code = (
        "import sys; from pathlib import Path; from tradeoff import run; from tradeoff.cells import TINY, named\n"
        "from cells.table import Table; from tradeoff.measure import Row\n"
        "out = Path(sys.argv[1])\n"
        "run.run_grid(run.Grid(out, TINY, [named(sys.argv[2])]), Table(out / 'results.csv', Row), None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])},
        start_new_session=True,
    )
    table, metrics = Table(tmp_path / "results.csv", Row), grid.folder(grid.cells[0]) / "metrics.jsonl"
    try:
        wait_for(lambda: metrics.is_file() and '"event": "round"' in metrics.read_text())
        process.kill()
        process.wait()
        assert run.run_grid(grid, table, None) == 1  # `fedsec` is still at it
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert not run.is_finished(metrics.parent)
    wait_for(
        lambda: run.run_grid(grid, table, None) == 0
    )  # the system closes the log of a killed process a little later
    assert [row.cell for row in table.rows()] == [name]
    rounds = [e["round"] for e in RunFolder.open(metrics.parent).events() if e["event"] == "round"]
    assert rounds == list(range(TINY.steps))
    assert (tmp_path / "cells" / f"{name}.log").read_text().count("fedsec resume ") == 1


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not name the folder of the real corpora"
)
def test_bc5cdr_makes_ten_sites_of_two_hundred_sentences(tmp_path):
    corpus = notes.bc5cdr()
    folder = notes.deal(tmp_path / "sites", corpus, 10, 0, FULL.records)
    assert written(folder) == limited(corpus[0], 10, FULL.records)
    draft, patients, answers = Cell("none").draft(FULL), set(), 0
    for path in site_paths(folder):
        section = read_toml(path, SiteTemplate).data
        examples, _ = site_examples(load_site_documents(section, path.parent).documents, section, draft.task)
        assert len(examples) == 200
        assert patients.isdisjoint({e.patient_id for e in examples})
        patients |= {e.patient_id for e in examples}
        answers += sum(e.answer != "none" for e in examples)
    assert 480 <= len(patients) <= FULL.patients
    assert answers > 1500
    scored, measured = (notes.loss_examples(folder, draft, n) for n in (80, FULL.loss_sentences))
    assert len(measured) == FULL.loss_sentences
    assert {e.example_id for e in scored} <= {e.example_id for e in measured}
    assert patients.isdisjoint(e.patient_id for e in measured)
