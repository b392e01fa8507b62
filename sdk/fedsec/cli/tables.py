"""The table of scores."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fedsec.evaluation.scores import Kind, Match, Scores
from fedsec.study.results import CENTRAL, FEDERATED, SINGLE, ZERO_SHOT, Results

_COLUMNS: tuple[tuple[Kind, Match], ...] = (
    ("entities", "strict"),
    ("entities", "lenient"),
    ("relations", "strict"),
    ("relations", "lenient"),
)


def _cell(value: float | None, best: bool = False) -> str:
    text = "–" if value is None else f"{value:.3f}"
    return f"[bold green]{text}[/bold green]" if best else text


def _ordered(results: Results) -> list[str]:
    order = [ZERO_SHOT, *results.singles(), FEDERATED, CENTRAL]
    return [s for s in order if s in results.scores]


def _title(system: str) -> str:
    return f"{system.removeprefix(SINGLE)} alone" if system.startswith(SINGLE) else system


def overall_table(results: Results) -> Table:
    """Every system: mean of micro F1 over the test sets, entities and relations, strict and lenient."""
    table = Table(title="F1 over all test sets (mean of each set's micro F1)", title_justify="left")
    table.add_column("trained by")
    for kind, match in _COLUMNS:
        table.add_column(f"{kind}\n{match}", justify="right")
    systems = _ordered(results)
    best = {c: max((results.macro(s, *c) or 0.0 for s in systems), default=0.0) for c in _COLUMNS}
    for system in systems:
        values = [(results.macro(system, *c), c) for c in _COLUMNS]
        table.add_row(_title(system), *(_cell(v, v is not None and 0 < v == best[c]) for v, c in values))
    return table


def site_table(results: Results, kind: Kind, match: Match) -> Table:
    """Every system by test set, one kind and one way of matching."""
    systems = _ordered(results)
    tests = sorted({name for s in systems for name in results.scores[s]})
    table = Table(title=f"{kind}, {match} F1 by test set", title_justify="left")
    table.add_column("trained by")
    for name in tests:
        table.add_column(name, justify="right")

    def value(system: str, test: str) -> float | None:
        scores: Scores | None = results.scores[system].get(test)
        return None if scores is None else scores.f1(kind, match)

    best = {t: max((value(s, t) or 0.0 for s in systems), default=0.0) for t in tests}
    for system in systems:
        cells = [(value(system, t), t) for t in tests]
        table.add_row(_title(system), *(_cell(v, v is not None and 0 < v == best[t]) for v, t in cells))
    return table


def show_results(console: Console, results: Results) -> None:
    """The tables, and what may be said about federated against the best single site."""
    console.print(overall_table(results))
    for kind, match in _COLUMNS:
        if any(results.macro(s, kind, match) is not None for s in results.scores):
            console.print(site_table(results, kind, match))
    gain = results.gain()
    if gain is not None:
        best, interval = gain
        verdict = "outside" if interval.excludes_zero else "NOT outside"
        console.print(
            f"federated − {_title(best)} (entities, strict): {interval.difference:+.3f}, paired bootstrap 95 % interval "
            f"[{interval.low:+.3f}, {interval.high:+.3f}], which is {verdict} chance of the test examples",
            markup=False,
        )
