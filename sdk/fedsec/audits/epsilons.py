"""Lower bounds on epsilon from the real step, on neighbours that differ as much as any: the rows of `mechanism`.

An auditor who knows everything but whether one unit, the canary, is there, guesses that from the released sum
(`bounds`). The canary's gradient is a thousand clipping norms long and lies in all tensors; one of its mates pulls the
other way, as far as it is let. What a row is judged by comes from the event that the ledger would store for the step,
through the accountant's own reading of it (`mechanisms`): rate, noise, and how many vectors of a unit are sampled.

Where several steps are one trial, the auditor adds up what it sees of each. With the canary that is Gaussian noise on a
number of vectors that is binomial over all coins of all steps, which is the curve of one step with so many records.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Final

import numpy as np

from fedsec.audits.bounds import Values, lower_bound
from fedsec.audits.crafted import (
    Matrix,
    Seen,
    Vector,
    dimension,
    dp_of,
    sampled_records,
    take_shares,
    take_steps,
    tiny_base,
)
from fedsec.audits.outcome import Row, Watch, told, unseen
from fedsec.audits.setting import LORA, Setting
from fedsec.plan.cost import RELATION, PrivateSteps
from fedsec.plan.specs import DpSpec
from fedsec.privacy.accountant import PldAccountant
from fedsec.privacy.distributed import DistributedStep
from fedsec.privacy.mechanisms import mechanisms
from fedsec_secure.accounting.events import Event, SelfComposed

SURVIVORS, COLLUDING = 3, 1
"""Sites in a shared step, and how many of them tell their noise."""
_SHOWS: Final = 0.5
"""Of the theory's epsilon: with bounds below about this share, half the noise would hold as well."""
_TOGETHER: Final = 4
"""Shared steps of one trial."""
_FEWEST: Final = 200
"""Trials of several shared steps, at least."""


def audit(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """A lower bound on epsilon beside what is reported, for each kind of step."""
    return [*of_units(setting, watch), of_records(setting, watch), *of_shared(setting, watch)]


def of_units(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """Of a step on all units, and on a Poisson sample."""
    rates = {"all units": (1.0, setting.trials // 3)}
    if setting.sampling_rate < 1:
        rates[f"a sample of {setting.sampling_rate:g}"] = setting.sampling_rate, setting.trials
    return [
        _local(setting, dp_of(setting.noise_multiplier, rate, trials, setting.delta), where, 1, watch)
        for where, (rate, trials) in rates.items()
    ]


def of_records(setting: Setting, watch: Watch = unseen) -> Row:
    """Of a step that samples and clips records, for a patient who has four times as many as are used."""
    sampling, trials = sampled_records(setting.records), setting.trials // 3
    dp = dp_of(setting.noise_multiplier, setting.sampling_rate, trials, setting.delta, **sampling)
    return _local(setting, dp, "sampled records", 4 * setting.records, watch)


def _local(setting: Setting, dp: DpSpec, where: str, records: int, watch: Watch) -> Row:
    """``records``: how many the canary has, each with the same gradient."""
    base = tiny_base()
    canary, mates = _crafted(dimension(base, LORA), dp.clipping_norm)

    def trial(world: str, has: int) -> Vector:
        gradients = _with(canary, mates, dp.clipping_norm, has)
        owners = [0] * has + [1 + mate for mate in range(len(mates))]
        steps = take_steps(base, LORA, dp, gradients, owners)
        seen = told(steps, dp.steps, f"steps on {where}, canary {world}", watch)
        return np.array([_look(one, canary, mates, has, dp.clipping_norm) for one in seen])

    event = PrivateSteps.of(dp, 1).event
    return _bounded(f"ε of a step on {where}", event, trial("out", 0), trial("in", records), setting)


def shared_step(setting: Setting, values: int, rate: float = 1.0, records: int = 1) -> DistributedStep:
    """A step whose noise three sites add, of which two can be counted on."""
    return DistributedStep(rate, setting.noise_multiplier, 1.0, 1 << 16, values, SURVIVORS, COLLUDING, records)


def of_shared(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """Of a shared step on all units, on sampled records as in `of_records`, and of several on samples of units.

    What is seen is what two sites of three release.
    """
    rate, once, many = setting.sampling_rate, setting.trials // 6, max(_FEWEST, setting.trials // 3)
    return [
        _shared(setting, 1.0, 1, once, "a shared step on all units", watch),
        _shared(setting, rate, 1, once, "a shared step on sampled records", watch, setting.records),
        _shared(setting, rate, _TOGETHER, many, f"{_TOGETHER} shared steps on samples", watch),
    ]


def _shared(
    setting: Setting, rate: float, steps: int, trials: int, what: str, watch: Watch, records: int | None = None
) -> Row:
    """``records``: of a patient, where records are sampled; the canary has four times as many."""
    step = shared_step(setting, dimension(tiny_base(), LORA), rate, records or 1)
    canary, mates = _crafted(step.dimension, step.clip)
    others = [1 + mate for mate in range(len(mates))]

    def trial(world: str, has: int) -> Vector:
        sites = [_with(canary, mates, step.clip, has), mates]
        shares = take_shares(LORA, step, sites, [[0] * has + others, others])
        seen = told(islice(shares, trials * steps), trials * steps, f"{what}, canary {world}", watch)
        looks = [_look(one, canary, np.vstack([mates, mates]), has, step.clip) for one in seen]
        sums: Vector = np.array(looks).reshape(trials, steps).sum(1)
        return sums

    present = trial("in", 4 * records if records else 1)
    return _bounded(f"ε of {what}", SelfComposed(step.event, steps), trial("out", 0), present, setting)


def _bounded(name: str, event: Event, out: Values, present: Values, setting: Setting) -> Row:
    """``out``, ``present``: float64[trials], the sum of what was seen of the event's steps, in clipping norms."""
    (((rate, noise, records), steps),) = (mechanisms([event]) or {}).items()
    found = lower_bound(out, present, rate, setting.delta, setting.level, records * steps)
    theory = PldAccountant(RELATION).epsilon([event], setting.delta)
    shows = found.epsilon >= _SHOWS * theory > 0
    share = f" ({found.epsilon / theory:.0%})" if theory else ""
    helps = "more trials" if theory else "a smaller delta"
    more = "" if shows else f": {helps}"
    return Row(
        name,
        f"no bound above ε {theory:.3f}",
        f"ε ≥ {found.epsilon:.3f}{share}{more}",
        found.mu * math.sqrt(steps) <= 1 / noise,
        {
            "theory": theory,
            "lower_bound": found.epsilon,
            "lower_bound_without_curve": found.without_curve,
            "level": setting.level,
        },
        shows=shows,
    )


def _crafted(values: int, clip: float) -> tuple[Vector, Matrix]:
    """The canary's direction, of length 1; and its mates: one against it, two across it."""
    canary = np.where(np.arange(values) % 2, -1.0, 1.0) / math.sqrt(values)
    across = np.random.default_rng(0).normal(size=(2, values))
    across -= np.outer(across @ canary, canary)
    across *= 3 * clip / np.linalg.norm(across, axis=1, keepdims=True)
    return canary, np.vstack([-5 * clip * canary, across])


def _with(canary: Vector, mates: Matrix, clip: float, has: int) -> Matrix:
    """The canary's records, so many, and its mates'."""
    return np.vstack([np.tile(canary * 1e3 * clip, (has, 1)), mates])


def _look(seen: Seen, canary: Vector, mates: Matrix, first: int, clip: float) -> float:
    """What is left of the released sum in the canary's direction, in clipping norms, without the drawn mates' part."""
    drawn = mates[[row - first for row in seen.drawn if row >= first]]
    norms = np.linalg.norm(drawn, axis=1, keepdims=True)
    return float((seen.released - (drawn * np.minimum(1, clip / norms)).sum(0)) @ canary) / clip
