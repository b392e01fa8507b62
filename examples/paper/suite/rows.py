"""One line of a results.csv, and the small things that all experiments do with lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from cells.markdown import markdown, spread

from fedsec.evaluation.matching import Tally
from fedsec.evaluation.scores import Kind, Match, Scores, kind_scores, paired_bootstrap
from suite.lab import Lab

KINDS: tuple[Kind, ...] = ("entities", "relations")
MATCHES: tuple[Match, ...] = ("strict", "lenient")
ALL = "all"
MEASURE = "entities strict F1"
GOLD, PREDICTED = "annotated", "predicted"
FEWEST: Mapping[Kind, int] = MappingProxyType({"entities": 1, "relations": 20})
"""Annotated mentions or links that a test set has to have for an F1 of them; every set here has enough mentions."""
NAN = math.nan
EVERY_SEED = -1
"""In place of a seed where the answers of all seeds are counted together (`together`)."""


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
    """The last one where several are counted together."""
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


def together(found: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    """Answers of several seeds on the same test sets, counted as one system: sums sentence by sentence.

    The F1 of a test set is then micro F1 over the answers of all seeds, and a bootstrap that draws a sentence draws all
    seeds' answers to it. None of a kind of which a test set has fewer than `FEWEST`, as for one seed.
    """
    if len(found) == 1:
        return dict(found[0])
    return {name: _summed([scores[name] for scores in found]) for name in found[0]}


def _summed(runs: Sequence[Scores]) -> Scores:
    counts = []
    for ones in zip(*(run.counts for run in runs), strict=True):
        if len({one.example_id for one in ones}) != 1:
            raise SystemExit("seeds were tested on other sentences: expected the same ones in the same order")
        summed: dict[str, object] = {kind: _tallied([getattr(one, kind) for one in ones]) for kind in KINDS}
        counts.append(ones[0].model_copy(update=summed | {"unknown_types": sum(one.unknown_types for one in ones)}))
    enough = [k for k in KINDS if all(_f1(run, k, "strict") is not None for run in runs)]
    scores: dict[str, object] = {kind: kind_scores(counts, kind) if kind in enough else None for kind in KINDS}
    return runs[0].model_copy(update=scores | {"counts": tuple(counts)})


def _tallied(of: Sequence[Mapping[str, Tally]]) -> dict[str, Tally]:
    return {label: Tally(*map(sum, zip(*(astuple(one[label]) for one in of), strict=True))) for label in of[0]}


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


def seed_words(seed: int) -> str:
    """For a column of seeds."""
    return "all" if seed == EVERY_SEED else str(seed)


def difference_table(rows: Sequence[Row]) -> list[str]:
    """Seed by seed and over all seeds, with intervals."""
    return markdown(
        ["difference", "seed", "test", "F1", "value", "95 % interval"],
        (
            [
                r.system,
                seed_words(r.seed),
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
    """Whether all differences have this sign and no deciding interval reaches zero; None where one does, or for no row.

    False only where all lie on the other side.
    """
    last = deciding(rows)
    for sign in (1, -1):
        ends = [row.low if sign > 0 else -row.high for row in last]
        if last and min(ends) > 0 and all(sign * row.value > 0 for row in rows):
            return (sign > 0) is positive
    return None


def deciding(rows: Sequence[Row]) -> list[Row]:
    """Those over all seeds, where there are any: their intervals are narrower than one seed's."""
    return [row for row in rows if row.seed == EVERY_SEED] or list(rows)


def near(row: Row, share: float, base: float) -> bool | None:
    """Whether a difference can be this share of a base (-0.02: 2 % below); False where its interval excludes that.

    None, and never True, otherwise: an interval that holds one value holds others.
    """
    return None if row.low <= share * base <= row.high else False


def told(rows: Sequence[Row], each: str = "seeds") -> str:
    """Differences in one line: one with its interval, of several the mean and the widest interval's ends.

    ``each``: what each row is one of. Beside a difference over all seeds stand the seeds' own.
    """
    if not rows:
        return "not run yet"
    last, ones = deciding(rows), [row.value for row in rows if row.seed != EVERY_SEED]
    if len(last) > 1:
        ends = f"{min(r.low for r in last):+.3f} to {max(r.high for r in last):+.3f}"
        said = f"{fmean(r.value for r in last):+.3f}, mean of {len(last)} {each} (intervals within {ends})"
    else:
        said = with_interval(last[0])
    return said if len(ones) in (0, len(rows)) else f"{said}; seed by seed {min(ones):+.3f} to {max(ones):+.3f}"


def with_interval(row: Row) -> str:
    """A difference and its 95 % interval."""
    return f"{row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
