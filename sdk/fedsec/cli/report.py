"""`fedsec report`: a run's page for the privacy officer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.output import Json, err, out, print_json
from fedsec_secure.errors import ConfigError


def report(
    run: Annotated[Path, typer.Argument(help="The run folder, finished or not.")],
    output: Annotated[
        Path | None, typer.Option("--out", help="The HTML file; RUN-report.html beside the run folder if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write one HTML page about a run: who could learn what, what was allowed, the budget, refusals, results, proof.

    A finished run has its signed page in RUN/report.html. This command reads the run folder, changes nothing in it, and
    writes a copy elsewhere.
    """
    from fedsec.report.page import render
    from fedsec.report.seal import is_sealed, verify_sealed
    from fedsec.spool import write_durably
    from fedsec.study.folder import RunFolder
    from fedsec.study.verify import REPORT

    folder = RunFolder.open(run)
    place = _place(run, output)
    sealed = is_sealed(folder.path)
    if sealed:
        verify_sealed(folder)
    page = render(folder).encode()
    write_durably(place, [page])
    signed = folder.path / REPORT if sealed else None
    same = signed is not None and signed.read_bytes() == page
    if json:
        print_json({"report": str(place), "signed": None if signed is None else str(signed), "same": same})
        return
    out.print(f"wrote {place}", markup=False, soft_wrap=True)
    if signed is None:
        err.print("This run is not finished: the page says so, and nothing on it is certified.", style="yellow")
    elif same:
        out.print(
            f"It is the page that was signed with the run, {signed}, byte for byte.", markup=False, soft_wrap=True
        )
    else:
        err.print(
            f"The page that was signed with the run is {signed}; this software's version writes it differently. Where "
            "the two differ, the signed one counts.",
            style="yellow",
            markup=False,
        )


def _place(run: Path, output: Path | None) -> Path:
    """Where the page goes; ConfigError inside the run folder, over a file, or where there is no folder."""
    folder = run.resolve()
    place = folder.with_name(f"{folder.name}-report.html") if output is None else output
    if place.resolve().is_relative_to(folder):
        raise ConfigError(f"{place} is inside the run folder, whose files are signed as they are; choose another --out")
    if place.exists():
        raise ConfigError(f"{place} exists and is not overwritten; choose another --out")
    if not place.resolve().parent.is_dir():
        raise ConfigError(f"there is no folder {place.resolve().parent}; make it, or choose another --out")
    return place
