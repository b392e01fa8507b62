"""What an experiment is, and how its cells are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cells.loop import Bar, FailedError, held
from matplotlib.figure import Figure

from fedsec_secure.errors import FedsecError
from suite.lab import Lab
from suite.rows import EVERY_SEED, Cell, Row
from suite.settings import Scale

CPU = "CPU seconds"


@dataclass(frozen=True)
class Experiment:
    """One folder of results: its cells, the lines of its summary.md, and its figure."""

    name: str
    title: str
    seeds: int
    """Seeds 0 to this, where none are asked for."""
    cells: Callable[[Scale, Sequence[int]], list[Cell]]
    summary: Callable[[Sequence[Row]], Iterator[str]]
    draw: Callable[[Figure, Sequence[Row]], bool]
    """False where the rows are too few for a figure."""
    size: tuple[float, float] = (7.4, 3.2)

    def summarised(self, rows: Sequence[Row]) -> str:
        """The whole of summary.md."""
        seeds = sorted({row.seed for row in rows} - {EVERY_SEED})
        spent = sum(row.value for row in rows if row.measure == CPU)
        told = ", ".join(map(str, seeds))
        lines = [
            f"# {self.title}",
            "",
            f"{'One seed' if len(seeds) == 1 else 'Seeds'}: {told}. F1 as mean over seeds (lowest to highest). "
            f"{spent / 60:.0f} CPU minutes; what another experiment had made already is not counted.",
            "",
            f"Made with `python examples/paper/run.py {self.name} --out DIR`.",
            "",
            *self.summary(rows),
        ]
        return "\n".join(lines) + "\n"


def run_cell(lab: Lab, cell: Cell, bar: Bar) -> list[Row]:
    """The cell's rows, and what it took. BusyError where another process has it, FailedError with the reason where
    something is refused.
    """
    with held(lab.out / "cells" / f"{cell.name.replace('/', '-')}.log"):
        lab.say = bar.step
        began = time.process_time()
        try:
            rows = list(cell.measure(lab))
        except FedsecError as e:
            raise FailedError(f"{type(e).__name__}: {e}") from e
        return [*rows, Row(cell.name, cell.seed, "", float("nan"), "", CPU, time.process_time() - began)]


def told(rows: Sequence[Row]) -> str:
    """One line for the terminal."""
    first = next((row for row in rows if row.measure != CPU), None)
    spent = sum(row.value for row in rows if row.measure == CPU)
    what = "" if first is None else f"{first.system} {first.test} {first.measure} {first.value:.3f}, "
    return f"{what}{spent / 60:.1f} CPU minutes"


def folder_of(results: Path, experiment: Experiment) -> Path:
    """Where the files of an experiment are."""
    return results / experiment.name
