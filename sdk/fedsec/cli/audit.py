"""`fedsec audit`: try to refute the epsilon that is reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fedsec.cli.output import Json, err, out, print_json
from fedsec.plan.statement import plural

if TYPE_CHECKING:
    from fedsec.audits.canaries import Run
    from fedsec.audits.outcome import Row, Watch

T = TypeVar("T")
_LONGEST = 160
"""Letters of what was got, in the table; `--json` has all of them."""
_SELF_TEST_TRIALS = 3000
"""Enough for every planted fault, in a fraction of the time that a tight bound takes."""

app = typer.Typer(help="Try to refute the ε that is reported, with counts and exact tests.", no_args_is_help=True)

Noise = Annotated[float | None, typer.Option(help="Standard deviation of the noise over the clipping norm.")]
Rate = Annotated[float | None, typer.Option(help="Chance of each unit to be in a step.")]
Delta = Annotated[float | None, typer.Option(help="At which ε is given; 1e-5 if left out.")]
Confidence = Annotated[float | None, typer.Option(help="Of the lower bounds on ε, from 0.5 to below 1.")]
Records = Annotated[
    int | None, typer.Option("--max-records", help="Where records are sampled: how many of a patient are used.")
]


@app.callback()
def _audit() -> None:
    """Try to refute the ε that is reported, with counts and exact tests."""


@app.command("mechanism")
def mechanism(
    noise_multiplier: Noise = None,
    sampling_rate: Rate = None,
    delta: Delta = None,
    trials: Annotated[int | None, typer.Option(help="Steps with a canary, and as many without; 30000.")] = None,
    confidence: Confidence = None,
    max_records: Records = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Plant faults in this process, one at a time: all must be found.")
    ] = False,
    json: Json = False,
) -> None:
    """One private step: its ε, noise, sampling and clipping. Exit code 1 where something is refuted.

    Two minutes or three. Noise multiplier 1 and sampling rate 0.5 unless given: smaller rates need many more trials.
    """
    from fedsec.audits.mechanism import audit
    from fedsec.audits.setting import Setting

    setting = _made(
        Setting,
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        delta=delta,
        trials=_SELF_TEST_TRIALS if self_test and trials is None else trials,
        confidence=confidence,
        records=max_records,
    )
    if self_test:
        from fedsec.audits.planted import find_all

        _show("Builds with one planted fault each", lambda watch: find_all(setting, watch), json=json)
    title = f"One private step, noise {setting.noise_multiplier:g}, δ {setting.delta:g}, {setting.confidence} sure"
    _show(title, lambda watch: audit(setting, watch), json=json)


@app.command("canaries")
def canaries(
    plan: Annotated[Path | None, typer.Argument(help="A plan with noise: plan.json, or a draft in TOML.")] = None,
    noise_multiplier: Noise = None,
    sampling_rate: Rate = None,
    steps: Annotated[int | None, typer.Option(help="Of the whole run; the plan's, or 40.")] = None,
    delta: Delta = None,
    count: Annotated[int | None, typer.Option("--canaries", help="Gradient canaries; 1000 if left out.")] = None,
    confidence: Confidence = None,
    max_records: Records = None,
    json: Json = False,
) -> None:
    """One training run with canaries, each in it by a coin that is then guessed. Exit code 1 where a row does not hold.

    The tiny model is trained, with the plan's noise, sampling and steps; options replace the plan's. 40 steps take half
    a minute.
    """
    from fedsec.audits.canaries import Run, audit

    planned = _of_plan(plan) if plan is not None else Run()
    given = {
        "noise_multiplier": noise_multiplier,
        "sampling_rate": sampling_rate,
        "steps": steps,
        "delta": delta,
        "canaries": count,
        "confidence": confidence,
        "records": max_records,
    }
    run = _made(partial(replace, planned), **given)
    title = (
        f"{plural(run.steps, 'step')}, noise {run.noise_multiplier:g}, rate {run.sampling_rate:g}, δ {run.delta:g}, "
        f"{run.confidence} sure"
        + (f", {run.records} records of a patient" if run.records > 1 else "")
        + (", shared noise" if run.sharing else "")
    )
    _show(title, lambda watch: audit(run, watch), json=json)


@app.command("scores")
def scores(
    trainings: Annotated[int | None, typer.Option(help="Sites of each kind, half of them with the record; 60.")] = None,
    records: Annotated[int | None, typer.Option(help="Of a site, beside the one in question; 20.")] = None,
    validation: Annotated[int | None, typer.Option(help="Examples of the validation set; 3.")] = None,
    noise_multiplier: Noise = None,
    sampling_rate: Rate = None,
    steps: Annotated[int | None, typer.Option(help="Of the private trainings; 20.")] = None,
    held_out: Annotated[int | None, typer.Option(help="Notes that a noisy score is on, beside the one; 10.")] = None,
    score_noise: Annotated[float | None, typer.Option(help="Noise multiplier of that score; 1.08.")] = None,
    confidence: Confidence = None,
    json: Json = False,
) -> None:
    """What a published score tells: whether a site had one record. Exit code 1 where it is more than ε allows.

    Also where a control does not leak, or levels hardly vary: that is not privacy. The tiny model is trained; three
    minutes.
    """
    from fedsec.audits.scores import Sites, audit

    sites = _made(
        Sites,
        trainings=trainings,
        records=records,
        validation=validation,
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        steps=steps,
        held_out=held_out,
        score_noise=score_noise,
        confidence=confidence,
    )
    among = f"{plural(sites.records, 'other')}, {plural(sites.trainings, 'site')} of each kind"
    title = f"One record guessed from one score, {among}"
    _show(title, lambda watch: audit(sites, watch), json=json)


def _of_plan(path: Path) -> Run:
    from fedsec.audits.canaries import of_plan
    from fedsec.plan.cost import with_noise
    from fedsec.plan.document import load_plan
    from fedsec.plan.model import Draft
    from fedsec.plan.toml import read_toml

    plan = with_noise(read_toml(path, Draft)) if path.suffix == ".toml" else load_plan(path)
    return of_plan(plan)


def _made(kind: Callable[..., T], **given: object) -> T:
    """With the defaults of ``kind`` for what is None."""
    return kind(**{name: value for name, value in given.items() if value is not None})


def _show(title: str, audit: Callable[[Watch], Sequence[Row]], *, json: bool) -> NoReturn:
    """Run it, print a row for each finding, and exit: 1 where one does not hold."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=json,
    ) as bar:
        task = bar.add_task("auditing", total=None)
        rows = audit(lambda what, done, total: bar.update(task, description=what, completed=done, total=total))
    fallen = sum(not row.held for row in rows)
    if json:
        print_json({"title": title, "rows": [_plain(row) for row in rows]})
    else:
        table = Table(title=title, title_justify="left")
        for column in ("audit", "expected", "got", "held"):
            table.add_column(column, no_wrap=column == "held")
        for row in rows:
            table.add_row(row.name, row.expected, Text(shorten(row.got, _LONGEST, placeholder=" …")), _word(row))
        out.print(table)
        out.print(_summary(rows))
    raise typer.Exit(1 if fallen else 0)


def _word(row: Row) -> Text:
    if not row.held:
        return Text("NO", "bold red")
    return Text("yes", "green") if row.shows else Text("shows nothing", "yellow")


def _summary(rows: Sequence[Row]) -> str:
    """A row that shows nothing refutes nothing, and is no success either: it is counted by itself."""
    fallen, vague = sum(not row.held for row in rows), sum(row.held and not row.shows for row in rows)
    said = f"{len(rows) - fallen} of {len(rows)} held" + (f", {fallen} did not" if fallen else "")
    if not vague:
        return said
    which = "one of these shows" if vague == 1 else f"{vague} of these show"
    return f"{said}; {which} nothing: a build with far less noise might hold as well."


def _plain(row: Row) -> dict[str, object]:
    """JSON has no infinity."""
    numbers = {name: value if math.isfinite(value) else str(value) for name, value in row.numbers.items()}
    said = {"attack": row.name, "expected": row.expected, "got": row.got, "held": row.held, "shows": row.shows}
    return said | numbers
