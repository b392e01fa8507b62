"""External validation: the adapters of the four sites on corpora that none of them holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cells.markdown import markdown
from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores
from suite.experiment import Experiment
from suite.in_domain import answered, compared, crf, over
from suite.lab import Lab
from suite.notes import SITES
from suite.plots import f1_dots
from suite.rows import (
    ALL,
    MATCHES,
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
    f1_table,
    ordered,
    select,
    told,
)
from suite.settings import Scale
from suite.systems import CENTRAL, FED, PLUS, POOLED_CRF, SINGLE, ZERO_SHOT

NAME = "external"
LEFT_OUT = "training documents left out"
BEST = f"best {SINGLE}"
_EXTERNAL = 2


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a system and seed. Nothing is trained that the experiment in_domain did not train."""
    answers, found = _EXTERNAL * scale.test, []
    for seed in seeds:
        if seed == seeds[0]:
            found += [
                _cell("overlaps", seed, _overlaps),
                _cell("zero-shot", seed, partial(_system, ZERO_SHOT), 3 * _EXTERNAL * scale.zero_shot),
                _cell("crf", seed, _crf),
            ]
        found += [
            _cell("single-site", seed, partial(_system, SINGLE), len(SITES) * answers),
            _cell("centralised", seed, partial(_system, CENTRAL), answers),
            _cell("fed-medlora", seed, partial(_system, FED), answers),
            _cell("fed-medlora-plus", seed, partial(_system, PLUS), answers),
        ]
    for some in compared(seeds):
        found += [over("compare", NAME, some, _compare), over("compare-plus", NAME, some, _compare_plus)]
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), 0, answers)


def _overlaps(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for corpus, count in lab.notes.left_out.items():
        yield Row(cell, seed, "", NAN, corpus, LEFT_OUT, count)


def _system(system: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for name, found in answered(lab, system, [seed], lab.notes.external).items():
        yield from f1_rows(cell, seed, name, found)


def _crf(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for name, found in crf(lab, lab.notes.external, own_only=False).items():
        yield from f1_rows(cell, seed, name, found)


def _compare(cell: str, seed: int, seeds: Sequence[int], lab: Lab) -> Iterator[Row]:
    names = lab.notes.external
    (fed,) = answered(lab, FED, seeds, names).values()
    (central,) = answered(lab, CENTRAL, seeds, names).values()
    yield from difference_rows(cell, seed, f"{FED} − {BEST}", fed, _best(answered(lab, SINGLE, seeds, names)))
    for name, found in answered(lab, SINGLE, seeds, names).items():
        yield from difference_rows(cell, seed, f"{FED} − {name}", fed, found)
    yield from difference_rows(cell, seed, f"{FED} − {CENTRAL}", fed, central)
    yield from difference_rows(cell, seed, f"{FED} − {POOLED_CRF}", fed, crf(lab, names, own_only=False)[POOLED_CRF])


def _compare_plus(cell: str, seed: int, seeds: Sequence[int], lab: Lab) -> Iterator[Row]:
    names = lab.notes.external
    (fed,) = answered(lab, FED, seeds, names).values()
    (plus,) = answered(lab, PLUS, seeds, names).values()
    yield from difference_rows(cell, seed, f"{PLUS} − {FED}", plus, fed)


def _best(singles: dict[str, dict[str, Scores]]) -> dict[str, Scores]:
    """The single site with the highest mean strict F1 of entities: picked after the fact, in its favour."""
    return max(singles.values(), key=lambda found: sum(s.f1("entities", "strict") or 0.0 for s in found.values()))


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124: external validation."""
    gain = select(rows, system=f"{FED} − {BEST}", measure=MEASURE, test=ALL)
    plus = select(rows, system=f"{PLUS} − {FED}", measure=MEASURE, test=ALL)
    paper = "federated adapters hold better than single-site ones on corpora of no site"
    each = [r for site in SITES for r in select(rows, system=f"{FED} − {SINGLE}: {site}", measure=MEASURE, test=ALL)]
    yield Claim(paper, f"entities, strict, over each single site: {told(each, 'comparisons')}", direction(each))
    picked = "over the best single site, picked on these tests"
    yield Claim(paper, f"entities, strict, {picked}: {told(gain)}", direction(gain))
    yield Claim("Fed-MedLoRA+ above Fed-MedLoRA", f"entities, strict: {told(plus)}", direction(plus))


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Tables of F1, of differences, and of what was left out."""
    yield from claim_table(claims(rows))
    for kind in ("entities", "relations"):
        for match in MATCHES:
            yield from ("", f"## {kind.capitalize()}, {match}", "", *f1_table(rows, f"{kind} {match} F1"))
    yield from ("", "## Differences", "", *difference_table(rows))
    left = select(rows, measure=LEFT_OUT)
    yield from ("", "## Left out of training, by publication", "")
    yield from markdown(["corpus", "documents"], ([r.test, f"{r.value:.0f}"] for r in left))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Strict F1 by system."""
    singles = [s for s in ordered(r.system for r in rows) if s.startswith(f"{SINGLE}: ")]
    shown = [ZERO_SHOT, POOLED_CRF, *singles, FED, PLUS, CENTRAL]
    return f1_dots(figure, rows, shown, ["entities strict F1", "entities lenient F1"])


EXPERIMENT = Experiment(NAME, "External validation", 3, cells, summary, draw, (7.4, 3.4))
