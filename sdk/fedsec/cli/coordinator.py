"""`fedsec coordinator`: a run whose sites are on machines of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.output import Jobs, Json, Quiet, err, out, print_json
from fedsec.cli.serving import Log, Port, operated, stoppable

app = typer.Typer(help="A run across machines: make kits for the sites, and serve.", no_args_is_help=True)

PORT = 8002


@app.callback()
def _coordinator() -> None:
    """A run across machines: make kits for the sites, and serve."""


@app.command("provision")
def provision(
    plan: Annotated[Path, typer.Argument(help="plan.json: its sites get a kit each.")],
    output: Annotated[Path, typer.Option("--out", help="The folder of kits, new or empty.")],
    host: Annotated[str, typer.Option(help="Name or IPv4 address by which sites reach the coordinator.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The one port that sites connect to.")] = PORT,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the certificates hold.")] = 360,
    json: Json = False,
) -> None:
    """Make a root, and a startup kit (TLS key, certificates, address) for the coordinator and each site of a plan.

    Send each site its own kit, and nobody else's. A kit only lets a site connect: what its process says is signed with
    the keys that the plan names, and no kit holds those.
    """
    from fedsec.engines.nvflare.provision import provision as make
    from fedsec.plan.document import load_plan

    sites = tuple(load_plan(plan).roster.sites)
    with stoppable():  # no private key stays behind in the temporary folder
        make(sites, host, port, output, days)
    if json:
        print_json({"kits": str(output), "host": host, "port": port, "sites": list(sites)})
        return
    text = f"kits for {host}:{port}, {days} days: {output}/coordinator and {', '.join(f'{output}/{s}' for s in sites)}"
    out.print(text + "\nPut each where its coordinator.toml or site.toml says engine.", markup=False, soft_wrap=True)


@app.command("serve")
def serve(
    plan: Annotated[Path, typer.Argument(help="plan.json that the officers approved.")],
    coordinator: Annotated[Path, typer.Option(help="A coordinator.toml: key, kit, approvals, public test sets.")],
    output: Annotated[Path, typer.Option("--out", help="The run folder: new, or one to go on with.")],
    run_id: Annotated[str | None, typer.Option(help="Name of the run, [a-z0-9-]; made up if left out.")] = None,
    bind: Annotated[str | None, typer.Option(help="Listen on this IPv4 address only; left out: on all.")] = None,
    segment: Annotated[int, typer.Option(min=1, help="Rounds that one job of the engine carries.")] = 5,
    away: Annotated[float, typer.Option(min=1, help="Seconds that a silent site has to come back.")] = 600.0,
    linger: Annotated[float, typer.Option(min=0, help="Seconds to tell every site of the end.")] = 60.0,
    jobs: Jobs = None,
    log: Log = None,
    port: Port = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve a run until it is finished and signed. After a kill the same command goes on where it was."""
    from fedsec.cli.run import show_finished
    from fedsec.ops.kit import load_kit
    from fedsec.plan.coordinatorfile import load_coordinator
    from fedsec.report.seal import finish_run
    from fedsec.study.coordinate import open_coordination
    from fedsec.study.coordinated import coordination_folder
    from fedsec.study.serving import ServeOptions, engine_folder
    from fedsec.study.serving import serve as serve_run

    load_kit(load_coordinator(coordinator).engine_path, "coordinator")  # before a run folder is made
    folder = coordination_folder(plan, coordinator, output, run_id)
    names = tuple(folder.plan.roster.sites)
    folders = {"run": output, "engine": engine_folder(output)}
    operation = operated(
        "coordinator",
        log=log,
        port=port,
        quiet=quiet,
        rounds=folder.plan.rounds,
        run=folder.run,
        sites=names,
        folders=folders,
    )
    with operation as (operations, progress, _):
        if err.is_terminal and not quiet:
            err.print(f"run {folder.run}: waiting for {', '.join(names)}", style="dim", markup=False)
        options = ServeOptions(bind, segment, away, linger)
        serve_run(
            folder,
            options,
            lambda: open_coordination(folder, progress, jobs),
            finish_run,
            progress,
            operations.tick,
            operations.ready,
        )
    show_finished(folder, json=json, quiet=quiet)
