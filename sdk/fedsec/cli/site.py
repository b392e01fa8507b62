"""`fedsec site`: what a site does on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedsec.cli.output import Json, out, print_json

app = typer.Typer(help="A site on its own: nothing is sent.", no_args_is_help=True)


@app.callback()
def _site() -> None:
    """A site on its own: nothing is sent."""


@app.command("check")
def check(
    site: Annotated[Path, typer.Argument(help="A site.toml.")],
    plan: Annotated[Path | None, typer.Option(help="A plan or draft: what a round of it costs here.")] = None,
    measure: Annotated[
        bool, typer.Option(help="With a plan: train a few steps here and tell memory and time. Nothing is kept.")
    ] = True,
    json: Json = False,
) -> None:
    """Counts, lengths and labels of a site's notes, malformed rows, and with a plan a round's memory and time."""
    from fedsec.study.sitecheck import check_site

    report = check_site(site, plan, measure)
    if json:
        print_json(report.plain())
        return
    table = Table(title=f"site {report.site}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in report.rows():
        table.add_row(name, value)
    out.print(table)
    for warning in report.warnings:
        out.print(f"note: {warning}", style="yellow", markup=False)
