"""`fedsec verify`: what a finished run proves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedsec.cli.output import Json, out, print_json

_STYLES = {"held": "green", "failed": "bold red", "not reached": "dim", "not pinned": "yellow", "not here": "yellow"}


def verify(
    run: Annotated[Path, typer.Argument(help="The run folder, from whoever gave it to you.")],
    keys: Annotated[Path | None, typer.Option(help="pins.toml: the keys that you compared with their owners.")] = None,
    json: Json = False,
) -> None:
    """Check a finished run: files, approvals, log, attestations, adapter, certificate. Offline. Exit 1 at a failure."""
    from fedsec.plan.toml import read_toml
    from fedsec.study.verify import Pins, verify_run

    rows = verify_run(run, None if keys is None else read_toml(keys, Pins))
    held = not any(row.outcome == "failed" for row in rows)
    if json:
        print_json({"run": str(run), "held": held, "checks": [vars(row) for row in rows]})
    else:
        table = Table(title=f"verification of {run}", title_justify="left")
        table.add_column("check", justify="right")
        table.add_column("what", overflow="fold")
        table.add_column("outcome")
        for row in rows:
            text = row.check if not row.reason else f"{row.check}\n{row.reason}"
            table.add_row(str(row.number), Text(text), Text(row.outcome, style=_STYLES[row.outcome]))
        out.print(table)
        if held and keys is None:
            out.print(
                "Checked against the keys in the run's own plan. Compare their words by phone (`fedsec plan show`), "
                "write them into a file, and give it as --keys: only then is it known who signed."
            )
    if not held:
        raise typer.Exit(1)
