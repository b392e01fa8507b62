"""The table of scores."""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from fedsec.evaluation.scores import KINDS, MEASURE, Kind, Match, Scores, TitleScores
from fedsec.study.results import CENTRAL, FEDERATED, SINGLE, ZERO_SHOT, Results

_COUNTED: tuple[tuple[Literal["entities", "relations"], Match], ...] = (
    ("entities", "strict"),
    ("entities", "lenient"),
    ("relations", "strict"),
    ("relations", "lenient"),
)


def _ordered(results: Results) -> list[str]:
    order = [ZERO_SHOT, *results.singles(), FEDERATED, CENTRAL]
    return [s for s in order if s in results.scores]


def _title(system: str) -> str:
    return f"{system.removeprefix(SINGLE)} alone" if system.startswith(SINGLE) else system


def comparison_table(results: Results, kind: Kind) -> Table:
    """Every system by test set and over all of them (mean of each set's micro F1): strict / lenient F1 of one kind."""
    systems = _ordered(results)
    tests = sorted({name for s in systems for name, v in results.scores[s].items() if v.f1(kind, "strict") is not None})
    matches = "" if kind == "titles" else ", strict/lenient"
    title = f"{kind.capitalize()}: {MEASURE[kind]}{matches}, by test set"
    # A title is wrapped at the width of its table: the table is as wide at least.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, min_width=len(title))
    table.add_column("trained by", no_wrap=True)
    for name in (*tests, "all"):
        table.add_column(name, justify="right")
    best = {name: max((_f1(results, s, name, kind, "strict") or 0.0 for s in systems), default=0.0) for name in tests}
    best["all"] = max((_f1(results, s, "all", kind, "strict") or 0.0 for s in systems), default=0.0)
    for system in systems:
        table.add_row(_title(system), *(_pair(results, system, name, kind, best[name]) for name in (*tests, "all")))
    return table


def _f1(results: Results, system: str, test: str, kind: Kind, match: Match) -> float | None:
    if test == "all":
        return results.macro(system, kind, match)
    scores = results.scores[system].get(test)
    return None if scores is None else scores.f1(kind, match)


def _pair(results: Results, system: str, test: str, kind: Kind, best: float) -> str:
    strict, lenient = _f1(results, system, test, kind, "strict"), _f1(results, system, test, kind, "lenient")
    if strict is None or lenient is None:
        return "–"
    text = f"{strict:.2f}" if kind == "titles" else f"{strict:.2f}/{lenient:.2f}"
    return f"[bold green]{text}[/bold green]" if strict == best > 0 else text


def _fewer(results: Results) -> list[str]:
    """Which systems answered only a part of the test sentences."""
    answered = {s: sum(v.examples for v in results.scores[s].values()) for s in _ordered(results)}
    most = max(answered.values(), default=0)
    groups: dict[int, list[str]] = {}
    for system, count in answered.items():
        if count < most:
            groups.setdefault(count, []).append("each site alone" if system.startswith(SINGLE) else system)
    return [f"{', '.join(dict.fromkeys(names))}: {n} of the {most} test sentences" for n, names in groups.items()]


def show_results(console: Console, results: Results) -> None:
    """The tables, and what may be said about federated against the best single site."""
    kinds = [k for k in KINDS if any(results.macro(s, k, "strict") is not None for s in results.scores)]
    for kind in kinds:
        console.print(comparison_table(results, kind))
    for line in _fewer(results):
        console.print(line, style="dim")
    gain = results.gain(kinds[0]) if kinds else None
    if gain is not None:
        best, interval = gain
        verdict = "outside" if interval.excludes_zero else "NOT outside"
        console.print(
            f"{said_of(kinds[0])}, all test sets: federated minus {_title(best)} (the best single site) is "
            f"{interval.difference:+.3f},\npaired bootstrap 95 % interval [{interval.low:+.3f}, {interval.high:+.3f}]: "
            f"{verdict} what the choice of test sentences explains.",
            markup=False,
        )


def said_of(kind: Kind) -> str:
    """The figure that a difference is about."""
    return "Titles, ROUGE-L" if kind == "titles" else f"{kind.capitalize()}, strict"


def score_table(title: str, scores: Scores) -> Table:
    """One system on one test set: precision, recall and F1; of titles ROUGE-L and the loss."""
    if scores.titles is not None:
        return _title_table(title, scores.titles)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("", "match", "precision", "recall", "F1", "gold", "predicted"):
        table.add_column(name, justify="left" if name in ("", "match") else "right")
    for kind, match in _COUNTED:
        of_kind = getattr(scores, kind)
        if of_kind is None:
            continue
        micro = getattr(of_kind, match).micro
        figures = (f"{micro.precision:.3f}", f"{micro.recall:.3f}", f"{micro.f1:.3f}")
        table.add_row(kind, match, *figures, str(micro.gold), str(micro.predicted))
    return table


def _title_table(title: str, scores: TitleScores) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("", "precision", "recall", "F", "loss of the true titles"):
        table.add_column(name, justify="right" if name else "left")
    found = scores.rouge_l
    figures = (found.precision, found.recall, found.fmeasure, scores.loss)
    table.add_row("titles, ROUGE-L", *(f"{value:.3f}" for value in figures))
    return table
