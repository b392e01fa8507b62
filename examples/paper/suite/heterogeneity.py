"""Sites that annotate less than the study asks for: relations at one site only, one label each, no label in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores
from suite.experiment import Experiment
from suite.federated import UNIFORM, federate
from suite.lab import Lab
from suite.notes import AT_ONE, COMPLETE, DISJOINT, HETEROGENEOUS, INCOMPLETE
from suite.plots import f1_dots
from suite.rows import (
    MEASURE,
    Cell,
    Claim,
    Row,
    claim_table,
    difference_rows,
    difference_table,
    f1_rows,
    f1_table,
    select,
)
from suite.settings import Scale

NAME = "heterogeneity"
WORDS = {
    COMPLETE: "complete: all three annotate everything",
    AT_ONE: "relations at one of three",
    INCOMPLETE: "incomplete: all labels, one, the other",
    DISJOINT: "disjoint: one label at two sites, the other at one",
}
_SITES = 3


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a way of annotating."""
    found = []
    for seed in seeds:
        for kind in HETEROGENEOUS:
            found.append(_cell(kind, seed, partial(_kind, kind), _SITES * scale.records, 2 * scale.test))
            if kind != COMPLETE:
                found.append(_cell(f"{kind}-compare", seed, partial(_compare, kind)))
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def _scores(lab: Lab, kind: str, seed: int) -> dict[str, Scores]:
    """On a test set that asks for everything, whatever a site was asked for."""
    return lab.scores(federate(lab, kind, UNIFORM, seed).adapter, [lab.wide_test(lab.notes.pool)])


def _kind(kind: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, WORDS[kind], _scores(lab, kind, seed))


def _compare(kind: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    a, b = _scores(lab, kind, seed), _scores(lab, COMPLETE, seed)
    yield from difference_rows(cell, seed, f"{kind} − {COMPLETE}", a, b)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124: heterogeneous annotation."""

    def level(kind: str, measure: str) -> float | None:
        found = select(rows, system=WORDS[kind], measure=measure)
        return found[0].value if found else None

    for kind, measure in ((AT_ONE, "relations strict F1"), (INCOMPLETE, MEASURE), (DISJOINT, MEASURE)):
        value, full = level(kind, measure), level(COMPLETE, measure)
        told = "not run yet" if value is None or full is None else f"{value:.3f}, where all is annotated {full:.3f}"
        agrees = None if value is None or full is None else (False if value == 0 < full else None)
        yield Claim("sites may annotate different tasks and labels", f"{WORDS[kind]}, {measure}: {told}", agrees)


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """F1 by kind of annotation."""
    yield from claim_table(claims(rows))
    for measure in ("entities strict F1", "entities lenient F1", "relations strict F1", "relations lenient F1"):
        if select(rows, measure=measure):
            yield from ("", f"## {measure}", "", *f1_table(rows, measure))
    yield from ("", "## Differences", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Strict F1 by kind of annotation."""
    return f1_dots(figure, rows, list(WORDS.values()), ["entities strict F1", "relations strict F1"])


EXPERIMENT = Experiment(NAME, "Sites that annotate different things", 1, cells, summary, draw, (7.4, 2.6))
