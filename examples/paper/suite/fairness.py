"""What the weakest site gains, and harmonic means over sites (Flow of Knowledge, arXiv 2510.00543)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import harmonic_mean

from matplotlib.figure import Figure

from fedsec.evaluation.scores import Match, Scores
from fedsec.report.drawing import AMBER, BLUE, GREY, LINE
from suite.experiment import Experiment
from suite.in_domain import OWN, answered, own
from suite.lab import Lab
from suite.plots import legend
from suite.rows import MATCHES, NAN, Cell, Claim, Row, claim_table, markdown, ordered, select, spread
from suite.settings import Scale
from suite.systems import FED, PLUS

NAME = "fairness"
F1, GAIN, WEAKEST, HARMONIC = (
    "F1 at its own test set",
    "gain over the site alone",
    "gain of the weakest site",
    "harmonic mean",
)


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a seed and system; nothing is trained or answered that in_domain did not."""
    found = []
    for seed in seeds:
        for system, short in ((FED, "fed-medlora"), (PLUS, "fed-medlora-plus")):
            name = f"{NAME}/{short}-s{seed}"
            found.append(Cell(name, seed, partial(_system, system, name, seed)))
    return found


def _system(system: str, cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    alone = own(lab, seed)
    (together,) = answered(lab, system, seed, lab.notes.sites).values()
    for match in MATCHES:
        yield from fair_rows(cell, seed, system, match, _f1(alone, match), _f1(together, match))


def _f1(found: dict[str, Scores], match: Match) -> dict[str, float]:
    return {site: scores.f1("entities", match) or 0.0 for site, scores in found.items()}


def fair_rows(
    cell: str, seed: int, system: str, match: str, alone: dict[str, float], together: dict[str, float]
) -> Iterator[Row]:
    """Site by site, for the site that is weakest alone, and as harmonic means."""
    for site, before in alone.items():
        yield Row(cell, seed, OWN, NAN, site, f"{F1}, {match}", before)
        yield Row(cell, seed, system, NAN, site, f"{F1}, {match}", together[site])
        yield Row(cell, seed, system, NAN, site, f"{GAIN}, {match}", together[site] - before)
    weakest = min(alone, key=lambda site: alone[site])
    yield Row(cell, seed, system, NAN, weakest, f"{WEAKEST}, {match}", together[weakest] - alone[weakest])
    yield Row(cell, seed, OWN, NAN, "", f"{HARMONIC}, {match}", harmonic_mean(alone.values()))
    yield Row(cell, seed, system, NAN, "", f"{HARMONIC}, {match}", harmonic_mean(together.values()))


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Another task (question answering) in the paper; only the direction can be compared."""
    for system in (FED, PLUS):
        weakest = [r.value for r in select(rows, system=system, measure=f"{WEAKEST}, strict")]
        if not weakest:
            continue
        yield Claim(
            "the weakest client gains 2.3 to 4.1 %",
            f"{system}, entities, strict: {spread(weakest)} F1, {len(weakest)} seed(s)",
            _same_sign(weakest),
        )
        gains = [
            r.value - select(rows, cell=r.cell, system=OWN, measure=r.measure)[0].value
            for r in select(rows, system=system, measure=f"{HARMONIC}, strict")
        ]
        yield Claim(
            "the harmonic mean gains 1.8 to 3.2 % over single clients",
            f"{system}, entities, strict: {spread(gains)} F1, {len(gains)} seed(s)",
            _same_sign(gains),
        )


def _same_sign(values: Sequence[float]) -> bool | None:
    if len(values) < 2:
        return None
    return True if min(values) > 0 else (False if max(values) < 0 else None)


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
