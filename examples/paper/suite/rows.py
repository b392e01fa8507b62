"""One line of a results.csv, and the small things that all experiments do with lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from fedsec.evaluation.scores import Kind, Match, Scores, paired_bootstrap
from suite.lab import Lab

KINDS: tuple[Kind, ...] = ("entities", "relations")
MATCHES: tuple[Match, ...] = ("strict", "lenient")
ALL = "all"
MEASURE = "entities strict F1"
GOLD, PREDICTED = "annotated", "predicted"
FEWEST: Mapping[Kind, int] = MappingProxyType({"entities": 1, "relations": 20})
"""Annotated mentions or links that a test set has to have for an F1 of them; every set here has enough mentions."""
NAN = math.nan


class Row(NamedTuple):
    """README.md says what the columns mean."""

    cell: str
    seed: int
    system: str
    x: float
    """The experiment's number: sites, records, bytes; not a number where it has none."""
    test: str
    measure: str
    value: float
    low: float = NAN
    high: float = NAN
    """95 % interval, where there is one."""


@dataclass(frozen=True)
class Cell:
    """A part of an experiment that gives its rows whole or not at all."""

    name: str
    seed: int
    measure: Callable[[Lab], Iterable[Row]]
    trains: int = 0
    """Sentences that it trains on at most; fewer where another cell did before."""
    answers: int = 0
    """Sentences that it has answered at most."""


def f1_rows(cell: str, seed: int, system: str, found: Mapping[str, Scores], x: float = NAN) -> Iterator[Row]:
    """Every F1 of one system, and as test `ALL` the mean over the test sets; what is annotated, and what was answered.

    A test set has no F1 of a kind of which it has fewer than `FEWEST`: it would speak of these few alone.
    """
    for kind in KINDS:
        for name, scores in found.items():
            _, predicted, gold = _totals(scores, kind)
            if gold:
                yield Row(cell, seed, system, x, name, f"{kind} {GOLD}", gold)
                yield Row(cell, seed, system, x, name, f"{kind} {PREDICTED}", predicted)
        for match in MATCHES:
            values = {name: value for name, s in found.items() if (value := _f1(s, kind, match)) is not None}
            for name, value in values.items():
                yield Row(cell, seed, system, x, name, f"{kind} {match} F1", value)
            if values:
                yield Row(cell, seed, system, x, ALL, f"{kind} {match} F1", fmean(values.values()))


def _totals(scores: Scores, kind: Kind) -> tuple[float, int, int]:
    """(right, predicted, annotated) of a test set."""
    triples = [one.triple(kind, "strict") for one in scores.counts]
    return sum(t[0] for t in triples), sum(t[1] for t in triples), sum(t[2] for t in triples)


def _f1(scores: Scores, kind: Kind, match: Match) -> float | None:
    """None where the system does not do this, or too few are annotated."""
    return scores.f1(kind, match) if _totals(scores, kind)[2] >= FEWEST[kind] else None


def difference_rows(
    cell: str, seed: int, words: str, a: Mapping[str, Scores], b: Mapping[str, Scores], x: float = NAN
) -> Iterator[Row]:
    """System a minus system b on the sentences that both answered, with the paired bootstrap's 95 % interval.

    None for a kind that one of the two does not do, or of which nothing is right in either: an interval of no width
    would look like knowledge.
    """
    first, second = on_common(a, b)
    for kind in KINDS:
        names = [n for n, s in first.items() if _f1(s, kind, "strict") is not None]
        if not names or any(second[n].f1(kind, "strict") is None for n in names):
            continue
        if not any(_totals(s, kind)[0] for some in (first, second) for n, s in some.items() if n in names):
            continue
        for match in MATCHES:
            found = paired_bootstrap(
                {n: first[n] for n in names}, {n: second[n] for n in names}, kind=kind, match=match
            )
            name = ALL if len(first) > 1 else next(iter(first))
            measure = f"{kind} {match} F1"
            yield Row(cell, seed, words, x, name, measure, found.difference, found.low, found.high)


def on_common(a: Mapping[str, Scores], b: Mapping[str, Scores]) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Both on the examples that both answered, in one order."""
    first, second = {}, {}
    for name in sorted(a.keys() & b.keys()):
        shared = {c.example_id for c in a[name].counts} & {c.example_id for c in b[name].counts}
        first[name], second[name] = (
            s.model_copy(update={"counts": tuple(c for c in s.counts if c.example_id in shared)})
            for s in (a[name], b[name])
        )
    return first, second


def select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """The rows with these values in these columns."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def ordered(values: Iterable[str]) -> list[str]:
    """Each once, in the order in which they come."""
    return list(dict.fromkeys(values))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean (lowest–highest)."""
    if not values:
        return "–"
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A table; the first column is text, the others are numbers."""
    ruled = "|---" + "|---:" * (len(head) - 1) + "|"
    return ["| " + " | ".join(head) + " |", ruled, *("| " + " | ".join(line) + " |" for line in lines)]


def f1_table(rows: Sequence[Row], measure: str) -> list[str]:
    """Systems by test sets: mean over seeds, with the lowest and highest."""
    some = [row for row in select(rows, measure=measure) if math.isnan(row.low)]
    tests = [t for t in ordered(r.test for r in some) if t != ALL]
    tests += [ALL] if len(tests) > 1 else []
    return markdown(
        ["system", *tests, "seeds"],
        (
            [
                system,
                *(spread([r.value for r in select(some, system=system, test=test)]) for test in tests),
                str(len({r.seed for r in select(some, system=system)})),
            ]
            for system in ordered(r.system for r in some)
        ),
    )


def difference_table(rows: Sequence[Row]) -> list[str]:
    """Seed by seed, with intervals."""
    return markdown(
        ["difference", "seed", "test", "F1", "value", "95 % interval"],
        (
            [
                r.system,
                str(r.seed),
                r.test,
                r.measure.removesuffix(" F1"),
                f"{r.value:+.3f}",
                f"{r.low:+.3f} to {r.high:+.3f}",
            ]
            for r in rows
            if not math.isnan(r.low)
        ),
    )


class Claim(NamedTuple):
    """What a paper says, what was found here, and whether the direction is the same; None: it cannot be told."""

    paper: str
    here: str
    agrees: bool | None

    @property
    def verdict(self) -> str:
        """In words."""
        return {True: "same direction", False: "**disagrees**", None: "cannot tell"}[self.agrees]


def claim_table(claims: Iterable[Claim]) -> list[str]:
    """One line a claim."""
    return markdown(["the paper", "here", ""], ([c.paper, c.here, c.verdict] for c in claims))


def direction(rows: Sequence[Row], positive: bool = True) -> bool | None:
    """Whether all seeds' differences have this sign and no interval reaches zero; None where one does, or for no row.

    False only where all intervals lie on the other side.
    """
    if not rows:
        return None
    if all(row.low > 0 if positive else row.high < 0 for row in rows):
        return True
    return False if all(row.high < 0 if positive else row.low > 0 for row in rows) else None


def near(row: Row, share: float, base: float) -> bool | None:
    """Whether a difference can be this share of a base (-0.02: 2 % below); False where its interval excludes that.

    None, and never True, otherwise: an interval that holds one value holds others.
    """
    return None if row.low <= share * base <= row.high else False


def told(rows: Sequence[Row], each: str = "seed(s)") -> str:
    """Differences in one line: mean, lowest, highest, for one row its interval. ``each``: what each row is one of."""
    if not rows:
        return "not run yet"
    return f"{spread([r.value for r in rows])}, {len(rows)} {each}" if len(rows) > 1 else with_interval(rows[0])


def with_interval(row: Row) -> str:
    """A difference and its 95 % interval."""
    return f"{row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
