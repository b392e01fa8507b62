"""One cell after the other: what has its rows is left alone, what another process holds is left to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cells.table import R, Table
from fedsec.spool import lock


class BusyError(Exception):
    """Another process is running the cell."""


class FailedError(Exception):
    """The cell gave nothing; the message says why."""


class Named(Protocol):
    """A cell."""

    @property
    def name(self) -> str:
        """Tells all cells of a study apart."""


C = TypeVar("C", bound=Named)


@contextmanager
def held(log: Path) -> Iterator[IO[bytes]]:
    """The cell's log, locked: processes that are started with it inherit the lock, so that it holds even where only
    this one was killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        if not lock(out.fileno(), log, wait=False):
            raise BusyError(log.stem)
        yield out


class Bar:
    """Two lines on the terminal: cells, and what the present one is doing."""

    def __init__(self, progress: Progress, cells: int) -> None:
        self._progress = progress
        self._cells = progress.add_task("cells", total=cells)
        self._inside = progress.add_task("", total=1, visible=False)

    def begin(self, name: str) -> None:
        """A cell begins."""
        self._name = name
        self.step("loading", 0, 1)

    def step(self, what: str, done: int, of: int) -> None:
        """So much of the present cell."""
        words = f"{self._name}: {what}"
        self._progress.update(self._inside, description=words, completed=done, total=of, visible=True)

    def end(self, line: str) -> None:
        """The present cell is over."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._inside, visible=False)
        self._progress.advance(self._cells)


def run_cells(
    cells: Sequence[C],
    table_of: Callable[[C], Table[R]],
    run: Callable[[C, Bar], Sequence[R]],
    told: Callable[[Sequence[R]], str],
    minutes: float | None,
) -> int:
    """All cells that have no row yet; how many are left. No cell is begun later than ``minutes`` from now.

    ``run`` gives a cell's rows, which go into its table at once; ``told``: what is printed of them.
    """
    began = time.monotonic()
    todo = [cell for cell in cells if not is_done(cell, table_of(cell))]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = Bar(progress, len(todo))
        for cell in todo:
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            if is_done(cell, table_of(cell)):
                bar.end(f"{cell.name}: done by another process")
                continue
            bar.begin(cell.name)
            try:
                rows = run(cell, bar)
            except (BusyError, FailedError) as e:
                bar.end(f"{cell.name}: {e if isinstance(e, FailedError) else 'another process has it'}")
                continue
            table_of(cell).add(*rows)
            bar.end(f"{cell.name}: {told(rows)}")
    return sum(not is_done(cell, table_of(cell)) for cell in todo)  # another process may have ended its own by now


def is_done(cell: Named, table: Table[R]) -> bool:
    """Whether the cell has rows."""
    return any(row.cell == cell.name for row in table.rows())
