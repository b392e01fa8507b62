"""`fedsec site`: what a site does on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedsec.cli.adapt import adapt
from fedsec.cli.output import Json, Quiet, out, print_json
from fedsec.cli.serving import Log, Port, operated

if TYPE_CHECKING:
    from contextlib import ExitStack

    from fedsec.plan.model import Plan
    from fedsec.plan.sitefile import Site
    from fedsec.site.agent import SiteAgent
    from fedsec.site.identity import Progress
    from fedsec.training.adapter import AdapterState

app = typer.Typer(help="A site: what it does on its own, and taking part in a run.", no_args_is_help=True)
app.command("adapt")(adapt)


@app.callback()
def _site() -> None:
    """A site: what it does on its own, and taking part in a run."""


@app.command("join")
def join(
    plan: Annotated[Path, typer.Argument(help="plan.json that this site's officers approved.")],
    site: Annotated[Path, typer.Option(help="A site.toml; its field engine names the startup kit.")],
    log: Log = None,
    port: Port = None,
    quiet: Quiet = False,
) -> None:
    """Take part in a run across machines until it is over. After a kill the same command goes on.

    Connections go out only. Keys, notes and training stay in this process; another one carries its messages.
    """
    from fedsec.plan.document import load_plan
    from fedsec.plan.sitefile import load_site
    from fedsec.study.one_site import open_one_site
    from fedsec.study.serving import join as take_part

    here, approved = load_site(site), load_plan(plan)
    folders = {"state": here.state_path}
    operation = operated(
        "site", log=log, port=port, quiet=quiet, rounds=approved.rounds, site=here.name, folders=folders
    )

    def load(site: Site, plan: Plan, progress: Progress, stack: ExitStack) -> SiteAgent:
        return open_one_site(site, plan, None, progress, stack)

    with operation as (operations, progress, stopping):
        words = take_part(here, approved, load, operations, progress, stopping)
    if not quiet:
        out.print(f"the coordinator says: {words}", markup=False, soft_wrap=True)


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


@app.command("personal")
def personal(
    site: Annotated[Path, typer.Argument(help="A site.toml.")],
    run: Annotated[Path, typer.Argument(help="The folder of a finished run with lora.strategy = fedsa.")],
    output: Annotated[Path, typer.Option("--out", help="A folder that is not there yet, or empty.")],
    json: Json = False,
) -> None:
    """Write this site's own adapter as a plain PEFT folder: the run's A with the B that never left the site."""
    from fedsec.plan.sitefile import load_site
    from fedsec.study.folder import RunFolder
    from fedsec.study.personal import personal_adapter
    from fedsec.study.prepare import require_new

    require_new(output)
    folder = RunFolder.open(run)
    digest = _write(personal_adapter(load_site(site), folder), output, folder.plan)
    if json:
        print_json({"adapter": str(output), "sha256": digest})
        return
    out.print(f"personal adapter: {output} ({digest[:12]}…). Its B was trained on this site's notes.", markup=False)


@app.command("adapter")
def adapter(
    site: Annotated[Path, typer.Argument(help="A site.toml.")],
    run: Annotated[str, typer.Option(help="The folder of a finished run whose sums are encrypted, or its id.")],
    output: Annotated[Path, typer.Option("--out", help="A folder that is not there yet, or empty.")],
    plan: Annotated[Path | None, typer.Option(help="The run's plan.json, where --run is an id.")] = None,
    json: Json = False,
) -> None:
    """Write a run's adapter as a plain PEFT folder from this site's record: with he-mask and he no other has it."""
    from fedsec.plan.document import load_plan
    from fedsec.plan.sitefile import load_site
    from fedsec.study.folder import RunFolder
    from fedsec.study.own_adapter import adapter_of_id, adapter_of_run
    from fedsec.study.prepare import require_new

    require_new(output)
    if plan is None:
        folder = RunFolder.open(Path(run))
        agreed, found = folder.plan, adapter_of_run(load_site(site), folder)
    else:
        agreed = load_plan(plan)
        found = adapter_of_id(load_site(site), run, agreed)
    digest = _write(found, output, agreed)
    if json:
        print_json({"adapter": str(output), "sha256": digest})
        return
    out.print(f"adapter: {output} ({digest[:12]}…), as this site verified it in the last round.", markup=False)


def _write(adapter: AdapterState, output: Path, plan: Plan) -> str:
    """A PEFT folder that only its owner reads; the adapter's digest, hex."""
    from fedsec.spool import private_folder

    private_folder(output).chmod(0o700)
    adapter.save_peft(output, plan.model, plan.lora)
    return adapter.digest().hex()


@app.command("log")
def log(
    site: Annotated[Path, typer.Argument(help="A site.toml.")],
    json: Json = False,
) -> None:
    """What this site answered, what it refused and under which approval: its own log, once that is checked."""
    from fedsec.plan.sitefile import load_site
    from fedsec.study.logbook import describe
    from fedsec.study.sites import read_own_log

    entries = read_own_log(load_site(site))
    if json:
        print_json({"entries": [e.model_dump(mode="json") for e in entries]})
        return
    table = Table(title=f"log of {load_site(site).name}", title_justify="left")
    table.add_column("no.", justify="right")
    table.add_column("entry")
    table.add_column("says", overflow="fold")
    for number, entry in enumerate(entries):
        table.add_row(str(number), entry.kind, describe(entry))
    out.print(table)
