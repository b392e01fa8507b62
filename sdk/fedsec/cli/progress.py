"""A study's progress on the terminal: one bar for each site at work, one line for each exchange that is done."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_WORK = {
    "train": "round {round}: {site} trains",
    "encrypt": "round {round}: {site} encrypts",
    "decrypt": "round {round}: {site} opens the sum",
    "single": "baseline: {site} alone, round {round}",
    "central": "baseline: pooled notes, round {round}",
    "score": "scoring {site}",
}


class StudyProgress:
    """Call it with a study's events; use it as a context manager."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<48}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._rounds = rounds
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        name = event["event"]
        if name in _WORK:
            self._work(event)
        elif name == "loading":
            self._bar.console.print(f"[dim]loading[/dim] {event['what']}")
        elif name == "exchange":
            self._exchange(event)
        elif name in ("lost", "refused"):
            for site, why in event["sites"].items():
                self._bar.console.print(f"[yellow]{name}[/yellow] {site} in {event['exchange']}: {why}")
        elif name == "attempt-aborted":
            text = f"attempt {event['attempt'] + 1} of round {event['round'] + 1}: {event['reason']}"
            self._bar.console.print(f"[yellow]aborted[/yellow] {text}")
        elif name == "round":
            text = f"{len(event['survivors'])} sites in the sum, adapter {event['adapter'][:12]}…"
            self._bar.console.print(f"[bold]round {event['round'] + 1}/{self._rounds} done[/bold] {text}")

    def _work(self, event: dict[str, Any]) -> None:
        shown = _WORK[event["event"]].format(**{**event, "round": event.get("round", 0) + 1})
        if shown not in self._tasks:
            self._tasks[shown] = self._bar.add_task(shown, total=event["steps"])
        self._bar.update(self._tasks[shown], completed=event["step"])
        if event["step"] >= event["steps"]:
            self._bar.remove_task(self._tasks.pop(shown))

    def _exchange(self, event: dict[str, Any]) -> None:
        up = list(event["bytes_up"].values())
        size = f"{max(up) / 1e6:.2f} MB" if max(up, default=0) >= 1e5 else f"{max(up, default=0)} B"
        name = f"{event['exchange']:<8}"
        self._bar.console.print(f"  {name} {len(up)} sites answered, {size} each at most, {event['seconds']:.1f} s")
