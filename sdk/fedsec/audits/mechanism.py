"""Does a private step do what it is charged for? Worst-case neighbours and exact tests, on the real step.

What is charged: Gaussian noise of the plan's multiplier on the sum of a Poisson sample, of which one unit moves at most
the clipping norm. Five kinds of rows try to refute it:

* epsilon: an auditor who knows everything but whether one unit, the canary, is there, guesses that from the released
  sum (`bounds`). The canary's gradient is a thousand clipping norms long and lies in all tensors; one of its mates
  pulls the other way, as far as it is let.
* noise: a site whose units have gradients of zero releases nothing else. Its variance, its law, and whether steps,
  tensors or coordinates have anything to do with each other.
* sampling: who is drawn at that site: how often, how many at a time, and whether units or steps depend on each other.
  Shuffled batches of a fixed size fail, whatever their noise.
* shared noise: epsilon and noise again, of steps whose noise sites add up.
* one unit: how far the gradients of crafted records move the sum that is noised (`path`); no chance is involved.

Every test is exact or errs on the safe side. Bounds on epsilon hold with the confidence that is asked for, all rows
together; the tests of noise and sampling have power to spare, and each is held to the level `LEVEL`. So a correct build
is refuted by some row with probability at most 1 - confidence + 10^-7.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from fedsec.audits import path
from fedsec.audits.bounds import Bound, confidence_level, lower_bound
from fedsec.audits.crafted import Matrix, Seen, Vector, dimension, dp_of, take_shares, take_steps, tiny_base
from fedsec.audits.outcome import Row, Watch, unseen
from fedsec.plan.cost import DEFAULT_DELTA, RELATION
from fedsec.plan.specs import DpSpec, LoraSpec
from fedsec.privacy.accountant import PldAccountant, steps_of
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.private.mechanism import GRID, SLACK
from fedsec_secure.errors import ConfigError

LORA: Final = LoraSpec(strategy="ffa", rank=1, alpha=1.0, dropout=0.0, targets=("q_proj",))
"""Two tensors of 16: the smallest step in which clipping tensor by tensor differs from clipping all."""
LEVEL: Final = 1e-8
"""Of each exact test: the probability with which it refutes a correct build."""
_SURVIVORS, _COLLUDING = 3, 1
"""Sites in a shared step, and how many of them tell their noise."""
_SHOWS: Final = 0.5
"""Of the theory's epsilon: with bounds below about this share, half the noise would hold as well."""
_MOST_UNITS: Final = 400
_LAW_VALUES: Final = 50_000
"""Of the noise's values, how many its law is tested on."""


@dataclass(frozen=True)
class Setting:
    """What is audited, and how hard. ConfigError for numbers that no step has or no audit can use.

    Attributes:
        noise_multiplier: z, standard deviation of the noise over the clipping norm.
        sampling_rate: q of the Poisson sampling.
        delta: at which epsilon is given.
        trials: steps with the canary, and as many without, on a sample; a third as many each on all units, and a
            sixth shared ones.
        confidence: of the lower bounds on epsilon, all rows together.
    """

    noise_multiplier: float = 1.0
    sampling_rate: float = 0.5
    delta: float = DEFAULT_DELTA
    trials: int = 30_000
    confidence: float = 0.99

    def __post_init__(self) -> None:
        confidence_level(self.confidence)
        if not 400 <= self.trials <= 100_000:
            raise ConfigError(
                f"trials: expected from 400 to 100000, found {self.trials}: use 30000, or more for a tighter bound"
            )
        if not (0.125 <= self.noise_multiplier <= 1000 and 1e-3 <= self.sampling_rate <= 1 and 0 < self.delta < 0.1):
            raise ConfigError(
                "audit: expected a noise multiplier from 0.125 to 1000, a sampling rate from 0.001 to 1 and a delta "
                f"below 0.1, found {self.noise_multiplier}, {self.sampling_rate} and {self.delta}: a step outside "
                "these has an epsilon that no number of trials would show"
            )

    @property
    def level(self) -> float:
        """Of one row that bounds epsilon."""
        return confidence_level(self.confidence) / (3 if self.sampling_rate < 1 else 2)


def audit(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """All rows; about 1.5 ms a step on one slow core."""
    rows = [*epsilons(setting, watch), *noise_and_sampling(setting, watch), seeds(setting), *path.audit(watch)]
    return [*rows, *shared(setting, watch)]


def epsilons(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """A lower bound on epsilon beside what is reported: of a step on all units, and on a Poisson sample."""
    rows = [_epsilon(setting, 1.0, setting.trials // 3, watch)]
    if setting.sampling_rate < 1:
        rows.append(_epsilon(setting, setting.sampling_rate, setting.trials, watch))
    return rows


def noise_and_sampling(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """Exact tests on steps that release nothing but noise."""
    released, drawn = _idle(setting, watch)
    return [*_noise(released), *_sampling(setting.sampling_rate, drawn)]


def shared(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """The same of a step whose noise three sites add, of which two can be counted on: what these two release."""
    step = _shared_step(setting, dimension(tiny_base(), LORA))
    told = take_shares(LORA, step, [np.zeros((1, step.dimension))] * (_SURVIVORS - _COLLUDING))
    trials = max(400, setting.trials // 12) // 2 * 2
    idle = _told(islice(told, trials), trials, "shared steps of nothing but noise", watch)
    released = np.vstack([seen.released for seen in idle]) / (step.grid * step.noise_multiplier * step.sensitivity)
    return [_shared_epsilon(setting, watch), *_noise(released, "shared noise")]


def _shared_step(setting: Setting, values: int, rate: float = 1.0) -> DistributedStep:
    return DistributedStep(rate, setting.noise_multiplier, 1.0, 1 << 16, values, _SURVIVORS, _COLLUDING)


def _shared_epsilon(setting: Setting, watch: Watch) -> Row:
    trials = setting.trials // 6
    step = _shared_step(setting, dimension(tiny_base(), LORA))
    canary, mates = _crafted(step.dimension, step.clip)

    def trial(world: str, gradients: Matrix) -> Vector:
        steps = islice(take_shares(LORA, step, [gradients, mates]), trials)
        told = _told(steps, trials, f"shared steps, canary {world}", watch)
        first = len(gradients) - len(mates)
        return np.array([_look(seen, canary, np.vstack([mates, mates]), first, step.clip) for seen in told])

    out, present = trial("out", mates), trial("in", np.vstack([canary * 1e3 * step.clip, mates]))
    found = lower_bound(out, present, 1.0, setting.delta, setting.level)
    theory = PldAccountant(RELATION).epsilon([step.event], setting.delta)
    return _bounded("ε of a shared step on all units", found, theory, setting)


def sensitivity_of_release(dp: DpSpec, values: int) -> float:
    """What the noise of a step that releases so many values is sized for: see `training.private.mechanism`."""
    return dp.clipping_norm * (1 + float(SLACK) + (math.isqrt(values - 1) + 1) / GRID)


def _epsilon(setting: Setting, rate: float, trials: int, watch: Watch) -> Row:
    base = tiny_base()
    dp = dp_of(setting.noise_multiplier, rate, trials, setting.delta)
    canary, mates = _crafted(dimension(base, LORA), dp.clipping_norm)
    where = "all units" if rate == 1 else f"a sample of {rate:g}"

    def trial(world: str, gradients: Matrix) -> Vector:
        steps = take_steps(base, LORA, dp, gradients)
        first = len(gradients) - len(mates)
        told = _told(steps, trials, f"steps on {where}, canary {world}", watch)
        return np.array([_look(seen, canary, mates, first, dp.clipping_norm) for seen in told])

    out, present = trial("out", mates), trial("in", np.vstack([canary * 1e3 * dp.clipping_norm, mates]))
    found = lower_bound(out, present, rate, setting.delta, setting.level)
    theory = PldAccountant(RELATION).epsilon([steps_of(rate, setting.noise_multiplier, 1)], setting.delta)
    return _bounded(f"ε of a step on {where}", found, theory, setting)


def _bounded(name: str, found: Bound, theory: float, setting: Setting) -> Row:
    shows = found.epsilon >= _SHOWS * theory
    share = f" ({found.epsilon / theory:.0%})" if theory else ""
    more = "" if shows else ": more trials"
    return Row(
        name,
        f"no bound above ε {theory:.3f}",
        f"ε ≥ {found.epsilon:.3f}{share}{more}",
        found.mu <= 1 / setting.noise_multiplier,
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


def _look(seen: Seen, canary: Vector, mates: Matrix, first: int, clip: float) -> float:
    """What is left of the released sum in the canary's direction, in clipping norms, without the drawn mates' part."""
    drawn = mates[[row - first for row in seen.drawn if row >= first]]
    norms = np.linalg.norm(drawn, axis=1, keepdims=True)
    return float((seen.released - (drawn * np.minimum(1, clip / norms)).sum(0)) @ canary) / clip


def _idle(setting: Setting, watch: Watch) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Steps of a site whose gradients are zero: float64[t, d] in standard deviations, and who was drawn, bool[t, n]."""
    base, trials = tiny_base(), max(2000, setting.trials // 6) // 2 * 2
    units = min(_MOST_UNITS, max(6, round(3 / setting.sampling_rate) // 2 * 2))
    dp = dp_of(setting.noise_multiplier, setting.sampling_rate, trials, setting.delta)
    values = dimension(base, LORA)
    released, drawn = np.empty((trials, values)), np.zeros((trials, units), np.bool_)
    steps = _told(take_steps(base, LORA, dp, np.zeros((units, values))), trials, "steps of nothing but noise", watch)
    for number, seen in enumerate(steps):
        released[number] = seen.released
        drawn[number, list(seen.drawn)] = True
    return released / (setting.noise_multiplier * sensitivity_of_release(dp, values)), drawn


def _noise(released: Matrix, what: str = "noise") -> list[Row]:
    count = released.size
    squares = float((released**2).sum())
    law = stats.chi2(count)
    variance = min(1.0, 2 * min(float(law.cdf(squares)), float(law.sf(squares))))
    low, high = float(law.ppf(LEVEL / 2)) / count, float(law.isf(LEVEL / 2)) / count
    shape = float(stats.kstest(released.reshape(-1)[:_LAW_VALUES], "norm").pvalue)
    middle = released.shape[1] // 2
    pairs = {
        "steps": (released[0::2], released[1::2]),
        "tensors": (released[:, :middle], released[:, middle:]),
        "values": (released[:, 0::2], released[:, 1::2]),
    }
    linked = {what: float(stats.pearsonr(*(side.reshape(-1) for side in two)).pvalue) for what, two in pairs.items()}
    return [
        Row(
            f"{what}: variance, relative",
            f"{low:.4f} to {high:.4f}",
            f"{squares / count:.4f} over {count} values",
            variance >= LEVEL,
            {"ratio": squares / count, "p": variance, "level": LEVEL},
        ),
        _test(f"{what}: law", "a Gaussian's", {"Kolmogorov-Smirnov": shape}),
        _test(f"{what}: independent", "no correlation", linked),
    ]


def _sampling(rate: float, drawn: npt.NDArray[np.bool_]) -> list[Row]:
    units = drawn.shape[1]
    sizes, law = drawn.sum(1), stats.binom(units, rate)
    usual = abs(np.arange(units + 1) - units * rate) <= 0.5 * max(1.0, math.sqrt(units * rate * (1 - rate)))
    both, twice = drawn[:, 0::2] & drawn[:, 1::2], drawn[0::2] & drawn[1::2]
    return [
        _test(
            "sampling: rate", f"chance {rate:g} for each",
            {"draws": _binomial(drawn, rate)},
        ),
        _test(
            "sampling: batch sizes", "binomial",
            {
                "usual": _binomial(usual[sizes], float(law.pmf(np.flatnonzero(usual)).sum())),
                "empty": _binomial(sizes == 0, float(law.pmf(0))),
            },
        ),
        _test(
            "sampling: independent", f"chance {rate**2:g} for two",
            {"units": _binomial(both, rate**2), "steps": _binomial(twice, rate**2)},
        ),
    ]  # fmt: skip


def _binomial(hits: npt.NDArray[np.bool_], chance: float) -> float:
    """The exact two-sided p-value of so many hits."""
    return float(stats.binomtest(int(hits.sum()), hits.size, min(1.0, chance)).pvalue)


def _test(name: str, expected: str, p_values: dict[str, float]) -> Row:
    """Held where no p-value is below its share of the level."""
    worst = min(p_values.values()) * len(p_values)
    got = "p: " + ", ".join(f"{what} {p:.2g}" for what, p in p_values.items())
    return Row(name, expected, got, worst >= LEVEL, {"p": min(1.0, worst), "level": LEVEL})


def seeds(setting: Setting) -> Row:
    """Two runs from the same seeds of all generators that a process has."""
    base = tiny_base()
    dp = dp_of(setting.noise_multiplier, 0.5, 1, setting.delta)
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    found: list[Seen] = []
    try:
        for _ in range(2):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            found.extend(take_steps(base, LORA, dp, np.zeros((_MOST_UNITS, dimension(base, LORA)))))
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
    one, two = found
    same = [
        what
        for what, equal in (("noise", np.array_equal(one.released, two.released)), ("sample", one.drawn == two.drawn))
        if equal
    ]
    return Row(
        "no seed repeats a step",
        "others each time",
        f"the same {' and '.join(same)}" if same else "other noise, another sample",
        not same,
    )


def _told(steps: Iterator[Seen], total: int, what: str, watch: Watch) -> Iterator[Seen]:
    for done, seen in enumerate(steps, start=1):
        if done % 50 == 0 or done == total:
            watch(what, done, total)
        yield seen
