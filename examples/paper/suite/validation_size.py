"""How much influence weights depend on which few records the validation set happens to hold.

Nothing is trained: the per-record losses of each site's own adapted model are taken once, and small sets are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from cells.markdown import markdown, spread
from matplotlib.figure import Figure

from fedsec.report.drawing import LINE
from suite.aggregate import influence, resampled
from suite.experiment import Experiment
from suite.lab import Lab
from suite.plots import COLOURS, legend
from suite.rows import NAN, Cell, Claim, Row, claim_table, ordered, select
from suite.settings import Scale
from suite.systems import FED, federated

NAME = "validation_size"
SHARE, DEVIATION, HEAVIEST, ALL_RECORDS, RECORDS = (
    "share of the round",
    "standard deviation of the share",
    "the heaviest site is that of all records",
    "share by all records",
    "records in all",
)
_TIE = 1e-9


def cells(scale: Scale, seeds: Sequence[int]) -> list[Cell]:
    """A cell a seed: the local adapters of Fed-MedLoRA's rounds are there already."""
    names = [(f"{NAME}/s{seed}", seed) for seed in seeds]
    return [Cell(name, seed, partial(_measured, name, seed)) for name, seed in names]


def _measured(cell: str, seed: int, lab: Lab) -> Iterator[Row]:
    run, records = federated(lab, FED, seed), lab.validation(lab.scale.validation_pool)
    yield Row(cell, seed, "", NAN, "", RECORDS, len(records))
    for index in range(len(run.rounds)):
        found = {site: lab.losses(adapter, records) for site, adapter in run.locals(index).items()}
        tokens = np.array([one.tokens for one in next(iter(found.values()))])
        losses = {site: np.array([one.nats for one in some]) for site, some in found.items()}
        whole = influence([float(nats @ tokens / tokens.sum()) for nats in losses.values()])
        system = f"round {index + 1}"
        yield from (Row(cell, seed, system, NAN, s, ALL_RECORDS, float(w)) for s, w in zip(losses, whole, strict=True))
        for size in lab.scale.validation_sizes:
            shares = resampled(losses, tokens, size, lab.scale.resamples, seed)
            low, high = np.quantile(shares, [0.025, 0.975], axis=0)
            for place, site in enumerate(losses):
                column = shares[:, place]
                ends = float(low[place]), float(high[place])
                yield Row(cell, seed, system, size, site, SHARE, float(column.mean()), *ends)
                yield Row(cell, seed, system, size, site, DEVIATION, float(column.std(ddof=1)))
            yield Row(cell, seed, system, size, "", HEAVIEST, heaviest(shares, whole))


def heaviest(shares: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> float:
    """In what part of the draws (float64[draws, sites]) a heaviest site is one of the heaviest by all records
    (float64[sites]). Levels are steps of a twentieth of a nat, so that sites tie.
    """
    first = whole >= whole.max() - _TIE
    return float((first & (shares >= shares.max(axis=1, keepdims=True) - _TIE)).any(axis=1).mean())


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Fed-MedLoRA+ takes five records."""
    found = select(rows, measure=HEAVIEST, x=5)
    if found:
        low, high = min(r.value for r in found), max(r.value for r in found)
        words = f"by 5 records the heaviest site is that of all records in {low:.0%} to {high:.0%} of draws, by round"
        yield Claim("sites are weighed by five validation records", words, None if high >= 0.5 else False)


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Shares and their spread over draws."""
    yield from claim_table(claims(rows))
    records = select(rows, measure=RECORDS)
    if records:
        drawn = f"Sets are drawn with replacement from {records[0].value:.0f} records."
        yield from ("", f"{drawn} Means over seeds (lowest to highest); sites with equal weights are all heaviest.", "")
    sizes = sorted({r.x for r in rows if not math.isnan(r.x)})
    rounds = ordered(r.system for r in rows if r.system)
    yield from markdown(
        ["site", "round", *(f"deviation, {size:.0f} record(s)" for size in sizes), "share by all records"],
        (
            [
                site,
                system,
                *(
                    spread([r.value for r in select(rows, measure=DEVIATION, system=system, test=site, x=size)])
                    for size in sizes
                ),
                spread([r.value for r in select(rows, measure=ALL_RECORDS, system=system, test=site)]),
            ]
            for system in rounds
            for site in ordered(r.test for r in rows if r.test)
        ),
    )
    yield ""
    yield from markdown(
        ["records", *(f"{HEAVIEST}, {system}" for system in rounds)],
        (
            [
                f"{size:.0f}",
                *(spread([r.value for r in select(rows, measure=HEAVIEST, system=s, x=size)]) for s in rounds),
            ]
            for size in sizes
        ),
    )


def draw(figure: Figure, rows: Sequence[Row]) -> bool:
    """Shares with the middle 95 % of draws, against the set's size; the first seed."""
    some = [r for r in select(rows, measure=SHARE) if r.seed == min(q.seed for q in rows)]
    rounds = ordered(r.system for r in some)
    if not some:
        return False
    axes = figure.subplots(1, len(rounds), squeeze=False, sharey=True)[0]
    for axis, system in zip(axes, rounds, strict=True):
        sites = ordered(r.test for r in some)
        for place, (site, colour) in enumerate(zip(sites, COLOURS, strict=False)):
            shown = sorted(select(some, system=system, test=site), key=lambda r: r.x)
            at = [n + 0.12 * (place - (len(sites) - 1) / 2) for n in range(len(shown))]
            means = [r.value for r in shown]
            ends = [[r.value - r.low for r in shown], [r.high - r.value for r in shown]]
            axis.errorbar(at, means, ends, fmt="o", color=colour, label=site, markersize=4, capsize=2)
        axis.set_xticks(range(len(shown)), [f"{r.x:.0f}" for r in shown])
        axis.set_xlabel("validation records")
        axis.set_title(f"{SHARE}, {system}")
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", color=LINE, linewidth=0.5)
    legend(figure, axes, 4)
    return True


EXPERIMENT = Experiment(NAME, "Validation records and the spread of weights", 3, cells, summary, draw)
