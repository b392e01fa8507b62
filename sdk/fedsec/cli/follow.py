"""`fedsec status RUN --follow`: the run folder of a run that another process writes, drawn again every second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedsec_secure.masking.transitions import GROUPED, MASKED, PLAIN, SEALED
from fedsec_secure.record.entries import printable

if TYPE_CHECKING:
    from fedsec.plan.model import Plan
    from fedsec.study.folder import RunFolder

Event = dict[str, Any]
REFRESH = 1.0
_LAST_LOSSES = 5
_TRAIN = "train"


def follow(
    folder: RunFolder, console: Console, *, shown: bool = True, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Until the run is finished, or Ctrl-C, which stops the watching only. Reads ``metrics.jsonl``, writes nothing."""
    with Live(console=console, auto_refresh=False, transient=False, screen=False) as live:
        while True:
            events = folder.events()
            if shown:
                live.update(view(folder, events, _silence(folder.path)), refresh=True)
            if is_finished(events):
                return
            try:
                sleep(REFRESH)
            except KeyboardInterrupt:
                return


def is_finished(events: Sequence[Event]) -> bool:
    """Whether the last thing that a run reports was reported."""
    return any(e["event"] == "finished" for e in events)


def _silence(run: Path) -> float | None:
    """Seconds since the last event, by the file's time of change; None before the first event."""
    try:
        return max(0.0, time.time() - (run / "metrics.jsonl").stat().st_mtime)
    except FileNotFoundError:
        return None


def view(folder: RunFolder, events: Sequence[Event], silence: float | None) -> RenderableType:
    """The picture of one moment: rounds, what is going on, the sites, the last losses."""
    plan = folder.plan
    done = len({e["round"] for e in events if e["event"] == "round"})
    head = Text(f"run {folder.run} of plan {plan.name}", style="bold")
    bar = Table.grid(padding=(0, 1))
    bar.add_row("rounds", ProgressBar(total=plan.rounds, completed=done, width=40), f"{done}/{plan.rounds}")
    parts: list[RenderableType] = [head, bar, Text(_now(plan, events)), Text(_quiet(events, silence))]
    return Group(*parts, _sites(plan, events), *_losses(events))


def _now(plan: Plan, events: Sequence[Event]) -> str:
    """The exchange that is on: what the plan's mode has after the last one, or what followed it in this run before."""
    if is_finished(events):
        return "finished"
    exchanges = [e for e in events if e["event"] == "exchange"]
    if not exchanges:
        return f"now: round 1, {_TRAIN} (the first exchange)"
    last = exchanges[-1]
    aborted = events[-1]["event"] == "attempt-aborted"
    following = _TRAIN if aborted else _successor(plan, exchanges)
    index = last["round"] + (following == _TRAIN and last["exchange"] == "witness")
    where = _place(plan, index)
    answered = f"{len(last['bytes_up'])} of {len(last['bytes_down'])} sites answered {last['exchange']}"
    return f"now: {where}, {following or 'work of the coordinator'}; {answered} in {last['seconds']:.1f} s"


def _place(plan: Plan, index: int) -> str:
    return f"round {index + 1}" if index < plan.rounds else "end"


def _successor(plan: Plan, exchanges: Sequence[Event]) -> str | None:
    names = [e["exchange"] for e in exchanges]
    if names[-1] == "witness" and exchanges[-1]["round"] + 1 < plan.rounds:
        return _TRAIN
    before = {first: second for first, second in pairwise(names) if first != "witness"}
    order = (*_order(plan), "witness")
    by_table = dict(pairwise(order))
    return before.get(names[-1], by_table.get(names[-1]))


def _order(plan: Plan) -> tuple[str, ...]:
    if plan.secure.mode == "none":
        return PLAIN.exchanges
    if plan.secure.mode == "he":
        return SEALED.exchanges
    return (GROUPED if plan.weighting.rule == "group-influence" else MASKED).exchanges


def _quiet(events: Sequence[Event], silence: float | None) -> str:
    if silence is None:
        return "no event yet"
    return "" if is_finished(events) else f"last event {silence:.0f} s ago"


def _sites(plan: Plan, events: Sequence[Event]) -> Table:
    """One row a site of the plan: its last answer, its bytes, how often it was lost."""
    exchanges = [e for e in events if e["event"] == "exchange"]
    table = Table(title="Sites", title_justify="left")
    for name in ("site", "last answer", "sent", "received", "lost"):
        table.add_column(name, justify="left" if name in ("site", "last answer") else "right", no_wrap=True)
    for site in plan.roster.sites:
        answered = [e for e in exchanges if site in e["bytes_up"]]
        missing = bool(exchanges) and site in exchanges[-1]["lost"]
        last = f"{_place(plan, answered[-1]['round'])}, {answered[-1]['exchange']}" if answered else "none yet"
        up, down = (sum(e[key].get(site, 0) for e in exchanges) for key in ("bytes_up", "bytes_down"))
        lost = sum(site in e["lost"] for e in exchanges)
        cells = (last, _size(up), _size(down), str(lost) if lost else "")
        table.add_row(site, *cells, style="yellow" if missing else None)
    return table


def _size(count: int) -> str:
    """For people: 1 234 B, 56.7 kB, 168.0 MB."""
    if count < 10_000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"


def _losses(events: Sequence[Event]) -> list[Text]:
    found = [line for event in events for line in loss_lines(event)]
    return [Text(line, style="yellow") for line in found[-_LAST_LOSSES:]]


def loss_lines(event: Event) -> list[str]:
    """What went wrong, in the words of a run's progress, each one printable line; nothing for other events."""
    if event["event"] == "attempt-aborted":
        reason = printable(str(event["reason"]))
        return [f"aborted attempt {event['attempt'] + 1} of round {event['round'] + 1}: {reason}"]
    if event["event"] not in ("lost", "refused"):
        return []
    return [f"{event['event']} {s} in {event['exchange']}: {printable(str(w))}" for s, w in event["sites"].items()]
