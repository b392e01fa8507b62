"""What every command shares: the console, `--json`, `--quiet`, and how an error looks."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Sites that train at a time; as the cores and training.threads allow, if left out."),
]

_FILE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, where rich would assume 80 and cut off figures."""


def _console(stream: TextIO, *, stderr: bool) -> Console:
    plain = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, highlight=False, width=_FILE_WIDTH if plain else None)


out = _console(sys.stdout, stderr=False)
err = _console(sys.stderr, stderr=True)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def show_error(error: BaseException) -> None:
    """The kind of error and its message, on standard error."""
    title = type(error).__name__
    err.print(Panel(Text(str(error) or title), title=title, title_align="left", border_style="red", expand=False))
