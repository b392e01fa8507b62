"""What `fedsec coordinator serve` and `fedsec site join` share: options, signals, log, health and progress."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedsec.cli.output import err
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    from fedsec.ops.operations import Operations
    from fedsec.site.identity import Progress

Log = Annotated[
    Path | None,
    typer.Option("--log", help="Write the JSON log there, rotated. Left out: standard error, if no terminal."),
]
Port = Annotated[
    int | None,
    typer.Option("--metrics-port", min=0, max=65535, help="/healthz, /readyz, /metrics on this port of 127.0.0.1."),
]


@contextmanager
def operated(
    role: Literal["coordinator", "site"],
    *,
    log: Path | None,
    port: int | None,
    quiet: bool,
    rounds: int,
    run: str | None = None,
    site: str | None = None,
    sites: tuple[str, ...] = (),
    folders: dict[str, Path],
) -> Iterator[tuple[Operations, Progress, Event]]:
    """Log, health and progress of a process that serves for long, and an event that a signal to stop sets.

    On a terminal people see progress, and the log goes to a file if one is named; elsewhere it goes to standard error.
    """
    try:
        from fedsec.ops.operations import Operations, together
    except ImportError:
        raise ConfigError("the distributed engine is not installed: docs/deploy.md says how") from None
    from fedsec.cli.progress import StudyProgress

    seen = err.is_terminal and not quiet
    path = log if log is not None or not err.is_terminal else Path("/dev/null")
    address = None if port is None else ("127.0.0.1", port)
    with ExitStack() as stack:
        operations = stack.enter_context(
            Operations(role, run=run, site=site, sites=sites, log=path, address=address, folders=folders)
        )
        progress: Callable[[dict[str, object]], None] = operations
        if seen:
            progress = together(operations, stack.enter_context(StudyProgress(err, rounds)))
        yield operations, progress, stack.enter_context(stoppable())


@contextmanager
def stoppable() -> Iterator[Event]:
    """SIGTERM, which a service manager sends, is Ctrl-C: everything is closed, and the journal has what there is."""
    stopping = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        stopping.set()
        for number, handler in before.items():
            signal.signal(number, handler)
