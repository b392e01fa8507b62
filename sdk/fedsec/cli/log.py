"""`fedsec log`: the log of a run, cosigned by its sites; proofs of its entries; and where an adapter comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedsec.cli.output import Json, out, print_json
from fedsec_secure.errors import ConfigError

app = typer.Typer(help="The log of a run: show, prove, verify; who made an adapter.", no_args_is_help=True)
Run = Annotated[Path, typer.Argument(help="The run folder.")]


@app.callback()
def _log() -> None:
    """The log of a run: show, prove, verify; who made an adapter."""


@app.command("show")
def show(run: Run, json: Json = False) -> None:
    """Every entry under the cosigned checkpoint, once that is verified."""
    from fedsec.study.logbook import Logbook, describe

    book = Logbook.read(run)
    if json:
        print_json({"entries": [e.model_dump(mode="json") for e in book.entries], "open": book.open_entries})
        return
    table = Table(title=f"log of run {book.folder.run}", title_justify="left")
    table.add_column("no.", justify="right")
    table.add_column("entry")
    table.add_column("says", overflow="fold")
    for number, entry in enumerate(book.entries):
        table.add_row(str(number), entry.kind, describe(entry))
    out.print(table)
    if book.open_entries:
        out.print(f"{book.open_entries} more entries of a round that is not over: nobody signed them yet.")


@app.command("verify")
def verify(
    run: Annotated[Path | None, typer.Argument(help="The run folder.")] = None,
    proof: Annotated[Path | None, typer.Option(help="A proof of one entry, as `fedsec log prove` writes it.")] = None,
    plan: Annotated[Path | None, typer.Option(help="With --proof: the compiled plan, which pins the keys.")] = None,
    json: Json = False,
) -> None:
    """Check a log, or a proof, against the keys that the plan pins. Offline. Exit 1 where it does not hold."""
    from fedsec.plan.document import load_plan
    from fedsec.study.logbook import EntryProof, Logbook, describe

    if (run is None) == (proof is None) or (proof is None) != (plan is None):
        raise ConfigError("expected a run folder, or --proof FILE with --plan plan.json")
    if proof is not None and plan is not None:
        entry = EntryProof.from_bytes(proof.read_bytes(), str(proof)).verify(load_plan(plan))
        if json:
            print_json({"ok": True, "entry": entry.model_dump(mode="json")})
        else:
            out.print(f"in the log: {entry.kind}: {describe(entry)}", markup=False)
        return
    assert run is not None
    book = Logbook.read(run)
    signers = sorted(book.opened.cosigned)
    if json:
        value = {"ok": True, "entries": len(book.entries), "open": book.open_entries, "cosigned": signers}
        print_json(value | {"root": book.opened.checkpoint.head.root.hex()})
        return
    out.print(f"{len(book.entries)} entries, root {book.opened.checkpoint.head.root.hex()}", soft_wrap=True)
    out.print(f"signed by the coordinator, cosigned by {', '.join(signers)}", markup=False)


@app.command("prove")
def prove(
    run: Run,
    number: Annotated[int, typer.Argument(help="The entry's number, as `fedsec log show` has it.")],
    output: Annotated[Path, typer.Option("--out", help="The proof to write; never overwritten.")],
) -> None:
    """Write a proof of one entry, which shows nothing of the others: for who has the plan, and not the run."""
    from fedsec.study.logbook import Logbook

    if output.exists():
        raise ConfigError(f"{output} exists and is not overwritten; choose another name")
    proof = Logbook.read(run).prove(number)
    output.write_bytes(proof.to_bytes())
    out.print(f"wrote {output}; check it with fedsec log verify --proof {output} --plan plan.json", soft_wrap=True)


@app.command("who")
def who(
    adapter: Annotated[str, typer.Argument(help="An adapter's PEFT folder, or its digest.")],
    runs: Annotated[list[Path], typer.Argument(help="Run folders whose logs are searched.")],
    json: Json = False,
) -> None:
    """Where an adapter comes from: base, plan, run and sites, from verified logs. Exit 1 where no log knows it."""
    from fedsec.study.logbook import Logbook, adapter_digest

    digest = adapter_digest(adapter)
    found = [(book, model) for book in map(Logbook.read, runs) if (model := book.model(digest)) is not None]
    if json:
        rows = [{"folder": str(book.folder.path), **model.model_dump(mode="json")} for book, model in found]
        print_json({"adapter": digest, "found": rows})
    else:
        out.print(f"adapter {digest}", soft_wrap=True)
        for book, model in found:
            table = Table(show_header=False, box=None, pad_edge=False)
            table.add_column(style="dim")
            table.add_column(overflow="fold")
            table.add_row("made in run", f"{model.run} ({book.folder.path})")
            table.add_row("under plan", f"{book.folder.plan.name}, sha256 {model.plan_sha256}")
            table.add_row("from base weights", f"{book.folder.plan.model.base}, sha256 {model.base_weights_sha256}")
            table.add_row("by the sites", ", ".join(model.sites))
            table.add_row("as", f"{model.strategy}, rank {model.rank}")
            table.add_row("cosigned by", ", ".join(sorted(book.opened.cosigned)))
            out.print(table)
        if not found:
            out.print("No log that was given knows it.", style="bold red")
    if not found:
        raise typer.Exit(1)
