"""One cell after the other: `fedsec run` in a folder of its own, then its loss, then its row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from cells.loop import Bar, FailedError, held, run_cells
from cells.table import Table

from fedsec.cli.app import run as fedsec_run
from fedsec.report.seal import is_sealed
from fedsec.study.folder import RunFolder
from fedsec.study.results import ZERO_SHOT
from tradeoff.cells import FULL, NONE, PLAN, Cell, Scale, require_plan
from tradeoff.measure import Row, losses_of, row_of, untrained_row
from tradeoff.notes import Corpus, bc5cdr, deal, invented, loss_examples

_CALL = "from fedsec.cli import main; main()"
_LOOK_EVERY = 2.0


@dataclass(frozen=True)
class Grid:
    """The cells of one study with where they run, and what all of them share."""

    out: Path
    scale: Scale
    cells: Sequence[Cell]
    jobs: int | None = None
    in_here: bool = False
    """Run `fedsec` in this process."""

    @cached_property
    def corpus(self) -> Corpus:
        """Training and test notes, read once."""
        return bc5cdr() if self.scale is FULL else invented(self.scale)

    def folder(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.out / "cells" / cell.name

    def command(self, cell: Cell, sites: Path) -> list[str]:
        """The arguments of `fedsec` that start a cell's run, or go on with it."""
        folder = self.folder(cell)
        jobs = [] if self.jobs is None else ["--jobs", str(self.jobs)]
        if (folder / "run.json").is_file():
            return ["resume", str(folder), "--quiet", *jobs]
        start = ["run", str(PLAN), "--sites", str(sites), "--out", str(folder), "--init", "--quiet", *jobs]
        changes = cell.changes(self.scale)
        if self.scores_untrained(cell):
            changes.append('evaluation.baselines=["zero-shot"]')
        return start + [part for change in changes for part in ("--set", change)]

    def scores_untrained(self, cell: Cell) -> bool:
        """Whether this cell scores the base model too: the first one without privacy does."""
        return cell == next((c for c in self.cells if c.mode == NONE), None)

    def sites(self, cell: Cell) -> Path:
        """The notes dealt to this cell's sites, written where they are missing."""
        target = self.out / "dealt" / f"{cell.sites}-s{cell.seed}"
        if target.is_dir():
            return target
        return deal(target, self.corpus, cell.sites, cell.seed, self.scale.records)


def run_cell(grid: Grid, cell: Cell, bar: Bar) -> list[Row]:
    """Run, resume, or only measure what is finished; its row, and the base model's where it scored that."""
    folder = grid.folder(cell)
    with held(folder.with_name(f"{cell.name}.log")) as log:
        sites = grid.sites(cell)
        if (folder / "run.json").is_file():  # before hours go into another run
            require_plan(cell, grid.scale, RunFolder.open(folder).plan)
        if not is_finished(folder):
            arguments = grid.command(cell, sites)
            log.write(f"fedsec {' '.join(arguments)}\n".encode())
            log.flush()
            _in_here(arguments) if grid.in_here else _in_a_process(arguments, log, folder, bar)
        run = RunFolder.open(folder)
        bar.step("loss", 0, 1)
        untrained = ZERO_SHOT in run.results().scores
        examples = loss_examples(sites, run.plan, grid.scale.loss_sentences)
        adapters = [run.adapter, None] if untrained else [run.adapter]
        losses = losses_of(run.plan, adapters, examples, lambda done, of: bar.step("loss", done, of))
        row = row_of(cell, grid.scale, run, losses[0])
        return [row, untrained_row(row, run, losses[1])] if untrained else [row]


def is_finished(folder: Path) -> bool:
    """Whether the run has done all that its plan asks for, its report and the list of its files included."""
    return (folder / "run.json").is_file() and is_sealed(folder)


def _in_here(arguments: list[str]) -> None:
    """For runs of seconds, most of which would be imports."""
    try:
        fedsec_run(arguments)
    except SystemExit as e:
        if e.code:
            raise FailedError(f"`fedsec {arguments[0]}` ended with {e.code}") from None


def _in_a_process(arguments: list[str], log: IO[bytes], folder: Path, bar: Bar) -> None:
    command = [sys.executable, "-c", _CALL, *arguments]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not _ended(process):
            if (folder / "run.json").is_file():
                run = RunFolder.open(folder)
                bar.step("rounds", sum(e["event"] == "round" for e in run.events()), run.plan.rounds)
    finally:
        process.terminate()
        process.wait()
    if process.returncode:
        raise FailedError(f"`fedsec {arguments[0]}` ended with {process.returncode}; see {log.name}")


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return False
    return True


def run_grid(grid: Grid, table: Table[Row], minutes: float | None) -> int:
    """All cells that have no row yet; how many are left. No cell is begun later than ``minutes`` from now."""

    def told(rows: Sequence[Row]) -> str:
        row = rows[0]
        return f"loss {row.loss:.3f}, F1 {row.f1:.3f}, {row.seconds / 60:.1f} minutes of rounds"

    return run_cells(grid.cells, lambda cell: table, lambda cell, bar: run_cell(grid, cell, bar), told, minutes)
