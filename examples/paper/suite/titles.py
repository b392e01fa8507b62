"""A generative task: the title of an abstract, written at three sites, one corpus each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from textwrap import wrap

from cells.markdown import markdown, spread
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsec.data.templates import flat
from fedsec.data.windows import split_sentences
from fedsec.evaluation.scores import Overlap, Scores, paired_bootstrap
from fedsec.evaluation.titles import score_titles
from fedsec.report.drawing import BLUE, GREY, INK, LINE
from fedsec.site.work import TestSet
from suite.experiment import Experiment
from suite.lab import Lab
from suite.notes import TITLED
from suite.plots import legend, tests_of
from suite.rows import ALL, NAN, Cell, Claim, Row, difference_table, direction, f1_table, ordered, select, told
from suite.settings import Scale
from suite.systems import CENTRAL, FED, SINGLE, ZERO_SHOT, adapters

NAME = "titles"
SITES = 3
LEAD = "first sentence of the text"
MEAN, OWN = f"mean of {SINGLE}", f"{SINGLE}, own test"
ROUGE, PRECISION, RECALL = "ROUGE-L F1", "ROUGE-L precision", "ROUGE-L recall"
LOSS, EMPTY, TESTED, TRAINED = "loss of the true titles", "answers without a title", "test abstracts", "abstracts"
LENGTH = "words written for each word of the title"
OVERLAPS = (ROUGE, PRECISION, RECALL, LENGTH)
PLAN = (
    "task.kind=title",
    "task.entity_types=[]",
    "task.relation_types=[]",
    "evaluation.max_new_tokens=48",
    "evaluation.batch_size=20",
)
"""What is other than in plan.toml: of 100 titles 97 have at most 48 tokens, and abstracts are long."""
_SENTENCES = 3
"""So many sentences take as long as one abstract. For estimates only."""


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a system and seed. The federation's first round is that of the single sites."""
    trains, answers, found = _SENTENCES * SITES * scale.abstracts, SITES * scale.titles, []
    for seed in seeds:
        if seed == seeds[0]:
            found.append(_cell("zero-shot", seed, _zero_shot, 0, answers))
        found += [
            _cell("single-site", seed, partial(_system, SINGLE), trains, SITES * answers),
            _cell("fed-medlora", seed, partial(_system, FED), trains // 2, answers),
            _cell("centralised", seed, partial(_system, CENTRAL), trains, answers),
            _cell("compare", seed, _compare),
        ]
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def asked_for_titles(lab: Lab) -> Lab:
    """The same folder and base model, with another task, whole abstracts and the sites that have titles."""
    notes = lab.notes.of_titles(PLAN)
    other = Lab(lab.out, notes.scale, lab.jobs, lab.say)
    other.notes, other.models = notes, lab.models
    return other


def answered(lab: Lab, system: str, seed: int) -> dict[str, dict[str, Scores]]:
    """Name of the rows -> test set -> scores."""
    lab = asked_for_titles(lab)
    tests = [lab.test(site) for site in lab.notes.sites]
    return {name: lab.scores(adapter, tests) for name, adapter in adapters(lab, system, seed, TITLED).items()}


def lead(lab: Lab) -> dict[str, Scores]:
    """What copying the first sentence of each text scores; the loss of that is nothing, and in no row."""
    lab = asked_for_titles(lab)
    return {site: _lead(lab.test(site)) for site in lab.notes.sites}


def _lead(test: TestSet) -> Scores:
    copied = [flat(e.text[slice(*split_sentences(e.text)[0])]) for e in test.examples]
    return score_titles(copied, test.examples, loss=0.0)


def _zero_shot(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from title_rows(cell, seed, LEAD, lead(lab), OVERLAPS)
    for name, found in answered(lab, ZERO_SHOT, seed).items():
        yield from title_rows(cell, seed, name, found)
        yield from (Row(cell, seed, "", NAN, site, TESTED, s.examples) for site, s in found.items())
    notes = asked_for_titles(lab).notes
    for site, (_, section) in notes.deal(TITLED, seed).items():
        yield Row(cell, seed, "", NAN, site, TRAINED, section.limit or 0)


def _system(system: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    found = answered(lab, system, seed)
    for name, scores in found.items():
        yield from title_rows(cell, seed, name, scores)
    if system == SINGLE:
        yield from title_rows(cell, seed, OWN, own(found))


def own(singles: Mapping[str, Mapping[str, Scores]]) -> dict[str, Scores]:
    """Each site's adapter on the test set of its own corpus."""
    return {site: singles[f"{SINGLE}: {site}"][site] for site in next(iter(singles.values()))}


def mean_of(systems: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    """One system whose every title overlaps as these do in the mean."""
    return {test: _mean([one[test] for one in systems]) for test in systems[0]}


def _mean(some: Sequence[Scores]) -> Scores:
    counts = tuple(
        same[0].model_copy(update={"title": _mean_overlap([c.title for c in same if c.title is not None])})
        for same in zip(*(s.counts for s in some), strict=True)
    )
    return some[0].model_copy(update={"counts": counts})


def _mean_overlap(some: Sequence[Overlap]) -> Overlap:
    return Overlap(
        precision=fmean(o.precision for o in some),
        recall=fmean(o.recall for o in some),
        fmeasure=fmean(o.fmeasure for o in some),
    )


def title_rows(
    cell: str, seed: int, system: str, found: Mapping[str, Scores], measures: Sequence[str] = (*OVERLAPS, LOSS, EMPTY)
) -> Iterator[Row]:
    """ROUGE-L, length, loss and empty answers of one system by test set; `ALL` is the mean over the sets."""
    for measure in measures:
        values = {test: _MEASURES[measure](scores) for test, scores in found.items()}
        if any(math.isnan(value) for value in values.values()):
            continue
        yield from (Row(cell, seed, system, NAN, test, measure, value) for test, value in values.items())
        yield Row(cell, seed, system, NAN, ALL, measure, fmean(values.values()))


def _titles(part: str, scores: Scores) -> float:
    assert scores.titles is not None
    return float(getattr(scores.titles.rouge_l, part))


def _length(scores: Scores) -> float:
    """Mean over the answers that share a word with their title (their precision and recall tell it); NaN for none."""
    shared = [c.title for c in scores.counts if c.title is not None and c.title.precision > 0]
    return fmean(o.recall / o.precision for o in shared) if shared else NAN


def _loss(scores: Scores) -> float:
    assert scores.titles is not None
    return scores.titles.loss


_MEASURES: Mapping[str, Callable[[Scores], float]] = {
    ROUGE: partial(_titles, "fmeasure"),
    PRECISION: partial(_titles, "precision"),
    RECALL: partial(_titles, "recall"),
    LENGTH: _length,
    LOSS: _loss,
    EMPTY: lambda scores: scores.malformed_lines / scores.examples,
}


def _compare(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    (fed,) = answered(lab, FED, seed).values()
    (central,) = answered(lab, CENTRAL, seed).values()
    (untrained,) = answered(lab, ZERO_SHOT, seed).values()
    singles, copied = answered(lab, SINGLE, seed), lead(lab)
    pairs = {
        f"{FED} − {ZERO_SHOT}": (fed, untrained),
        **{f"{FED} − {name}": (fed, scores) for name, scores in singles.items()},
        f"{FED} − {MEAN}": (fed, mean_of(list(singles.values()))),
        f"{FED} − {OWN}": (fed, own(singles)),
        f"{FED} − {CENTRAL}": (fed, central),
        f"{FED} − {LEAD}": (fed, copied),
        f"{ZERO_SHOT} − {LEAD}": (untrained, copied),
    }
    for words, (a, b) in pairs.items():
        found = paired_bootstrap(a, b, kind="titles")
        yield Row(cell, seed, words, NAN, ALL, ROUGE, found.difference, found.low, found.high)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124, leaves open whether it extends to generative tasks: parts of that question."""

    def of(b: str, a: str = FED) -> list[Row]:
        return select(rows, system=f"{a} − {b}", measure=ROUGE)

    yield Claim(
        "does the untrained model write better titles than copying the first sentence does?",
        _said(of(LEAD, ZERO_SHOT)),
        direction(of(LEAD, ZERO_SHOT)),
    )
    yield Claim(
        "does federated training under masks teach the model to write better ones?",
        f"over zero-shot: {_said(of(ZERO_SHOT))}",
        direction(of(ZERO_SHOT)),
    )
    singles = [r for r in select(rows, measure=ROUGE) if r.system.startswith(f"{FED} − {SINGLE}: ")]
    yield Claim(
        "is the federated adapter better than every single site's, on the tests of all?",
        f"{told(singles, 'comparisons')}; over their mean: {_said(of(MEAN))}",
        direction(singles),
    )
    yield Claim("the same, where a site keeps to its own abstracts?", _said(of(OWN)), direction(of(OWN)))
    yield Claim("is it worse than all abstracts pooled?", _said(of(CENTRAL)), direction(of(CENTRAL), positive=False))


def _said(rows: Sequence[Row]) -> str:
    """Differences with their intervals, a seed after the other."""
    return "; ".join(f"{r.value:+.3f} ({r.low:+.3f} to {r.high:+.3f})" for r in rows) or "not run yet"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """The open question in parts, what the untrained model does, ROUGE-L, loss and differences."""
    sizes = [" and ".join(f"{r.value:.0f} of {r.test}" for r in select(rows, measure=m)) for m in (TRAINED, TESTED)]
    yield f"The paper leaves open whether its framework extends to generative tasks. Trained on: {sizes[0]} abstracts."
    yield from (f"Tested on: {sizes[1]}.", "")
    verdict = {True: "yes", False: "**no**", None: "cannot tell"}
    yield from markdown(
        ["the paper's open question, in parts", "ROUGE-L F1", ""],
        ([c.paper, c.here, verdict[c.agrees]] for c in claims(rows)),
    )
    yield from ("", "## ROUGE-L F1", "", *f1_table(rows, ROUGE))
    yield from ("", "## Precision, recall, length, and answers that held no title", "")
    shown = (PRECISION, RECALL, LENGTH, EMPTY)
    yield from markdown(
        ["system, all tests", *shown],
        (
            [s, *(spread([r.value for r in select(rows, system=s, measure=m, test=ALL)]) for m in shown)]
            for s in ordered(r.system for r in select(rows, measure=PRECISION))
        ),
    )
    yield from ("", f"## {LOSS.capitalize()}, nats a token", "", *f1_table(rows, LOSS))
    yield from ("", "## Differences, seed by seed", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Left ROUGE-L by system, right what is between the federation and the others, with intervals."""
    plain = [r for r in select(rows, measure=ROUGE) if math.isnan(r.low)]
    differences = [r for r in select(rows, measure=ROUGE) if not math.isnan(r.low) and r.system.startswith(FED)]
    if not plain:
        return False
    axes = figure.subplots(1, 2 if differences else 1, squeeze=False)[0]
    _levels(axes[0], plain)
    if differences:
        _differences(axes[1], differences)
    legend(figure, axes, 4)
    return True


def _levels(axis: Axes, rows: Sequence[Row]) -> None:
    """A line a system: the mean over the test sets as a stroke, every test set as a mark; the seeds together."""
    singles = [s for s in ordered(r.system for r in rows) if s.startswith(f"{SINGLE}: ")]
    systems = [s for s in (LEAD, ZERO_SHOT, *singles, OWN, FED, CENTRAL) if select(rows, system=s)]
    tests = [t for t in tests_of(rows) if t != ALL]
    for test, mark in zip(tests, "o^s", strict=True):
        points = [(r.value, n) for n, s in enumerate(systems) for r in select(rows, system=s, test=test)]
        axis.plot(*zip(*points, strict=True), mark, color=BLUE, alpha=0.6, markersize=4, markeredgewidth=0, label=test)
    means = [(fmean(r.value for r in select(rows, system=s, test=ALL)), n) for n, s in enumerate(systems)]
    axis.plot(*zip(*means, strict=True), "|", color=INK, markersize=13, markeredgewidth=1.6, label="mean")
    _lines(axis, systems)
    axis.set_xlim(left=0)
    axis.set_title(ROUGE)


def _differences(axis: Axes, rows: Sequence[Row]) -> None:
    """A line a comparison: every seed with its interval."""
    words = ordered(r.system for r in rows)
    for n, name in enumerate(words):
        some = select(rows, system=name)
        for shift, r in enumerate(some):
            ends = [[r.value - r.low], [r.high - r.value]]
            at = n + 0.15 * (shift - (len(some) - 1) / 2)
            axis.errorbar([r.value], [at], xerr=ends, fmt="o", color=BLUE, markersize=4, capsize=2)
    axis.axvline(0, color=GREY, linewidth=0.8)
    _lines(axis, [w.removeprefix(f"{FED} − ") for w in words])
    axis.set_title(f"{FED} minus …, 95 %")


def _lines(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), ["\n".join(wrap(name, 20, break_on_hyphens=False)) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", color=LINE, linewidth=0.5)
    axis.set_axisbelow(True)


EXPERIMENT = Experiment(NAME, "Titles of abstracts, a generative task", 1, cells, summary, draw, (7.4, 3.6))
