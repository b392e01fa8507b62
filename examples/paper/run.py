"""Runs the experiments, a cell after the other; afterwards tables and a figure for each.

    FEDSEC_DATA=... python examples/paper/run.py --out runs/paper             # all of them
    FEDSEC_DATA=... python examples/paper/run.py in_domain --out runs/paper   # one

A cell that has its rows is not run again, and what it trained, answered or measured is kept in --out, so that after a
kill the same command goes on, and experiments share what they have in common. Several of these processes may work on
one --out: a cell that another one holds is left to it.
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what the experiments share

from cells.figure import drawn
from cells.loop import is_done, run_cells
from cells.table import Table
from suite import (
    communication,
    external,
    fairness,
    heterogeneity,
    in_domain,
    new_site,
    poisoned,
    rounds,
    sites,
    titles,
    validation_size,
)
from suite.experiment import Experiment, folder_of, run_cell, told
from suite.lab import Lab
from suite.rows import Cell, Row
from suite.settings import ANSWER_SECONDS, FULL, HERE, TINY, TRAIN_SECONDS, Scale

from fedsec_secure.errors import FedsecError

MODULES = (
    in_domain,
    external,
    new_site,
    heterogeneity,
    validation_size,
    poisoned,
    sites,
    fairness,
    communication,
    titles,
    rounds,
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in MODULES}


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)}")
    found.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of notes, runs and what is kept")
    found.add_argument("--results", type=Path, help="folder of the results (default: beside this file; tiny: in --out)")
    found.add_argument("--tiny", action="store_true", help="random weights, invented notes: no meaning, in a minute")
    found.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2 where three are usual, else 0")
    found.add_argument("--only", nargs="+", metavar="PATTERN", help="cells such as 'in_domain/*-s0'")
    found.add_argument("--minutes", type=float, help="begin no cell later than this")
    found.add_argument("--jobs", type=int, default=1, help="sites that train at once in this process")
    found.add_argument("--list", action="store_true", help="print the cells, which are done and what they cost")
    found.add_argument("--table", action="store_true", help="write every summary.md, run none")
    found.add_argument("--plot", action="store_true", help="write every figure.svg and figure.png, run none")
    return found


def cells_of(given: argparse.Namespace, scale: Scale) -> dict[Cell, Experiment]:
    """The cells that the options name: the first seed of every experiment before all others."""
    unknown = sorted(set(given.experiments) - set(EXPERIMENTS))
    if unknown:
        raise SystemExit(f"{unknown[0]}: no experiment of that name; there are {', '.join(EXPERIMENTS)}")
    names = given.experiments or list(EXPERIMENTS)
    found: dict[Cell, Experiment] = {}
    for name in names:
        experiment = EXPERIMENTS[name]
        usual = [0] if given.tiny else list(range(experiment.seeds))
        found |= dict.fromkeys(experiment.cells(scale, given.seeds or usual), experiment)
    if given.only:
        found = {c: e for c, e in found.items() if any(fnmatch.fnmatch(c.name, p) for p in given.only)}
    first = min((cell.seed for cell in found), default=0)
    return dict(sorted(found.items(), key=lambda item: item[0].seed != first))


def listed(cells: dict[Cell, Experiment], tables: dict[str, Table[Row]]) -> None:
    """Cells, which are done, and an estimate for those that are not."""
    total = 0.0
    for cell, experiment in cells.items():
        done = is_done(cell, tables[experiment.name])
        cost = cell.trains * TRAIN_SECONDS + cell.answers * ANSWER_SECONDS
        total += 0 if done else cost
        print(f"{'done' if done else '    '} {cost / 60:6.1f} min  {cell.name}")
    print(f"about {total / 3600:.1f} CPU hours are left, one thread a process")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where cells are left."""
    given = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = TINY if given.tiny else FULL
    cells = cells_of(given, scale)
    results = given.results or (given.out / "results" if given.tiny else HERE)
    chosen = list(dict.fromkeys(cells.values()))
    tables = {e.name: Table(folder_of(results, e) / "results.csv", Row, digits=9) for e in chosen}
    if given.list:
        listed(cells, tables)
        return 0
    left = 0
    if not (given.table or given.plot):
        lab = Lab(given.out, scale, given.jobs)
        table_of = {cell.name: tables[experiment.name] for cell, experiment in cells.items()}
        try:
            left = run_cells(
                list(cells),
                lambda cell: table_of[cell.name],
                lambda cell, bar: run_cell(lab, cell, bar),
                told,
                given.minutes,
            )
        except FedsecError as e:
            raise SystemExit(str(e)) from e
    for experiment in chosen:
        write(experiment, tables[experiment.name], given.table or not given.plot, given.plot or not given.table)
    print(f"results in {results}" + (f"; {left} cells left: the same command goes on" if left else ""))
    return int(left > 0)


def write(experiment: Experiment, table: Table[Row], text: bool, figure: bool) -> None:
    """summary.md and the figure, from what rows there are."""
    rows, folder = table.rows(), table.path.parent
    if rows and text:
        (folder / "summary.md").write_text(experiment.summarised(rows), encoding="utf-8")
    if rows and figure:
        with drawn(folder / "figure", *experiment.size) as canvas:
            experiment.draw(canvas, rows)


if __name__ == "__main__":
    sys.exit(main())
