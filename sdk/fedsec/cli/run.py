"""`fedsec run`: a study in the embedded engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsec.cli.output import Jobs, Json, Quiet, err, out, print_json

if TYPE_CHECKING:
    from fedsec.site.identity import Progress
    from fedsec.study.folder import RunFolder


def run(
    plan: Annotated[Path, typer.Argument(help="plan.json that the officers approved, or with --init a draft in TOML.")],
    sites: Annotated[Path, typer.Option(help="Folder of sites: NAME/site.toml, and public/NAME.toml test sets.")],
    output: Annotated[Path, typer.Option("--out", help="The run folder, new or empty.")],
    init: Annotated[
        bool, typer.Option("--init", help="Make what is missing (keys, policies, approvals) into OUT-sites/.")
    ] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the draft, before it is signed; repeatable.")
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run, [a-z0-9-]; made up if left out.")] = None,
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a study: all its rounds, then the baselines and scores that the plan asks for."""
    from fedsec.study.prepare import prepare_run, working_set

    folder = prepare_run(plan, sites, output, init=init, assignments=assignments or (), run=run_id)
    if init and not quiet:
        err.print(f"made keys, policies and approvals in {working_set(output)} (mode 0700)", style="dim")
    finish_study(folder.path, jobs, json=json, quiet=quiet)


def finish_study(path: Path, jobs: int | None, *, json: bool, quiet: bool) -> None:
    """Do all that is left of a run, and show its results."""
    from fedsec.cli.progress import StudyProgress
    from fedsec.plan.explain_secure import warning
    from fedsec.study.folder import RunFolder

    folder = RunFolder.open(path)
    warned = warning(folder.plan)
    if warned is not None and not quiet:
        err.print(warned, style="bold red")
    if quiet or json:
        _finish(folder, lambda event: None, jobs)
    else:
        with StudyProgress(err, folder.plan.rounds) as progress:
            _finish(folder, progress, jobs)
    show_finished(folder, json=json, quiet=quiet)


def show_finished(folder: RunFolder, *, json: bool, quiet: bool) -> None:
    """What a run has made, and where it lies."""
    from fedsec.cli.tables import show_results
    from fedsec.study.verify import REPORT

    path, results = folder.path, folder.results()
    report, here = path / REPORT, folder.adapter.is_dir()
    if json:
        means = {s: {_key(name): v for name, v in results.figures(s).items()} for s in results.scores}
        value: dict[str, str | None] = {"run": folder.run, "folder": str(path), "report": str(report)}
        value["adapter"] = str(folder.adapter) if here else None
        print_json(value | {"macro_f1": means})
    elif not quiet:
        if results.scores:
            show_results(out, results)
        adapter = (
            f"adapter:    {folder.adapter} (plain PEFT)" if here else "adapter:    at each site: `fedsec site adapter`"
        )
        out.print(f"run folder: {path}\n{adapter}\nreport:     {report}", markup=False, soft_wrap=True)


def _key(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _finish(folder: RunFolder, progress: Progress, jobs: int | None) -> None:
    from fedsec.report.seal import finish_run
    from fedsec.study.federation import open_study

    finish_run(folder, open_study(folder, progress, jobs).run)
