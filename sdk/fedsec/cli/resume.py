"""`fedsec resume`: go on with a run that was stopped or killed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.output import Jobs, Json, Quiet
from fedsec.cli.run import finish_study


def resume(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Finish a run from its journal. The adapter is the one that an undisturbed run gives, bit for bit, where the same
    sites survive, with the same number of threads on the same kind of processor.
    """
    finish_study(run, jobs, json=json, quiet=quiet)
