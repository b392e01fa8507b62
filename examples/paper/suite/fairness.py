"""What the weakest site gains, and harmonic means over sites (Flow of Knowledge, arXiv 2510.00543)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import harmonic_mean

from cells.markdown import markdown, spread
from matplotlib.figure import Figure
from scipy.stats import hmean

from fedsec.evaluation.scores import Match, Scores, paired_bootstrap
from fedsec.report.drawing import AMBER, BLUE, GREY, LINE
from suite.experiment import Experiment
from suite.in_domain import OWN, answered, compared, over, own
from suite.lab import Lab
from suite.plots import legend
from suite.rows import (
    EVERY_SEED,
    MATCHES,
    NAN,
    Cell,
    Claim,
    Row,
    claim_table,
    direction,
    ordered,
    seed_words,
    select,
    told,
    with_interval,
)
from suite.settings import Scale
from suite.systems import FED, PLUS

NAME = "fairness"
F1, GAIN, WEAKEST, HARMONIC, MEAN_GAIN = (
    "F1 at its own test set",
    "gain over the site alone",
    "gain of the weakest site",
    "harmonic mean",
    "gain of the harmonic mean",
)


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a seed and system; nothing is trained or answered that in_domain did not."""
    found = []
    for some in compared(seeds):
        for system, short in ((FED, "fed-medlora"), (PLUS, "fed-medlora-plus")):
            found.append(over(short, NAME, some, partial(_system, system)))
    return found


def _system(system: str, cell: str, seed: int, seeds: Sequence[int], lab: Lab) -> Iterator[Row]:
    alone = own(lab, seeds)
    (together,) = answered(lab, system, seeds, lab.notes.sites).values()
    for match in MATCHES:
        found = fair_rows(cell, seed, system, match, alone, together)
        yield from (row for row in found if seed != EVERY_SEED or not math.isnan(row.low))


def _f1(found: dict[str, Scores], match: Match) -> dict[str, float]:
    return {site: scores.f1("entities", match) or 0.0 for site, scores in found.items()}


def fair_rows(
    cell: str, seed: int, system: str, match: Match, alone: dict[str, Scores], together: dict[str, Scores]
) -> Iterator[Row]:
    """Site by site, for the site that is weakest alone, and as harmonic means; gains by the paired bootstrap.

    The weakest is picked on the sentences that its gain is measured on: in the gain's favour.
    """
    before, after = _f1(alone, match), _f1(together, match)
    weakest = min(before, key=lambda site: before[site])
    for site in before:
        yield Row(cell, seed, OWN, NAN, site, f"{F1}, {match}", before[site])
        yield Row(cell, seed, system, NAN, site, f"{F1}, {match}", after[site])
        gain = paired_bootstrap({site: together[site]}, {site: alone[site]}, match=match)
        for measure in (GAIN, *((WEAKEST,) if site == weakest else ())):
            yield Row(cell, seed, system, NAN, site, f"{measure}, {match}", gain.difference, gain.low, gain.high)
    yield Row(cell, seed, OWN, NAN, "", f"{HARMONIC}, {match}", harmonic_mean(before.values()))
    yield Row(cell, seed, system, NAN, "", f"{HARMONIC}, {match}", harmonic_mean(after.values()))
    gain = paired_bootstrap(together, alone, match=match, mean=partial(hmean, axis=0))
    yield Row(cell, seed, system, NAN, "", f"{MEAN_GAIN}, {match}", gain.difference, gain.low, gain.high)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Another task (question answering) in the paper; only the direction can be compared."""
    for system in (FED, PLUS):
        weakest = select(rows, system=system, measure=f"{WEAKEST}, strict")
        means = select(rows, system=system, measure=f"{MEAN_GAIN}, strict")
        if not weakest:
            continue
        words = f"{system}, entities, strict: {told(weakest)}; picked on the same sentences"
        yield Claim("the weakest client gains 2.3 to 4.1 %", words, direction(weakest))
        words = f"{system}, entities, strict: {told(means)}"
        yield Claim("the harmonic mean gains 1.8 to 3.2 % over single clients", words, direction(means))
        for site in ordered(r.test for r in select(rows, system=system, measure=f"{GAIN}, strict")):
            some = select(rows, system=system, measure=f"{GAIN}, strict", test=site)
            if direction(some) is False:
                yield Claim("every client gains", f"{system}, {site}, entities, strict: {told(some)}", False)


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Gains by site."""
    yield from claim_table(claims(rows))
    systems = [s for s in (FED, PLUS) if select(rows, system=s)]
    for match in MATCHES:
        yield from ("", f"## Entities, {match}", "")
        sites = ordered(r.test for r in select(rows, measure=f"{F1}, {match}"))
        yield from markdown(
            ["", *sites, HARMONIC],
            (
                [
                    system,
                    *(spread(_values(rows, system, f"{F1}, {match}", site)) for site in sites),
                    spread(_values(rows, system, f"{HARMONIC}, {match}", "")),
                ]
                for system in (OWN, *systems)
            ),
        )
    yield from ("", "## Gains", "")
    gains = [r for r in rows if r.measure.startswith((GAIN, MEAN_GAIN))]
    yield from markdown(
        ["system", "seed", "site", "measure", "value and 95 % interval"],
        ([r.system, seed_words(r.seed), r.test or "all", r.measure, with_interval(r)] for r in gains),
    )


def _values(rows: Sequence[Row], system: str, measure: str, test: str) -> list[float]:
    """One a seed: what a site has alone stands in the cells of both systems."""
    return list({r.seed: r.value for r in select(rows, system=system, measure=measure, test=test)}.values())


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """F1 at the own test set, alone and together, a line a seed."""
    sites = ordered(r.test for r in select(rows, measure=f"{F1}, strict"))
    if not sites:
        return False
    axis = figure.subplots()
    for system, colour, shift in ((OWN, GREY, -0.15), (FED, BLUE, 0.0), (PLUS, AMBER, 0.15)):
        points = [(n + shift, v) for n, s in enumerate(sites) for v in _values(rows, system, f"{F1}, strict", s)]
        if points:
            axis.plot(*zip(*points, strict=True), "o", color=colour, label=system, markersize=5)
    axis.set_xticks(range(len(sites)), sites)
    axis.set_title("Entities, strict F1 at each site's own test set, a dot a seed")
    axis.set_ylim(bottom=-0.02)
    axis.grid(axis="y", color=LINE, linewidth=0.5)
    legend(figure, [axis])
    return True


EXPERIMENT = Experiment(NAME, "The weakest site", 3, cells, summary, draw)
