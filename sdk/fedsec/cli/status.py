"""`fedsec status`: how far a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedsec.cli.output import Json, out, print_json


def status(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Draw it again every second until the run is finished; with --json, wait.")
    ] = False,
    json: Json = False,
) -> None:
    """Show rounds, survivors, losses, bytes and seconds so far. Reads the run folder only."""
    from fedsec.cli import follow as live
    from fedsec.study.folder import RunFolder

    folder = RunFolder.open(run)
    if follow:
        live.follow(folder, out, shown=not json)
        if not json:
            return
    events = folder.events()
    rounds = {e["round"]: e for e in events if e["event"] == "round"}
    finished = live.is_finished(events)
    exchanges = [e for e in events if e["event"] == "exchange"]
    value = {
        "run": folder.run,
        "plan": folder.plan.name,
        "plan_sha256": folder.plan.digest().hex(),
        "finished": finished,
        "rounds": [rounds[r] for r in sorted(rounds, key=str)],
        "rounds_planned": folder.plan.rounds,
        "exchanges": len(exchanges),
        "lost": [e for e in events if e["event"] in ("lost", "refused", "attempt-aborted")],
    }
    if json:
        print_json(value)
        return
    state = "finished" if finished else f"{len(rounds)} of {folder.plan.rounds} rounds; go on with {folder.goes_on_by}"
    out.print(f"run {folder.run} of plan {folder.plan.name}: {state}", markup=False)
    if exchanges:
        out.print(_exchange_table(exchanges, folder.plan.rounds))
    for event in events:
        for line in live.loss_lines(event):
            out.print(line, style="yellow", markup=False)


def _exchange_table(exchanges: list[dict[str, object]], rounds: int) -> Table:
    table = Table(title="Exchanges", title_justify="left")
    for name in ("round", "exchange", "sites", "bytes down a site", "bytes up a site", "seconds"):
        table.add_column(name, justify="left" if name == "exchange" else "right")
    for e in exchanges:
        up, down = dict(e["bytes_up"]), dict(e["bytes_down"])  # type: ignore[call-overload]
        number = str(int(str(e["round"])) + 1) if int(str(e["round"])) < rounds else "end"
        cells = (f"{max(down.values(), default=0):,}", f"{max(up.values(), default=0):,}", f"{e['seconds']}")
        table.add_row(number, str(e["exchange"]), f"{len(up)}/{len(down)}", *cells)
    return table
