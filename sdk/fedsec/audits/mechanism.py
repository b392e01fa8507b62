"""Does a private step do what it is charged for? Worst-case neighbours and exact tests, on the real step.

What is charged: Gaussian noise of the plan's multiplier on the sum of a Poisson sample, of which one unit moves at most
the clipping norm. Five kinds of rows try to refute it:

* epsilon: an auditor guesses from the released sum whether one unit is there (`epsilons`): of a step on all units, on
  a sample of units, and on a sample of records, of which a patient has several.
* noise: a site whose units have gradients of zero releases nothing else. Its variance, of all and of each coordinate,
  its law, and whether steps, tensors or coordinates have anything to do with each other.
* sampling: who is drawn at that site: how often, how many at a time, and whether units or steps depend on each other.
  Shuffled batches of a fixed size fail, whatever their noise.
* shared noise: epsilon and noise again, of steps whose noise sites add up; epsilon of several such steps too.
* one unit: how far the gradients of crafted records move the sum that is noised (`path`); no chance is involved.

Every test is exact or errs on the safe side. Bounds on epsilon hold with the confidence that is asked for, all rows
together; the tests of noise and sampling have power to spare, and each is held to the level `LEVEL`. So a correct build
is refuted by some row with probability at most 1 - confidence + 10^-7.
"""

from __future__ import annotations

import math
import random
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from fedsec.audits import epsilons, path
from fedsec.audits.crafted import Matrix, Seen, dimension, dp_of, take_shares, take_steps, tiny_base
from fedsec.audits.epsilons import COLLUDING, SURVIVORS, shared_step
from fedsec.audits.outcome import Row, Watch, told, unseen
from fedsec.audits.setting import LORA, Setting
from fedsec.plan.specs import DpSpec
from fedsec.training.private.mechanism import GRID, SLACK

LEVEL: Final = 1e-8
"""Of each exact test: the probability with which it refutes a correct build."""
_MOST_UNITS: Final = 400
_LAW_VALUES: Final = 50_000
"""Of the noise's values, how many its law is tested on."""


def audit(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """All rows; about 1.5 ms a step on one slow core."""
    rows = [*epsilons.audit(setting, watch), *noise_and_sampling(setting, watch), *shared_noise(setting, watch)]
    return [*rows, seeds(setting), *path.audit(watch)]


def noise_and_sampling(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """Exact tests on steps that release nothing but noise."""
    released, drawn = _idle(setting, watch)
    return [*_noise(released), *_sampling(setting.sampling_rate, drawn)]


def shared_noise(setting: Setting, watch: Watch = unseen) -> list[Row]:
    """The tests of noise on a step whose noise three sites add: what the two release that can be counted on."""
    step = shared_step(setting, dimension(tiny_base(), LORA))
    shares = take_shares(LORA, step, [np.zeros((1, step.dimension))] * (SURVIVORS - COLLUDING))
    trials = max(400, setting.trials // 12) // 2 * 2
    idle = told(islice(shares, trials), trials, "shared steps of nothing but noise", watch)
    released = np.vstack([seen.released for seen in idle]) / (step.grid * step.noise_multiplier * step.sensitivity)
    return _noise(released, "shared noise")


def sensitivity_of_release(dp: DpSpec, values: int) -> float:
    """What the noise of a step that releases so many values is sized for: see `training.private.mechanism`."""
    return dp.clipping_norm * (1 + float(SLACK) + (math.isqrt(values - 1) + 1) / GRID)


def _idle(setting: Setting, watch: Watch) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Steps of a site whose gradients are zero: float64[t, d] in standard deviations, and who was drawn, bool[t, n]."""
    base, trials = tiny_base(), max(2000, setting.trials // 6) // 2 * 2
    units = min(_MOST_UNITS, max(6, round(3 / setting.sampling_rate) // 2 * 2))
    dp = dp_of(setting.noise_multiplier, setting.sampling_rate, trials, setting.delta)
    values = dimension(base, LORA)
    released, drawn = np.empty((trials, values)), np.zeros((trials, units), np.bool_)
    steps = told(take_steps(base, LORA, dp, np.zeros((units, values))), trials, "steps of nothing but noise", watch)
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
    sums = (released**2).sum(0)
    law = stats.chi2(len(released))
    each = np.minimum(1.0, 2 * sums.size * np.minimum(law.cdf(sums), law.sf(sums)).min())
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
            low <= squares / count <= high,  # which no number that is none is
            {"ratio": squares / count, "p": variance, "level": LEVEL},
        ),
        _test(
            f"{what}: law", "a Gaussian's", {"Kolmogorov-Smirnov": shape, "variance of each coordinate": float(each)}
        ),
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
    worst = float(np.min(list(p_values.values()))) * len(p_values)  # not a number where one of them is not
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
