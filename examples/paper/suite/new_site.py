"""A site that comes later, with few records of its own: from the federated adapter, from the base model, untrained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cells.markdown import markdown, spread
from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import TrainingSpec
from fedsec.study.adapt import Settings, balanced, training_spec
from fedsec.training.adapter import AdapterState
from suite.experiment import Experiment
from suite.lab import Lab
from suite.plots import curves, legend, line_at
from suite.rows import (
    MEASURE,
    NAN,
    Cell,
    Claim,
    Row,
    claim_table,
    difference_rows,
    difference_table,
    direction,
    f1_rows,
    ordered,
    select,
)
from suite.settings import Scale
from suite.systems import FED, ZERO_SHOT, federated

NAME = "new_site"
FROM_FED, FROM_BASE = f"from {FED}", "from the base model"
OVER_BASE, OVER_FED = f"{FROM_FED} − {FROM_BASE}", f"{FROM_FED} − {FED} as it is"
_PUBLISHED = "73 strict and 85 lenient F1 at a new site (8B)"


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a number of records and start."""
    found = []
    for seed in seeds:
        found += [
            _cell("zero-shot", seed, _zero_shot, 0, 3 * scale.zero_shot),
            _cell("unadapted", seed, _unadapted, 0, scale.test),
        ]
        for records in scale.new_records:
            for start, short in ((FROM_FED, "federated"), (FROM_BASE, "base")):
                measure = partial(_adapted, records, start)
                found.append(_cell(f"{records}-{short}", seed, measure, _trained_on(records), scale.test))
            found.append(_cell(f"{records}-compare", seed, partial(_compare, records)))
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def _trained_on(records: int) -> int:
    """Sentences in all passes, for the estimate of the time."""
    return records * training_spec(TrainingSpec(), records, Settings()).epochs


def adapted(lab: Lab, records: int, start: str, seed: int) -> AdapterState:
    """The new site's adapter after its own records, the first by hash, so that fewer are a part of more.

    The recipe is that of ``fedsec site adapt``. An adapter that nobody trained has the studies' learning rate.
    """
    labels = lab.notes.labels[lab.notes.new]
    section = DataSection(path="new", entity_types=labels.entities, relation_types=labels.relations, limit=records)
    chosen = lab.examples(lab.notes.train[lab.notes.new], section)
    if start == FROM_FED:
        begin, settings = federated(lab, FED, seed).adapter, Settings()
    else:
        begin, settings = lab.initial(seed), Settings(learning_rate=lab.draft.training.learning_rate)
    spec = training_spec(lab.draft.training, len(chosen), settings)
    return lab.train(begin, balanced(chosen), lab.notes.new, round_index=0, rounds=1, seed=seed, spec=spec)


def _scores(lab: Lab, adapter: AdapterState | None, limit: int | None = None) -> dict[str, Scores]:
    return lab.scores(adapter, [lab.test(lab.notes.new, limit)])


def _zero_shot(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, ZERO_SHOT, _scores(lab, None, lab.scale.zero_shot))


def _unadapted(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, FED, _scores(lab, federated(lab, FED, seed).adapter))


def _adapted(records: int, start: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    yield from f1_rows(cell, seed, start, _scores(lab, adapted(lab, records, start, seed)), records)


def _compare(records: int, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    fed, base = (_scores(lab, adapted(lab, records, start, seed)) for start in (FROM_FED, FROM_BASE))
    yield from difference_rows(cell, seed, f"{records} records: {OVER_BASE}", fed, base, records)
    as_it_is = _scores(lab, federated(lab, FED, seed).adapter)
    yield from difference_rows(cell, seed, f"{records} records: {OVER_FED}", fed, as_it_is, records)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124: the low-resource site."""
    best = {
        m: [r.value for r in select(rows, system=FROM_FED, measure=f"entities {m} F1")] for m in ("strict", "lenient")
    }
    told = ", ".join(f"{m} {max(v):.3f}" for m, v in best.items() if v) or "not run yet"
    yield Claim(_PUBLISHED, f"the best of {FROM_FED}, entities: {told} (135M, other corpora)", None)
    for words, what in (
        ("a new site with few records gains from the federated adapter", OVER_BASE),
        ("a new site with few records gains over the federated adapter as it is", OVER_FED),
    ):
        gains = [r for r in rows if r.system.endswith(f": {what}") and r.measure == MEASURE]
        told = "; ".join(f"{r.x:.0f} records {r.value:+.3f}" for r in gains) or "not run yet"
        yield Claim(words, f"entities, strict: {told}", direction(gains))


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """F1 by records and start."""
    yield from claim_table(claims(rows))
    measures = [m for m in ordered(r.measure for r in rows) if m.endswith(" F1")]
    yield ""
    yield from markdown(
        ["start", "records", *measures],
        (
            [s, "0" if math.isnan(x) else f"{x:.0f}", *(spread(_values(rows, s, x, m)) for m in measures)]
            for s, x in ordered_pairs(rows)
        ),
    )
    yield from ("", "## Differences", "", *difference_table(rows))


def ordered_pairs(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """(system, records) in the order of the table; what no record trained comes first."""
    systems = [s for s in (ZERO_SHOT, FED) if any(r.system == s for r in rows)]
    sizes = sorted({r.x for r in rows if not math.isnan(r.x)})
    starts = [(s, x) for x in sizes for s in (FROM_BASE, FROM_FED) if select(rows, system=s, x=x)]
    return [*((s, NAN) for s in systems), *starts]


def _values(rows: Sequence[Row], system: str, x: float, measure: str) -> list[float]:
    some = select(rows, system=system, measure=measure, test=_test(rows))
    return [r.value for r in some if (r.x == x or math.isnan(x)) and math.isnan(r.low)]


def _test(rows: Sequence[Row]) -> str:
    return next((r.test for r in rows if r.test not in ("", "all")), "")


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """F1 against records."""
    if not any(not math.isnan(r.x) for r in rows):
        return False
    axes = figure.subplots(1, 2, squeeze=False)[0]
    for axis, measure in zip(axes, (MEASURE, "entities lenient F1"), strict=True):
        curves(axis, rows, [FROM_FED, FROM_BASE], measure, _test(rows))
        line_at(axis, rows, FED, measure, _test(rows))
        axis.set_xlabel("sentences of the new site")
        axis.set_ylim(bottom=0)
    legend(figure, axes)
    return True


EXPERIMENT = Experiment(NAME, "A new site with few records", 1, cells, summary, draw)
