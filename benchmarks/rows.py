"""What a benchmark prints, and the sizes that it is given."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One line of the result. ``met`` is None where there is no goal."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    met: bool | None = None


def print_rows(rows: Sequence[Row], as_json: bool) -> None:
    """One JSON object, or a table."""
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", "unit", "goal", "met")
    for row in rows:
        met = {None: "", True: "yes", False: "[red]no[/red]"}[row.met]
        table.add_row(row.name, f"{row.value:.4g}", row.unit, row.goal or "", met)
    Console().print(table)


def numbers(text: str) -> list[int]:
    """``1e6,42e6``: positive integers."""
    values = [int(float(part)) for part in text.split(",")]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"expected numbers from 0 on, found {text}")
    return values
