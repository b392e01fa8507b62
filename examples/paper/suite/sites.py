"""Three, five and ten sites with the same sentences in all, against training on all of them pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cells.markdown import markdown, spread
from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores
from suite.experiment import Experiment
from suite.federated import UNIFORM, federate
from suite.lab import Lab
from suite.plots import curves, legend, line_at
from suite.poisoned import SITES as POISONED_SITES
from suite.rows import (
    MEASURE,
    Cell,
    Claim,
    Row,
    claim_table,
    difference_rows,
    difference_table,
    f1_rows,
    near,
    ordered,
    select,
    with_interval,
)
from suite.settings import Scale
from suite.systems import CENTRAL, FED, central

NAME = "sites"
_CENTRAL_POOL = 5
"""Whose notes are pooled: dealt into so many. Which sentences the limits keep differs a little with the number."""


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a number of sites, and one for all notes pooled."""
    found = []
    for seed in seeds:
        found.append(_cell("centralised", seed, _central, scale.pool, 2 * scale.test))
        for count in scale.counts:
            trains = 0 if count == POISONED_SITES and seed == 0 else scale.pool  # that run is there by then
            found.append(_cell(f"{count}-sites", seed, partial(_sites, count), trains, 2 * scale.test))
            found.append(_cell(f"{count}-compare", seed, partial(_compare, count)))
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def _central(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, CENTRAL, pool_scores(lab, None, seed))


def _sites(count: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, FED, pool_scores(lab, count, seed), count)


def _compare(count: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    a, b = pool_scores(lab, count, seed), pool_scores(lab, None, seed)
    yield from difference_rows(cell, seed, f"{count} sites − {CENTRAL}", a, b, count)


def pool_scores(lab: Lab, count: int | None, seed: int, rounds: int | None = None) -> dict[str, Scores]:
    """Of a federation of so many like sites, or of all notes pooled, on twice the usual number of test sentences."""
    if count is None:
        adapter = central(lab, seed, f"pool-{_CENTRAL_POOL}")
    else:
        adapter = federate(lab, f"pool-{count}", UNIFORM, seed, rounds).adapter
    return lab.scores(adapter, [lab.wide_test(lab.notes.pool)])


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124: scalability."""
    counts = sorted({r.x for r in rows if not math.isnan(r.x)})
    if not counts:
        return
    most = counts[-1]
    gaps = select(rows, system=f"{most:.0f} sites − {CENTRAL}", measure=MEASURE)
    means = select(rows, system=CENTRAL, measure=MEASURE)
    if not gaps or not means:
        return
    base = means[0].value
    words = f"{most:.0f} sites: {with_interval(gaps[0])} F1, of {base:.3f} centralised"
    yield Claim("ten sites about 2 % below centralised", words, near(gaps[0], -0.02, base))


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """F1 by number of sites."""
    yield from claim_table(claims(rows))
    measures = [m for m in ordered(r.measure for r in rows) if m.endswith(" F1")]
    test = next((r.test for r in rows if r.test not in ("", "all")), "")
    yield ""
    head = ["sites", *measures]
    lines = [("all notes pooled", select(rows, system=CENTRAL, test=test))]
    for count in sorted({r.x for r in rows if not math.isnan(r.x)}):
        lines.append((f"{count:.0f}", select(rows, system=FED, test=test, x=count)))
    yield from markdown(
        head, ([name, *(spread([r.value for r in select(some, measure=m)]) for m in measures)] for name, some in lines)
    )
    yield from ("", "## Differences", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """F1 against the number of sites."""
    test = next((r.test for r in rows if r.test not in ("", "all")), "")
    if not select(rows, system=FED):
        return False
    axes = figure.subplots(1, 2, squeeze=False)[0]
    for axis, measure in zip(axes, (MEASURE, "relations strict F1"), strict=True):
        curves(axis, rows, [FED], measure, test)
        line_at(axis, rows, CENTRAL, measure, test)
        axis.set_xlabel("sites that share the same sentences")
        axis.set_xticks(sorted({r.x for r in rows if not math.isnan(r.x)}))
        axis.set_ylim(bottom=0)
    legend(figure, axes)
    return True


EXPERIMENT = Experiment(NAME, "Three, five and ten sites", 1, cells, summary, draw)
