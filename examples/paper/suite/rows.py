"""One line of a results.csv, and the small things that all experiments do with lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from fedsec.evaluation.scores import Kind, Match, Scores, paired_bootstrap
from suite.lab import Lab

KINDS: tuple[Kind, ...] = ("entities", "relations")
MATCHES: tuple[Match, ...] = ("strict", "lenient")
ALL = "all"
MEASURE = "entities strict F1"
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
    """Every F1 of one system, and as test `ALL` the mean over the test sets."""
    for kind in KINDS:
        for match in MATCHES:
            values = {name: value for name, s in found.items() if (value := s.f1(kind, match)) is not None}
            for name, value in values.items():
                yield Row(cell, seed, system, x, name, f"{kind} {match} F1", value)
            if values:
                yield Row(cell, seed, system, x, ALL, f"{kind} {match} F1", fmean(values.values()))


def difference_rows(
    cell: str, seed: int, words: str, a: Mapping[str, Scores], b: Mapping[str, Scores], x: float = NAN
) -> Iterator[Row]:
    """System a minus system b on the sentences that both answered, with the paired bootstrap's 95 % interval."""
    first, second = on_common(a, b)
    for kind in KINDS:
        if all(s.f1(kind, "strict") is None for s in (*first.values(), *second.values())):
            continue
        if any((a.f1(kind, "strict") is None) != (second[n].f1(kind, "strict") is None) for n, a in first.items()):
            continue  # one of the two systems does not do this
        for match in MATCHES:
            found = paired_bootstrap(first, second, kind=kind, match=match)
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


def told(rows: Sequence[Row], each: str = "seed(s)") -> str:
    """Differences in one line: mean, lowest, highest. ``each``: what there is one of for each row."""
    return "not run yet" if not rows else f"{spread([r.value for r in rows])}, {len(rows)} {each}"
