"""results.csv: the rows of every finished cell. Written whole or not at all, by one process at a time."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

from fedsec.spool import lock, write_durably


class CellRow(Protocol):
    """A NamedTuple of strings and numbers whose field ``cell`` says which cell gave it."""

    @property
    def cell(self) -> str:
        """The cell's name."""

    def __iter__(self) -> Iterator[Any]: ...


R = TypeVar("R", bound=CellRow)


class Table(Generic[R]):
    """The file of one study's rows, all of one kind; numbers are kept to so many significant digits."""

    def __init__(self, path: Path, kind: type[R], digits: int = 6) -> None:
        self.path, self.kind, self.digits = path, kind, digits
        self._columns = list(get_type_hints(kind))

    def rows(self) -> list[R]:
        """All rows, in the order in which they were added; SystemExit for another file, or a damaged one."""
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return []
        lines = csv.reader(io.StringIO(text))
        if next(lines, None) != self._columns:
            raise SystemExit(f"{self.path}: expected the columns {', '.join(self._columns)}; use another --results")
        return [self._parsed(line, lines.line_num) for line in lines]

    def add(self, *rows: R) -> None:
        """Add or replace the rows of these cells."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            new = {row.cell for row in rows}
            kept = [row for row in self.rows() if row.cell not in new]
            out = io.StringIO()
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows(self._printed(row) for row in (*kept, *rows))
            write_durably(self.path, [out.getvalue().encode()])

    def _printed(self, row: CellRow) -> list[str]:
        return [f"{value:.{self.digits}g}" if isinstance(value, float) else str(value) for value in row]

    def _parsed(self, line: Sequence[str], number: int) -> R:
        kinds = get_type_hints(self.kind)
        try:
            return self.kind(*(kinds[name](text) for name, text in zip(self._columns, line, strict=True)))
        except ValueError as e:
            raise SystemExit(
                f"{self.path}, line {number}: expected a cell's {len(self._columns)} columns, found "
                f"{shorten(','.join(line), 80)!r} ({e}). Take the line out, and the same command makes its cell's row "
                "again"
            ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """No other process or thread that asks the same is inside meanwhile; a kill lets go. A file is made if need be."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(handle, path, wait=True)
        yield
    finally:
        os.close(handle)
