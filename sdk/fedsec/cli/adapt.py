"""`fedsec site adapt`: a hospital that was not in the study makes a run's adapter its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from fedsec.cli.output import Json, Quiet, err, out, print_json
from fedsec.plan.statement import plural
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fedsec.evaluation.scores import Interval
    from fedsec.study.adapt import Outcome
    from fedsec.study.adapt import Progress as OnProgress
    from fedsec.study.adapted import Adapted
    from fedsec.study.local_notes import LocalNotes
    from fedsec.study.starting import Start

FEW_HELD_OUT = 20
"""With fewer, resampling them is too narrow: two records that both gained would be an interval without zero."""
_TITLES = {"zero-shot": "base model as it is", "run": "the run's adapter", "adapted": "adapted here"}


def adapt(
    run: Annotated[Path, typer.Argument(help="A run folder, or one with plan.json, certificate.json and adapter/.")],
    notes: Annotated[Path, typer.Argument(help="A site.toml, or a file of annotated notes as JSON lines.")],
    output: Annotated[Path, typer.Option("--out", help="The new folder: a plain PEFT adapter and its record.")],
    records: Annotated[
        int | None, typer.Option(min=1, help="Train on so many, the same ones always; all if left out.")
    ] = None,
    entity: Annotated[
        list[str] | None, typer.Option(help="An entity type that the notes annotate; repeatable. A bare file only.")
    ] = None,
    relation: Annotated[
        list[str] | None, typer.Option(help="A relation type that the notes annotate; repeatable. A bare file only.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the patients to score on and not train on; 0: none.")
    ] = 0.2,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Score the base model without an adapter too.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100, help="How often each record is seen; by their number if left out.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-7, max=1.0, help="1e-5 a record up to 5e-4, or the plan's if lower.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 53) - 1, help="Order of the records, and dropout.")] = 0,
    base: Annotated[
        str | None, typer.Option(help="Where the base model is here; its weights must be the plan's.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="pins.toml: the keys that you compared with their owners.")] = None,
    unverified: Annotated[
        str | None, typer.Option(help="Why an adapter that does not verify is used all the same; it is written down.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a finished run's adapter further on this site's own notes (10 records or more, though so few may not help),
    and score both on patients that were held out. Nothing is sent. Killed: the same command goes on.
    """
    from rich.progress import Progress

    from fedsec.plan.toml import read_toml
    from fedsec.study.adapt import Settings
    from fedsec.study.adapt import adapt as adapt_here
    from fedsec.study.adapted import Unfinished
    from fedsec.study.local_notes import read_notes
    from fedsec.study.starting import open_start
    from fedsec.study.verify import Pins

    if unverified is not None and not unverified.strip():
        raise ConfigError("--unverified is empty; say in words why an adapter that does not verify is used")
    place = Unfinished.begin(output)
    start = open_start(run, None if keys is None else read_toml(keys, Pins), unverified)
    local = read_notes(
        notes, start.plan, records=records, held_out=held_out, entity_types=entity, relation_types=relation
    )
    settings = Settings(epochs, learning_rate, seed, zero_shot, base)
    with Progress(console=err, transient=True, disable=quiet or json) as progress:
        outcome = adapt_here(start, local, settings, place, _bars(progress))
    remarks = [*doubts(outcome.record, run), *_remarks(start, local, outcome.record)]
    if json:
        record = outcome.record.model_dump(mode="json")
        print_json({"folder": str(output), "record": record, "remarks": remarks})
    elif not quiet:
        _show(output, outcome, remarks)


def _bars(progress: Progress) -> OnProgress:
    """One bar for each thing that is done."""
    tasks: dict[str, TaskID] = {}

    def on_progress(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=of)
        progress.update(tasks[what], completed=done, total=of)

    return on_progress


def _show(folder: Path, outcome: Outcome, remarks: list[str]) -> None:
    from fedsec.cli.tables import said_of

    record = outcome.record
    if record.held_out:
        out.print(_table(record))
    for kind, gain in record.gains.items():
        verdict = "outside" if _is_shown(gain, record) else "NOT outside"
        out.print(
            f"{said_of(kind)}: adapted minus the run's adapter is {gain.difference:+.3f},\n"
            f"paired bootstrap 95 % interval [{gain.low:+.3f}, {gain.high:+.3f}]: {verdict} what the choice of "
            "held-out records explains.",
            markup=False,
        )
    for remark in remarks:
        out.print(f"note: {remark}", style="yellow", markup=False)
    of = "" if record.records.trained == record.records.of else f" of {record.records.of}"
    out.print(
        f"trained on {record.records.trained}{of} records of {plural(record.records.patients, 'patient')}, "
        f"{plural(outcome.trained.steps, 'step')}\n"
        f"adapter: {folder} (plain PEFT; `fedsec predict {folder} --in notes.jsonl`)\n"
        f"Nothing was sent. {record.stays}",
        markup=False,
        soft_wrap=True,
    )


def doubts(record: Adapted, run: Path) -> list[str]:
    """Why the run's adapter may be the better one here, or is not what it is compared as."""
    keep = f"keep the run's adapter (`fedsec predict {run}`)"
    records, held = record.records, record.records.held_out
    found = []
    if record.lora.strategy == "fedsa":
        found.append(
            "with strategy fedsa each site's B stayed there: the run's adapter answers as the base model does, and a "
            "gain over it is one over that"
        )
    if not held:
        found.append("nothing was held out: nothing says whether this helped")
    elif held < FEW_HELD_OUT:
        found.append(
            f"{held} held-out records are too few to say whether adapting helped, whatever the interval is: hold out "
            f"{FEW_HELD_OUT} or more, or {keep} until there are"
        )
    lower = {kind: gain for kind, gain in record.gains.items() if gain.difference < 0}
    if lower:
        surely = "made it worse" if any(_is_shown(gain, record) for gain in lower.values()) else "did not help"
        found.append(f"adapting {surely} on the held-out records ({' and '.join(lower)} score lower): {keep}")
    elif held >= FEW_HELD_OUT and not any(_is_shown(gain, record) for gain in record.gains.values()):
        found.append(f"nothing shows that adapting helped on the held-out records: annotate more, or {keep}")
    chosen = records.trained + records.left_out
    if 2 * records.empty > chosen:
        found.append(
            f"{records.empty} of {chosen} answers to train on are that there is nothing, and an adapter learns to "
            f"answer just that ({records.left_out} were left out): annotate notes that hold something"
        )
    return found


def _is_shown(gain: Interval, record: Adapted) -> bool:
    return gain.excludes_zero and record.records.held_out >= FEW_HELD_OUT


def _remarks(start: Start, notes: LocalNotes, record: Adapted) -> list[str]:
    found = {
        "run": [],
        "certificate": ["the certificate holds, and what it rests on is not here: it is the coordinator's word alone"],
        "none": [f"nothing shows that a run made this adapter; used all the same: {start.unverified}"],
    }[start.evidence]
    if start.evidence != "none" and not start.pinned:
        found.append("checked against the keys in the run's own plan; give those that you compared by phone as --keys")
    if notes.unused_relations:
        found.append("the notes have relations, and none is trained on: name their types with --relation")
    if record.truncated:
        many = f"{plural(record.truncated, 'record')} {'is' if record.truncated == 1 else 'are'}"
        found.append(f"{many} longer than training.max_tokens and lost words at the end")
    return found


def _table(record: Adapted) -> Table:
    columns = list(record.held_out["run"].scores)
    title = f"Held out: {plural(record.records.held_out, 'record')} of patients that were not trained on"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in (*columns, "loss"):
        table.add_column(name, justify="right")
    for system in (s for s in _TITLES if s in record.held_out):
        said = record.held_out[system]
        table.add_row(_TITLES[system], *(f"{said.scores[name]:.3f}" for name in columns), f"{said.loss:.3f}")
    return table
