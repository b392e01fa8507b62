"""`fedsec predict`: entities and relations in notes, or their titles, from a finished adapter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.output import Quiet, err
from fedsec_secure.errors import ConfigError


def predict(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    notes: Annotated[Path, typer.Option("--in", help="JSON lines with text, document_id and patient_id.")],
    output: Annotated[
        Path | None, typer.Option("--out", help="Where to write, never over a file; standard output if left out.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Another PEFT folder than the run's, as `fedsec site personal` writes it.")
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels of one prompt, with commas; again for another prompt. Left out: all of the study's in one, or "
            "what `fedsec site adapt` trained on."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write each note with the entities and relations that the adapter reads in it, with offsets, as JSON lines.

    Where sites annotate different labels, no site taught the adapter to read all of them at once: each site's may be
    named with an --ask of its own, and what the prompts find is put together. Try both on annotated notes: neither is
    always better. An adapter for titles writes each note with the title that it gives it.
    """
    from rich.progress import Progress

    from fedsec.data.readers.jsonl import read_jsonl
    from fedsec.spool import write_durably
    from fedsec.study.use import Finished

    if output is not None and output.exists():
        raise ConfigError(f"{output} exists and is not overwritten; choose another --out")
    documents = read_jsonl(notes).documents
    finished = Finished.load(run, adapter)
    if finished.remark:
        err.print(f"note: {finished.remark}", style="yellow", markup=False, soft_wrap=True)
    asked = tuple(ask or ())
    with Progress(console=err, transient=True, disable=quiet) as progress:
        task = progress.add_task("reading notes", total=None)
        lines = [
            document.model_dump_json() + "\n"
            for document in finished.predict(
                documents, lambda n, of: progress.update(task, completed=n, total=of), asked
            )
        ]
    if output is None:
        sys.stdout.writelines(lines)
    else:
        write_durably(output, (line.encode() for line in lines))
