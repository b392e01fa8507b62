"""Sites that annotate less than the study asks for: relations at one site only, one label each, no label in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from cells.markdown import markdown
from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores, kind_scores
from suite.experiment import Experiment
from suite.federated import UNIFORM, federate
from suite.lab import Lab
from suite.notes import AT_ALL, AT_ONE, COMPLETE, DISJOINT, HETEROGENEOUS, INCOMPLETE
from suite.plots import f1_dots
from suite.rows import (
    GOLD,
    MEASURE,
    NAN,
    PREDICTED,
    Cell,
    Claim,
    Row,
    claim_table,
    difference_rows,
    difference_table,
    direction,
    f1_rows,
    f1_table,
    ordered,
    select,
    told,
)
from suite.settings import Scale

NAME = "heterogeneity"
WORDS = {
    COMPLETE: "complete: all three annotate everything",
    INCOMPLETE: "incomplete: all labels, one, the other",
    DISJOINT: "disjoint: one label at two sites, the other at one",
    AT_ALL: "corpus of relations: they are annotated at all three",
    AT_ONE: "corpus of relations: they are annotated at one of three",
}
APART = ", asked apart"
BY_LABEL = (COMPLETE, INCOMPLETE, DISJOINT)
"""Kinds that differ in which labels are annotated where."""
RIGHT = "right"
WHOLE = {INCOMPLETE: COMPLETE, DISJOINT: COMPLETE, AT_ONE: AT_ALL}
"""What a kind is compared with."""
SITES = 3
LINKS = "relations strict F1"


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a way of annotating."""
    found = []
    for seed in seeds:
        for kind in HETEROGENEOUS:
            answers = (6 if kind in (INCOMPLETE, DISJOINT) else 2) * scale.test
            found.append(_cell(kind, seed, partial(_kind, kind), SITES * scale.records, answers))
            if kind in WHOLE:
                found.append(_cell(f"{kind}-compare", seed, partial(_compare, kind)))
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def whole_scores(lab: Lab, kind: str, seed: int, rounds: int | None = None) -> dict[str, Scores]:
    """On a test set that asks for everything, whatever a site was asked for."""
    adapter = federate(lab, kind, UNIFORM, seed, rounds).adapter
    return lab.scores(adapter, [lab.wide_test(lab.notes.corpus_of(kind))])


def _apart(lab: Lab, kind: str, seed: int) -> dict[str, Scores]:
    """The same sentences, asked for one label at a time, as sites of one label were taught."""
    corpus, adapter = lab.notes.corpus_of(kind), federate(lab, kind, UNIFORM, seed).adapter
    return {corpus: united(list(lab.scores(adapter, lab.apart_tests(corpus)).values()))}


def united(parts: Sequence[Scores]) -> Scores:
    """Answers to several prompts about the same sentences, each for labels of its own, as one system's entities."""
    counts = [
        first.model_copy(
            update={
                "entities": {label: tally for one in (first, *others) for label, tally in one.entities.items()},
                "unknown_types": sum(one.unknown_types for one in (first, *others)),
            }
        )
        for first, *others in zip(*(part.counts for part in parts), strict=True)
        if len({one.example_id for one in (first, *others)}) == 1
    ]
    if len(counts) != len(parts[0].counts):
        raise SystemExit("the prompts were not about the same sentences in the same order")
    return parts[0].model_copy(update={"counts": tuple(counts), "entities": kind_scores(counts, "entities")})


def _kind(kind: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    asked = {WORDS[kind]: whole_scores(lab, kind, seed)}
    if kind in (INCOMPLETE, DISJOINT):
        asked[WORDS[kind] + APART] = _apart(lab, kind, seed)
    for system, found in asked.items():
        yield from f1_rows(cell, seed, system, found)
        if kind in BY_LABEL:
            yield from label_rows(cell, seed, system, found)


def label_rows(cell: str, seed: int, system: str, found: Mapping[str, Scores]) -> Iterator[Row]:
    """What there was of each label, and what was answered with it: a mean over labels would hide that one is lost."""
    for test, scores in found.items():
        for label, counted in scores.entities.strict.by_type.items() if scores.entities else ():
            values = {GOLD: counted.gold, PREDICTED: counted.predicted, RIGHT: counted.correct}
            for what, value in values.items():
                yield Row(cell, seed, system, NAN, test, f"{label} {what}", value)


def label_table(rows: Sequence[Row]) -> Iterator[str]:
    """A line a system and seed, a column a label."""
    some = [row for row in rows if row.measure.endswith(f" {RIGHT}")]
    labels = ordered(row.measure.removesuffix(f" {RIGHT}") for row in some)
    if not labels:
        return
    yield from ("", "## By label: right of answered, and of annotated, strict", "")
    lines = []
    for system, seed in dict.fromkeys((row.system, row.seed) for row in some):
        here = {row.measure: f"{row.value:.0f}" for row in select(rows, system=system, seed=seed)}
        told_ = (f"{here[f'{x} {RIGHT}']} of {here[f'{x} {PREDICTED}']}, of {here[f'{x} {GOLD}']}" for x in labels)
        lines.append([system, str(seed), *told_])
    yield from markdown(["system", "seed", *labels], lines)


def _compare(kind: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    whole = whole_scores(lab, WHOLE[kind], seed)
    yield from difference_rows(cell, seed, f"{kind} − {WHOLE[kind]}", whole_scores(lab, kind, seed), whole)
    if kind in (INCOMPLETE, DISJOINT):
        yield from difference_rows(cell, seed, f"{kind}{APART} − {WHOLE[kind]}", _apart(lab, kind, seed), whole)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124: heterogeneous annotation. Below complete annotation is a disagreement."""
    asked = [(kind, apart, MEASURE) for kind in (INCOMPLETE, DISJOINT) for apart in ("", APART)]
    for kind, apart, measure in (*asked, (AT_ONE, "", LINKS)):
        found = select(rows, system=f"{kind}{apart} − {WHOLE[kind]}", measure=measure)
        levels = [select(rows, system=s, measure=measure) for s in (WORDS[kind] + apart, WORDS[WHOLE[kind]])]
        told_ = f"{levels[0][0].value:.3f} of {levels[1][0].value:.3f}, " if all(levels) else ""
        said = f"{WORDS[kind]}{apart}, {measure}: {told_}{told(found)}"
        yield Claim("sites may annotate different tasks and labels", said, direction(found))


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """F1 by kind of annotation."""
    yield from claim_table(claims(rows))
    for measure in ("entities strict F1", "entities lenient F1", LINKS, "relations lenient F1"):
        if select(rows, measure=measure):
            yield from ("", f"## {measure}", "", *f1_table(rows, measure))
    yield from label_table(rows)
    yield from ("", "## Differences", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Strict F1 by kind of annotation."""
    return f1_dots(figure, rows, list(WORDS.values()), [MEASURE, LINKS])


EXPERIMENT = Experiment(NAME, "Sites that annotate different things", 1, cells, summary, draw, (7.4, 3.2))
