"""The same sentences in more rounds: where sites are many or annotate different things, and two rounds lose much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores
from suite.experiment import Experiment
from suite.heterogeneity import LINKS, SITES, WHOLE, WORDS, label_rows, label_table, whole_scores
from suite.lab import Lab
from suite.notes import AT_ALL, AT_ONE, COMPLETE, DISJOINT, INCOMPLETE
from suite.plots import changes
from suite.rows import (
    MEASURE,
    Cell,
    Claim,
    Row,
    claim_table,
    difference_rows,
    difference_table,
    direction,
    f1_rows,
    f1_table,
    near,
    select,
    told,
    with_interval,
)
from suite.settings import Scale
from suite.sites import pool_scores
from suite.systems import CENTRAL

NAME = "rounds"


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a federation in more rounds, and one that compares it; the plan's rounds are another experiment's."""
    many, most = scale.more_rounds, scale.counts[-1]
    found = []
    for seed in seeds:
        for kind in (AT_ALL, AT_ONE, COMPLETE, DISJOINT, INCOMPLETE):
            found.append(_cell(kind, seed, partial(_kind, kind, many), SITES * scale.records, 2 * scale.test))
            found.append(_cell(f"{kind}-compare", seed, partial(_compare, kind, many)))
        found.append(_cell(f"{most}-sites", seed, partial(_sites, most, many), scale.pool, 2 * scale.test))
        found.append(_cell(f"{most}-compare", seed, partial(_compare_sites, most, many)))
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def system(what: str, rounds: int) -> str:
    """The name of a federation in the rows."""
    return f"{what}, {rounds} rounds"


def _rows(cell: str, seed: int, what: str, rounds: int, found: dict[str, Scores]) -> Iterator[Row]:
    yield from f1_rows(cell, seed, system(what, rounds), found, rounds)
    yield from label_rows(cell, seed, system(what, rounds), found)


def _kind(kind: str, many: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    usual = lab.draft.rounds
    yield from _rows(cell, seed, WORDS[kind], usual, whole_scores(lab, kind, seed))
    yield from _rows(cell, seed, WORDS[kind], many, whole_scores(lab, kind, seed, many))


def _compare(kind: str, many: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    more, less = whole_scores(lab, kind, seed, many), whole_scores(lab, kind, seed)
    yield from difference_rows(cell, seed, f"{kind}: {many} − {lab.draft.rounds} rounds", more, less, many)
    if kind in WHOLE:
        whole = whole_scores(lab, WHOLE[kind], seed, many)
        yield from difference_rows(cell, seed, against(kind, many), more, whole, many)


def _sites(count: int, many: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from _rows(cell, seed, f"{count} sites", lab.draft.rounds, pool_scores(lab, count, seed))
    yield from _rows(cell, seed, f"{count} sites", many, pool_scores(lab, count, seed, many))


def _compare_sites(count: int, many: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    more, less, pooled = (pool_scores(lab, *way) for way in ((count, seed, many), (count, seed), (None, seed)))
    yield from difference_rows(cell, seed, f"{count} sites: {many} − {lab.draft.rounds} rounds", more, less, many)
    yield from difference_rows(cell, seed, below(count, many), more, pooled, many)
    yield from f1_rows(cell, seed, CENTRAL, pooled)


def against(kind: str, rounds: int) -> str:
    """The name of a difference in the rows."""
    return f"{kind} − {WHOLE[kind]}, {rounds} rounds"


def below(count: int, rounds: int) -> str:
    """The same of many like sites."""
    return f"{count} sites − {CENTRAL}, {rounds} rounds"


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124: heterogeneous annotation and scalability, in more rounds."""
    many = max((int(r.x) for r in rows if not math.isnan(r.x)), default=0)
    for kind, measure in ((AT_ONE, LINKS), (INCOMPLETE, MEASURE), (DISJOINT, MEASURE)):
        found = select(rows, system=against(kind, many), measure=measure)
        said = f"{WORDS[kind]}, {many} rounds, {measure}: {told(found)}"
        yield Claim("sites may annotate different tasks and labels", said, direction(found))
    pooled = select(rows, system=CENTRAL, measure=MEASURE)
    gaps = [r for r in rows if f" sites − {CENTRAL}" in r.system and r.measure == MEASURE]
    if pooled and gaps:
        said = f"{gaps[0].system}: {with_interval(gaps[0])} F1, of {pooled[0].value:.3f} pooled"
        yield Claim("ten sites about 2 % below centralised", said, near(gaps[0], -0.02, pooled[0].value))


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """F1 in few and in more rounds."""
    yield from claim_table(claims(rows))
    for measure in (MEASURE, LINKS):
        if select(rows, measure=measure):
            yield from ("", f"## {measure}", "", *f1_table(rows, measure))
    yield from label_table(rows)
    yield from ("", "## Differences", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Strict F1: a line a federation, from few rounds to more."""
    single = [r for r in rows if not math.isnan(r.x) and math.isnan(r.low)]
    found = [r._replace(system=r.system.removesuffix(system("", int(r.x)))) for r in single]
    return changes(figure, found, list(dict.fromkeys(r.system for r in found)), [MEASURE, LINKS], "rounds")


EXPERIMENT = Experiment(NAME, "The same sentences in more rounds", 1, cells, summary, draw, (7.4, 3.6))
