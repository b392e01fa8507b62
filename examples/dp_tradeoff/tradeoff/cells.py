"""The grid: which runs there are, in which order, and what each changes in the plan.

Modes share what an epsilon is made of: sampling rate, number of steps, and so the noise multiplier.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from fedsec.plan.model import Draft, Plan
from fedsec.study.prepare import read_draft

HERE = Path(__file__).resolve().parents[1]
PLAN = HERE / "plan.toml"
NONE, LOCAL, DISTRIBUTED = "none", "local", "distributed"
FFA, FEDIT = "ffa", "fedit"
RECORD, PATIENT = "record", "patient"
MODES, STRATEGIES, UNITS = (NONE, LOCAL, DISTRIBUTED), (FFA, FEDIT), (RECORD, PATIENT)
RATES: Final[Mapping[str, Mapping[str, float]]] = {
    FFA: {NONE: 8.0, LOCAL: 8.0, DISTRIBUTED: 8.0},
    FEDIT: {NONE: 4.0, LOCAL: 4.0, DISTRIBUTED: 4.0},
}
"""Times the plan's learning rate, by strategy and mode: the best that were TRIED, with noise at epsilon 8, seed 0."""
TRIED: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    FFA: {NONE: (1, 2, 4, 8, 16), LOCAL: (0.5, 1, 2, 4, 8, 16), DISTRIBUTED: (0.5, 1, 2, 4, 8, 16)},
    FEDIT: {NONE: (1, 4, 8), LOCAL: (1, 4, 8), DISTRIBUTED: (1, 4, 8)},
}
PHYSICAL_BATCH = 8
"""Sentences that a site computes at a time in mode local; distributed takes one at a time whatever a plan says."""

_COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("rounds", "seed", "lora", "task", "training", "secure", "weighting", "server", "canaries"), ()),
    "model": ("weights_sha256",),
    "dp": ("target_delta", "noise_multiplier", "dimension"),
    "evaluation": ("baselines",),
}
"""Parts of a plan, and what in them is filled in when it is compiled, or differs between cells that mean the same."""

_NAME = re.compile(
    r"(?P<mode>none|local|distributed)(-e(?P<epsilon>[0-9]+(\.[0-9]+)?))?-(?P<strategy>ffa|fedit)-(?P<sites>\d+)sites"
    r"(-(?P<unit>record|patient))?(-x(?P<rate>[0-9]+(\.[0-9]+)?))?-s(?P<seed>\d+)"
)


@dataclass(frozen=True)
class Scale:
    """How large a study is: the same in all its cells."""

    records: int
    """Sentences over all sites."""
    patients: int
    """About how many patients they come from."""
    batch: int
    """Expected sentences of a step, over all sites."""
    steps: int
    """Optimiser steps of a run."""
    local_steps: int
    """How many of them a site takes before an average, in modes none and local."""
    loss_sentences: int
    changes: tuple[str, ...] = ()
    """Of the plan, besides those of the cells."""

    @property
    def sampling_rate(self) -> float:
        """The chance of every unit in every step."""
        return self.batch / self.records


FULL = Scale(records=2000, patients=500, batch=64, steps=40, local_steps=10, loss_sentences=400)
TINY = Scale(
    records=60,
    patients=13,
    batch=6,
    steps=4,
    local_steps=2,
    loss_sentences=12,
    changes=(
        "model.base=tiny-random",
        "lora.rank=2",
        "evaluation.max_new_tokens=4",
        'evaluation.public_tests=[{name="test", entity_types=["Drug", "Problem"], limit=4}]',
    ),
)
"""Random weights and invented notes: learns nothing, goes through everything."""


@dataclass(frozen=True)
class Cell:
    """One run. ``epsilon`` is infinite, and ``unit`` means nothing, for mode none."""

    mode: str
    epsilon: float = math.inf
    strategy: str = FFA
    sites: int = 10
    unit: str = RECORD
    rate: float = 1.0
    """Times the plan's learning rate, and for local noise times the root of the number of sites."""
    seed: int = 0

    @property
    def name(self) -> str:
        """Tells all cells apart, and is parsed by `named`."""
        private = self.mode != NONE
        parts = [self.mode, f"e{self.epsilon:g}" if private else "", self.strategy, f"{self.sites}sites"]
        parts += [self.unit if private else "", f"x{self.rate:g}" if self.rate != 1 else "", f"s{self.seed}"]
        return "-".join(part for part in parts if part)

    def changes(self, scale: Scale) -> list[str]:
        """What ``--set`` changes in the plan."""
        quorum = 2 * self.sites // 3 + 1
        found = [
            *scale.changes,
            f"seed={self.seed}",
            f"lora.strategy={self.strategy}",
            f"secure.minimum_cohort={quorum}",
            f"secure.threshold={quorum}",
            f"training.learning_rate={self.learning_rate():.6g}",
            f"secure.clip={self.clip():.6g}",
            f"rounds={scale.steps if self.mode == DISTRIBUTED else scale.steps // scale.local_steps}",
        ]
        return found + (self._plain(scale) if self.mode == NONE else self._private(scale))

    def learning_rate(self) -> float:
        """The plan's; at sites that add all their noise themselves times the root of their number.

        In much noise the length of AdamW's steps depends on the learning rate, not on the noise. An average of n such
        steps in independent noises is shorter by the root of n: with it, noise moves the adapter as far in both modes.
        """
        plan: float = read_draft(PLAN).training.learning_rate
        return plan * self.rate * (math.sqrt(self.sites) if self.mode == LOCAL else 1.0)

    def clip(self) -> float:
        """What masks take of a coordinate: the plan's, and more for learning rates that would take an update beyond.

        Shared noise has integers in place of it.
        """
        plan: float = read_draft(PLAN).secure.clip
        return plan * max(1.0, self.rate / RATES[FFA][LOCAL]) if self.mode == LOCAL else plan

    def _plain(self, scale: Scale) -> list[str]:
        """So many steps of so many sentences, in mini-batches of a fixed size."""
        examples = round(scale.batch * scale.local_steps / self.sites)
        size = -(-examples // scale.local_steps)
        if -(-examples // size) != scale.local_steps:
            raise SystemExit(f"{self.name}: {examples} sentences do not make {scale.local_steps} batches of {size}")
        return [f"training.examples_per_round={examples}", f"training.batch_size={size}"]

    def _private(self, scale: Scale) -> list[str]:
        units = scale.sampling_rate * (scale.records if self.unit == RECORD else scale.patients)
        expected = units if self.mode == DISTRIBUTED else units / self.sites
        return [
            f"dp.mode={self.mode}",
            f"dp.target_epsilon={self.epsilon:g}",
            f"dp.unit={self.unit}",
            f"dp.sampling_rate={scale.sampling_rate:g}",
            f"dp.steps={1 if self.mode == DISTRIBUTED else scale.local_steps}",
            f"dp.expected_batch={max(1, round(expected))}",
            f"training.batch_size={PHYSICAL_BATCH}",
        ]

    def draft(self, scale: Scale) -> Draft:
        """The plan of the cell, before data and keys complete it."""
        return read_draft(PLAN, self.changes(scale))


def named(name: str) -> Cell:
    """The cell of this name; SystemExit for other text."""
    found = _NAME.fullmatch(name)
    if found is None or (found["mode"] == NONE) != (found["epsilon"] is None):
        raise SystemExit(f"{name}: no name of a cell; expected something like local-e8-ffa-10sites-record-s0")
    return Cell(
        found["mode"],
        math.inf if found["epsilon"] is None else float(found["epsilon"]),
        found["strategy"],
        int(found["sites"]),
        found["unit"] or RECORD,
        float(found["rate"] or 1),
        int(found["seed"]),
    )


def require_plan(cell: Cell, scale: Scale, plan: Plan) -> None:
    """SystemExit unless a run that stands under the cell's name is the cell's."""
    draft = cell.draft(scale)
    found = plan.model_dump(include=set(_COMPARED)), draft.model_dump(include=set(_COMPARED))
    for said in found:
        for part, filled_in in _COMPARED.items():
            if filled_in:
                said[part] = {name: value for name, value in said[part].items() if name not in filled_in}
        for test in said["evaluation"]["public_tests"]:
            del test["sha256"]
    other = [part for part in _COMPARED if found[0][part] != found[1][part]]
    if other:
        raise SystemExit(
            f"{cell.name}: the run that stands there has another plan ({', '.join(other)}); choose another --out"
        )


def main_grid(seeds: Sequence[int]) -> list[Cell]:
    """The study, the most telling cells first."""
    first, rest = seeds[:1], seeds[1:]
    cells = [cell for seed in first for cell in (*_curves(seed), *_others(seed))]
    cells += [cell for seed in rest for cell in _curves(seed)]
    return cells + [cell for seed in first for cell in _rates(seed)]


def product_grid(
    seeds: Iterable[int],
    modes: Iterable[str],
    epsilons: Sequence[float],
    strategies: Sequence[str],
    sites: Sequence[int],
    units: Sequence[str],
    rates: Sequence[float] | None,
) -> list[Cell]:
    """Every combination once, seed by seed; without ``rates`` each strategy and mode has its own."""
    cells: dict[Cell, None] = {}
    tried: Sequence[float | None] = rates or [None]
    for seed, strategy, count, rate, mode in product(seeds, strategies, sites, tried, modes):
        chosen = RATES[strategy][mode] if rate is None else rate
        cell = Cell(mode, strategy=strategy, sites=count, rate=chosen, seed=seed)
        private = (replace(cell, epsilon=e, unit=u) for u, e in product(units, epsilons))
        cells |= dict.fromkeys([cell] if mode == NONE else private)
    return list(cells)


def _curves(seed: int) -> Iterator[Cell]:
    yield _usual(NONE, seed=seed)
    order = ((8, LOCAL), (8, DISTRIBUTED), (2, DISTRIBUTED), (2, LOCAL), (1, DISTRIBUTED), (1, LOCAL))
    for epsilon, mode in (*order, (4, DISTRIBUTED), (4, LOCAL)):
        yield _usual(mode, epsilon, seed=seed)


def _others(seed: int) -> Iterator[Cell]:
    """What else may matter, at one epsilon."""
    modes = (DISTRIBUTED, LOCAL)
    yield from (_usual(mode, 8, strategy=FEDIT, seed=seed) for mode in modes)
    yield from (_usual(mode, 8, sites=5, seed=seed) for mode in modes)
    yield from (_usual(mode, 8, unit=PATIENT, seed=seed) for mode in modes)
    yield _usual(NONE, strategy=FEDIT, seed=seed)
    yield _usual(NONE, sites=5, seed=seed)


def _rates(seed: int) -> Iterator[Cell]:
    """How the learning rates were chosen."""
    for strategy, mode in product(STRATEGIES, MODES):
        usual = _usual(mode, math.inf if mode == NONE else 8, strategy=strategy, seed=seed)
        yield from (replace(usual, rate=rate) for rate in TRIED[strategy][mode] if rate != usual.rate)


def _usual(mode: str, epsilon: float = math.inf, strategy: str = FFA, **other: Any) -> Cell:
    return Cell(mode, epsilon, strategy, rate=RATES[strategy][mode], **other)
