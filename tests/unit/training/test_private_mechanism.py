"""The noisy sum: on its grid, with as much noise as its sensitivity asks for, from nobody's seed."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from fedsec.privacy.mechanisms import SMOOTHING
from fedsec.training.private.mechanism import GRID, MATES, MOVED, SLACK, NoisySum
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.discrete_gaussian import DiscreteGaussian


@pytest.mark.parametrize(
    ("bound", "noise", "slack"),
    [(1.0, 1.0, SLACK), (0.1, 2.5, SLACK), (8.0, 0.5, Fraction(0)), (2.0**-64, 1.0, SLACK)],
)
def test_the_noise_has_the_deviation_that_the_sensitivity_asks_for(bound, noise, slack):
    size = 200_000
    mechanism = NoisySum(bound, noise, size, slack)
    at_least = noise * bound * (1 + float(slack) + math.sqrt(size) / GRID)
    assert at_least <= mechanism.deviation <= at_least * (1 + 2e-6)
    drawn = mechanism.release({"a": torch.zeros(size, dtype=torch.float64)})["a"].numpy()
    # Two-sided: a correct build fails once in 10^9 runs, one with 2 % less noise always.
    statistic = (drawn**2).sum() / mechanism.deviation**2
    low, high = stats.chi2(size).ppf([5e-10, 1 - 5e-10])
    assert low < statistic < high
    assert not low < 0.98**2 * statistic < high


@pytest.mark.parametrize("slack", [Fraction(0), SLACK])
@pytest.mark.parametrize("noise", [0.125, 1.0, 0.7, 300.0])
def test_the_noise_is_that_of_the_gaussian_it_is_charged_as_and_what_smoothing_takes(noise, slack):
    """Exactly, where rounding's part of the sensitivity is a whole number: sqrt(d) for d = 9."""
    sigma = Fraction(NoisySum(1.0, noise, 9, slack).sigma)
    charged = Fraction(noise) ** 2 * (GRID * (1 + slack) + 3) ** 2
    assert charged + SMOOTHING <= sigma**2 < (charged + SMOOTHING) * (1 + Fraction(1, 1 << 51))


def test_all_mates_together_move_a_sum_by_no_more_than_the_slack():
    """`MOVED` is what the tests of the loop measure, `MATES` what a round refuses to exceed (twice the expected)."""
    assert MATES * MOVED <= SLACK


def test_results_are_whole_steps_of_the_grid_around_the_sum():
    total = {"a": torch.tensor([[0.25, -3.0]], dtype=torch.float64), "b": torch.full((3,), 1e3, dtype=torch.float64)}
    released = NoisySum(0.5, 1.0, 5).release(total)
    for name, tensor in released.items():
        assert tensor.shape == total[name].shape
        steps = tensor / (0.5 / GRID)
        assert torch.equal(steps, steps.round())
        assert (tensor - total[name]).abs().max() < 9 * 0.5 * 1.01


def test_the_sum_is_put_on_the_nearest_point_of_the_grid(monkeypatch):
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, size: np.zeros(size, dtype=np.int64))
    steps = torch.tensor([-2.4, -0.6, 0.0, 0.4, 0.6, 7.0, 1e6 + 0.51], dtype=torch.float64)
    released = NoisySum(1.0, 1.0, len(steps)).release({"a": steps / GRID})["a"] * GRID
    assert released.tolist() == [-2, -1, 0, 0, 1, 7, 1e6 + 1]


def test_two_sums_of_neighbours_differ_by_no_more_steps_than_the_noise_is_sized_for():
    """The worst case of rounding: every coordinate of one sum just below a half step, of the other just above."""
    bound, size = 1.0, 5000
    step = bound / GRID
    low = torch.full((size,), step * (0.5 - 1e-6), dtype=torch.float64)
    high = low + bound / math.sqrt(size)
    moved = torch.round(high / step) - torch.round(low / step)
    sensitivity = float(NoisySum(bound, 1.0, size, Fraction(0)).sigma)
    assert bound / step < float(moved.norm()) <= sensitivity


def test_no_seed_changes_the_noise():
    mechanism, drawn = NoisySum(1.0, 1.0, 64), []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        random.seed(42)
        drawn.append(mechanism.release({"a": torch.zeros(64, dtype=torch.float64)})["a"])
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(
    ("bound", "noise", "size"),
    [
        (0.0, 1.0, 4),
        (1.5 * GRID * 5e-324, 1.0, 4),  # its grid's step would be two thirds of what it should be, and the noise too
        (math.inf, 1.0, 4),
        (math.nan, 1.0, 4),
        (1.0, 0.0, 4),
        (1.0, math.nan, 4),
        (1.0, 1e9, 4),
        (1, 1, 0),
    ],
)
def test_a_mechanism_without_a_bound_or_noise_is_refused(bound, noise, size):
    with pytest.raises(ConfigError, match=r"expected a bound from 2\^-64, a noise multiplier"):
        NoisySum(bound, noise, size)
