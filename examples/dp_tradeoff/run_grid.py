"""Runs the grid, a cell after the other, each `fedsec run` in a folder of its own; afterwards tables and a figure.

    FEDSEC_DATA=... python examples/dp_tradeoff/run_grid.py --out runs/dp

A cell that has its row is not run again, one that was begun is resumed: after a kill, the same command goes on. Several
of these processes may work on one grid: a cell that another one holds is left to it.
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what the experiments share

from cells.table import Table
from tradeoff import plot
from tradeoff.cells import FULL, HERE, MODES, STRATEGIES, TINY, UNITS, Cell, main_grid, named, product_grid
from tradeoff.measure import Row
from tradeoff.run import Grid, run_grid
from tradeoff.tables import summary

from fedsec_secure.errors import FedsecError

TINY_EPSILONS, TINY_SITES = [1.0, 8.0], [3]


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, default=Path("runs/dp"), help="folder of notes and runs")
    found.add_argument("--results", type=Path, help="folder of results.csv (default: beside this file; tiny: in --out)")
    found.add_argument("--tiny", action="store_true", help="random weights, invented notes, 3 sites, epsilon 1 and 8")
    found.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    axes = found.add_argument_group("another grid than the main one: every combination of")
    axes.add_argument("--modes", nargs="+", choices=MODES)
    axes.add_argument("--epsilons", type=float, nargs="+")
    axes.add_argument("--strategies", nargs="+", choices=STRATEGIES)
    axes.add_argument("--sites", type=int, nargs="+", help="3 or more")
    axes.add_argument("--units", nargs="+", choices=UNITS)
    axes.add_argument("--rates", type=float, nargs="+", help="times the plan's learning rate (default: the curves')")
    found.add_argument("--cells", nargs="+", metavar="NAME", help="these cells, by name, and no grid")
    found.add_argument("--only", nargs="+", metavar="PATTERN", help="of the grid, cells such as '*-e8-*'")
    found.add_argument("--minutes", type=float, help="begin no cell later than this")
    found.add_argument("--jobs", type=int, help="sites of a cell that train at once (default: a core each)")
    found.add_argument("--list", action="store_true", help="print the cells and which are done, run none")
    found.add_argument("--table", action="store_true", help="write summary.md from results.csv, run none")
    found.add_argument("--plot", action="store_true", help="write tradeoff.svg and tradeoff.png, run none")
    return found


def cells_of(given: argparse.Namespace) -> list[Cell]:
    """The cells that the options name, in order."""
    seeds = given.seeds or ([0] if given.tiny else [0, 1, 2])
    axes = (given.modes, given.epsilons, given.strategies, given.sites, given.units, given.rates)
    if given.cells:
        cells = [named(name) for name in given.cells]
    elif given.tiny or any(axis is not None for axis in axes):
        epsilons = given.epsilons or (TINY_EPSILONS if given.tiny else [8.0, 2.0, 1.0, 4.0])
        sites = given.sites or (TINY_SITES if given.tiny else [10])
        modes, strategies, units = given.modes or MODES, given.strategies or ["ffa"], given.units or ["record"]
        rates = given.rates or ([1.0] if given.tiny else None)
        cells = product_grid(seeds, modes, epsilons, strategies, sites, units, rates)
    else:
        cells = main_grid(seeds)
    if given.only:
        cells = [cell for cell in cells if any(fnmatch.fnmatch(cell.name, pattern) for pattern in given.only)]
        if not cells:
            raise SystemExit(f"--only {' '.join(given.only)}: no cell of the grid has such a name; see --list")
    if any(cell.sites < 3 for cell in cells):
        raise SystemExit("--sites: masks need at least 3 sites")
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where cells are left."""
    given = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `fedsec` is ended too
    grid = Grid(given.out, TINY if given.tiny else FULL, cells_of(given), given.jobs, in_here=given.tiny)
    results = given.results or (given.out / "results" if given.tiny else HERE / "results")
    table, left = Table(results / "results.csv", Row), 0
    if given.list:
        done = {row.cell for row in table.rows()}
        print("\n".join(f"{'done' if cell.name in done else '    '} {cell.name}" for cell in grid.cells))
        return 0
    if not (given.table or given.plot):
        try:
            left = run_grid(grid, table, given.minutes)
        except FedsecError as e:
            raise SystemExit(str(e)) from e
    rows = table.rows()
    if rows and (given.table or not given.plot):
        (results / "summary.md").write_text("\n".join(summary(rows)) + "\n", encoding="utf-8")
    if rows and (given.plot or not given.table):
        plot.draw(rows, results)
    print(f"{len(rows)} rows in {table.path}" + (f"; {left} cells left: the same command goes on" if left else ""))
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
