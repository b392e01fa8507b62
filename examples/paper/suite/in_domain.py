"""In domain: every system on the test set of every site; each federated one under masks and as a plain sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean

from cells.markdown import markdown
from matplotlib.figure import Figure

from fedsec.evaluation.scores import Scores
from suite.crf import Crf
from suite.experiment import Experiment
from suite.federated import deal_examples
from suite.lab import Lab
from suite.notes import FOUR, SITES
from suite.plots import f1_dots
from suite.rows import (
    ALL,
    EVERY_SEED,
    MATCHES,
    MEASURE,
    NAN,
    PREDICTED,
    Cell,
    Claim,
    Row,
    claim_table,
    deciding,
    difference_rows,
    difference_table,
    direction,
    f1_rows,
    f1_table,
    near,
    select,
    together,
    told,
    with_interval,
)
from suite.settings import Scale
from suite.systems import CENTRAL, FED, PLUS, POOLED_CRF, SINGLE, SINGLE_CRF, ZERO_SHOT, adapters, federated, single

NAME = "in_domain"
OWN = f"{SINGLE}, own test"
PLAIN = ", plain sum"
DEVIATION, BOUND, WEIGHT = "largest difference, masked and plain", "stated rounding", "share of the round"
MALFORMED = "lines that are no answer"


def answered(lab: Lab, system: str, seeds: Sequence[int], tests: Sequence[str]) -> dict[str, dict[str, Scores]]:
    """Name of the rows -> test set -> scores, over all of these seeds together."""
    limit = lab.scale.zero_shot if system == ZERO_SHOT else None
    sets = [lab.test(name, limit) for name in tests]
    found = [{n: lab.scores(a, sets) for n, a in adapters(lab, system, seed).items()} for seed in seeds]
    return {name: together([one[name] for one in found]) for name in found[0]}


def own(lab: Lab, seeds: Sequence[int]) -> dict[str, Scores]:
    """Each single-site adapter on the test set of its own site."""
    sets = [lab.test(name) for name in lab.notes.sites]
    return together([{s: lab.scores(single(lab, s, seed), sets)[s] for s in lab.notes.sites} for seed in seeds])


def crf(lab: Lab, tests: Sequence[str], own_only: bool) -> dict[str, dict[str, Scores]]:
    """The field on pooled notes, and each site's (``own_only``: on the test set of its own site)."""
    examples = deal_examples(lab, lab.notes.deal(FOUR, 0))
    sets = [lab.test(name) for name in tests]
    pooled = Crf([example for some in examples.values() for example in some])
    singles = {site: Crf(some) for site, some in examples.items()}
    found = {POOLED_CRF: {test.spec.name: pooled.scores(test) for test in sets}}
    if own_only:
        return found | {SINGLE_CRF: {test.spec.name: singles[test.spec.name].scores(test) for test in sets}}
    return found | {
        f"{SINGLE_CRF}: {site}": {test.spec.name: one.scores(test) for test in sets} for site, one in singles.items()
    }


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a system and seed; the field and the untrained model do not depend on the seed."""
    sites, found = len(SITES), []
    everything = sites * scale.records
    for seed in seeds:
        if seed == seeds[0]:
            found += [_cell("zero-shot", seed, _zero_shot, 0, 3 * sites * scale.zero_shot), _cell("crf", seed, _crf)]
        answers = sites * scale.test
        found += [
            _cell("single-site", seed, _single, everything, sites * answers),
            _cell("centralised", seed, _central, everything, answers),
            _cell("fed-medlora", seed, partial(_federated, FED), everything // 2, 2 * answers),
            _cell("fed-medlora-plus", seed, partial(_federated, PLUS), everything // 2, 2 * answers),
        ]
    for some in compared(seeds):
        found += [
            over("compare", NAME, some, _compare),
            over("compare-plus", NAME, some, _compare_plus),
            over("compare-everywhere", NAME, some, _compare_everywhere),
        ]
    return found


def _cell(what: str, seed: int, measure: Callable[..., Iterator[Row]], trains: int = 0, answers: int = 0) -> Cell:
    name = f"{NAME}/{what}-s{seed}"
    return Cell(name, seed, partial(measure, name, seed), trains, answers)


def compared(seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """Each seed by itself, and all of them together."""
    return [*((seed,) for seed in seeds), *((tuple(seeds),) if len(seeds) > 1 else ())]


def over(what: str, experiment: str, seeds: Sequence[int], measure: Callable[..., Iterator[Row]]) -> Cell:
    """A cell of comparisons over some seeds: ``measure(cell, seed of the rows, seeds, lab)``."""
    name = f"{experiment}/{what}-s{'+'.join(map(str, seeds))}"
    return Cell(name, max(seeds), partial(measure, name, seeds[0] if len(seeds) == 1 else EVERY_SEED, seeds))


def _zero_shot(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for name, found in answered(lab, ZERO_SHOT, [seed], lab.notes.sites).items():
        yield from f1_rows(cell, seed, name, found)
        yield from (Row(cell, seed, name, NAN, test, MALFORMED, s.malformed_lines) for test, s in found.items())


def _crf(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for name, found in crf(lab, lab.notes.sites, own_only=True).items():
        yield from f1_rows(cell, seed, name, found)


def _single(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for name, found in answered(lab, SINGLE, [seed], lab.notes.sites).items():
        yield from f1_rows(cell, seed, name, found)
    yield from f1_rows(cell, seed, OWN, own(lab, [seed]))


def _central(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    for name, found in answered(lab, CENTRAL, [seed], lab.notes.sites).items():
        yield from f1_rows(cell, seed, name, found)


def _federated(system: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    """F1 of both sums of the last round, and how far they are from each other in every round."""
    run = federated(lab, system, seed)
    plan, tests = run.folder.plan, [lab.test(name) for name in lab.notes.sites]
    masked, plain = (lab.scores(adapter, tests) for adapter in (run.adapter, run.rounds[-1].plain(plan)))
    yield from f1_rows(cell, seed, system, masked)
    yield from f1_rows(cell, seed, system + PLAIN, plain)
    yield from difference_rows(cell, seed, f"{system}, masked minus plain", masked, plain)
    for index, one in enumerate(run.rounds, start=1):
        yield Row(cell, seed, system, index, "", DEVIATION, one.deviation(plan))
        yield Row(cell, seed, system, index, "", BOUND, one.bound(plan))
        total = sum(one.weights.values())
        yield from (Row(cell, seed, system, index, site, WEIGHT, w / total) for site, w in one.weights.items())


def _compare(cell: str, seed: int, seeds: Sequence[int], lab: Lab) -> Iterator[Row]:
    names = lab.notes.sites
    (fed,) = answered(lab, FED, seeds, names).values()
    (central,) = answered(lab, CENTRAL, seeds, names).values()
    (untrained,) = answered(lab, ZERO_SHOT, seeds, names).values()
    yield from difference_rows(cell, seed, f"{FED} − {ZERO_SHOT}", fed, untrained)
    yield from difference_rows(cell, seed, f"{FED} − {OWN}", fed, own(lab, seeds))
    yield from difference_rows(cell, seed, f"{FED} − {CENTRAL}", fed, central)
    yield from difference_rows(cell, seed, f"{CENTRAL} − {OWN}", central, own(lab, seeds))
    fields = crf(lab, names, own_only=True)
    yield from difference_rows(cell, seed, f"{FED} − {SINGLE_CRF}", fed, fields[SINGLE_CRF])
    yield from difference_rows(cell, seed, f"{FED} − {POOLED_CRF}", fed, fields[POOLED_CRF])


def _compare_plus(cell: str, seed: int, seeds: Sequence[int], lab: Lab) -> Iterator[Row]:
    names = lab.notes.sites
    (fed,) = answered(lab, FED, seeds, names).values()
    (plus,) = answered(lab, PLUS, seeds, names).values()
    yield from difference_rows(cell, seed, f"{PLUS} − {FED}", plus, fed)
    yield from difference_rows(cell, seed, f"{PLUS} − {OWN}", plus, own(lab, seeds))


def _compare_everywhere(cell: str, seed: int, seeds: Sequence[int], lab: Lab) -> Iterator[Row]:
    """With each site's own adapter, on the test sets of all sites."""
    names = lab.notes.sites
    (fed,) = answered(lab, FED, seeds, names).values()
    for name, found in answered(lab, SINGLE, seeds, names).items():
        yield from difference_rows(cell, seed, f"{FED} − {name}", fed, found)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA, arXiv 2601.22124."""

    def of(words: str, measure: str = MEASURE) -> list[Row]:
        return select(rows, system=words, measure=measure, test=ALL)

    zero, own_, plus = of(f"{FED} − {ZERO_SHOT}"), of(f"{FED} − {OWN}"), of(f"{PLUS} − {FED}")
    gaps, pooled = of(f"{FED} − {CENTRAL}"), select(rows, system=CENTRAL, measure=MEASURE, test=ALL)
    said = f"entities, strict, on the sentences that zero-shot answered: {told(zero)}"
    yield Claim("up to +65 F1 over zero-shot", said, direction(zero))
    everywhere = [row for site in SITES for row in of(f"{FED} − {SINGLE}: {site}")]
    said = f"entities, strict, over each site's adapter on the tests of all: {told(everywhere, 'comparisons')}"
    yield Claim("about +25 F1 over single sites", said, direction(everywhere))
    said = f"entities, strict, over each site's adapter on its own test: {told(own_)}"
    yield Claim("the same, where a site keeps to its own notes", said, direction(own_))
    links = of(f"{FED} − {OWN}", "relations strict F1")
    yield Claim("the same for relations", f"relations, strict, own tests: {told(links)}", direction(links))
    yield Claim("Fed-MedLoRA+ above Fed-MedLoRA", f"entities, strict: {told(plus)}", direction(plus))
    yield Claim("over +40 F1 over BERT on relations", "no BERT here, and a random field does no relations", None)
    whole = fmean(row.value for row in pooled) if pooled else NAN
    for gap in deciding(gaps):
        said = f"{len(SITES)} unlike sites, entities, strict{_of_seed(gap)}: {with_interval(gap)} of {whole:.3f}"
        yield Claim("ten sites about 2 % below centralised", said, near(gap, -0.02, whole))


def _of_seed(row: Row) -> str:
    return "" if row.seed == EVERY_SEED else f", seed {row.seed}"


def beside(rows: Sequence[Row]) -> Iterator[str]:
    """What no claim of the paper is about, and a reader of the claims has to know."""
    for words, field in (("of one site's notes", SINGLE_CRF), ("of all notes", POOLED_CRF)):
        for row in deciding(select(rows, system=f"{FED} − {field}", measure=MEASURE, test=ALL)):
            yield f"- {FED} minus a random field {words}, entities, strict{_of_seed(row)}: {with_interval(row)}"
    untrained = select(rows, system=ZERO_SHOT)
    if untrained:
        mentions = sum(r.value for r in select(untrained, measure=f"entities {PREDICTED}"))
        others = sum(r.value for r in select(untrained, measure=MALFORMED))
        yield (
            f"- zero-shot gave {mentions:.0f} mentions in the form that is asked for, and {others:.0f} other lines: "
            "what is gained over it is the form of the answer before anything else"
        )


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Tables of F1, of masked against plain, of weights, of differences and of claims."""
    yield from (*claim_table(claims(rows)), "", *beside(rows))
    for kind in ("entities", "relations"):
        for match in MATCHES:
            yield from ("", f"## {kind.capitalize()}, {match}", "", *f1_table(rows, f"{kind} {match} F1"))
    yield from ("", "## Masked and plain sums of the same updates", "")
    yield from markdown(
        ["system", "seed", "round", DEVIATION, BOUND, "within"],
        (
            [
                r.system,
                str(r.seed),
                f"{r.x:.0f}",
                f"{r.value:.2e}",
                f"{b.value:.2e}",
                "yes" if r.value <= b.value else "**no**",
            ]
            for r in select(rows, measure=DEVIATION)
            for b in select(rows, measure=BOUND, cell=r.cell, x=r.x)
        ),
    )
    weights = select(rows, measure=WEIGHT, system=PLUS)
    if weights:
        yield from ("", f"## Weights of {PLUS}", "")
        yield from markdown(
            ["site", "seed", "round", "share"],
            ([r.test, str(r.seed), f"{r.x:.0f}", f"{r.value:.3f}"] for r in weights),
        )
    yield from ("", "## Differences", "", *difference_table(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Strict F1 of entities and relations by system, a dot a seed."""
    shown = [ZERO_SHOT, SINGLE_CRF, OWN, FED, PLUS, POOLED_CRF, CENTRAL]
    return f1_dots(figure, rows, shown, ["entities strict F1", "relations strict F1"])


EXPERIMENT = Experiment(NAME, "In domain", 3, cells, summary, draw, (7.4, 3.0))
