"""Areas and intervals by hand and by simulation, what bounds them, and levels that can show nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedsec.audits.levels import LEAKS, Levels, curve_of, largest_area
from fedsec_secure.accounting.events import GaussianEvent
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL

SMALL = GaussianEvent(20.0)
"""Epsilon 0.16: an area of 0.51 at most."""
SPREAD = list(range(20, 40))


def test_the_area_counts_pairs_and_halves_ties():
    low, high, area = Levels([1, 2], [2, 3]).area(0.05)
    assert area == 3.5 / 4
    assert low < area < high


@pytest.mark.parametrize(("lower", "higher", "area"), [([80] * 30, [80] * 30, 0.5), ([9] * 30, [11] * 30, 1.0)])
def test_an_interval_has_a_width_where_nothing_varies(lower, higher, area):
    low, high, found = Levels(lower, higher).area(0.05)
    assert found == area
    assert high - low > 0.05


def test_an_interval_is_the_same_from_the_other_side():
    low, high, area = Levels(SPREAD, [level + 8 for level in SPREAD]).area(0.05)
    other = Levels([level + 8 for level in SPREAD], SPREAD).area(0.05)
    assert other == pytest.approx((1 - high, 1 - low, 1 - area))


@pytest.mark.parametrize("apart", [0.0, 1.0, 2.5])
def test_intervals_cover_the_truth(apart):
    """Of rounded normal levels. 95 % asked; 500 simulations, so 90 % is far beyond chance."""
    rng = np.random.default_rng(0)

    def levels(mean: float, count: int) -> list[int]:
        return [round(x) for x in rng.normal(mean, 5.0, count)]

    truth = Levels(levels(40, 5000), levels(40 + 5 * apart, 5000)).area(0.05)[2]
    covered = 0
    for _ in range(500):
        low, high, _area = Levels(levels(40, 20), levels(40 + 5 * apart, 20)).area(0.05)
        covered += low <= truth <= high
    assert covered >= 450


@pytest.mark.parametrize(
    ("lower", "higher", "said"),
    [
        ([WORST_LEVEL] * 20, [WORST_LEVEL] * 20, "40 of 40 levels are at an end of the scale"),
        ([NO_SCORE] * 20, SPREAD, "20 of 40 levels are at an end"),
        ([0, 0, 0, *SPREAD[3:]], [0, WORST_LEVEL, *SPREAD[2:]], "5 of 40 levels are at an end"),
        ([26] * 20, [26] * 18 + [27, 25], "38 of 40 levels are 26"),
    ],
)
def test_levels_that_cannot_tell_are_neither_privacy_nor_a_control(lower, higher, said):
    levels = Levels(lower, higher)
    for row in (levels.bounded("private", SMALL, 1e-5, 0.05), levels.control("control", 0.05)):
        assert not row.held
        assert said in row.got
        assert "nothing measured" in row.got


def test_two_levels_that_tell_all_are_not_flat():
    assert Levels([26] * 20, [27] * 20).control("control", 0.05).held


def test_a_control_leaks_for_sure_or_does_not_hold():
    assert not Levels(SPREAD, [level + 2 for level in SPREAD]).control("control", 0.05).held
    row = Levels(SPREAD, [level + 15 for level in SPREAD]).control("control", 0.05)
    assert row.held
    assert row.numbers["low"] > LEAKS


def test_what_is_above_the_bound_does_not_hold_in_either_direction():
    worse = [level + 15 for level in SPREAD]
    assert Levels(SPREAD, SPREAD).bounded("private", SMALL, 1e-5, 0.05).held
    assert not Levels(SPREAD, worse).bounded("private", SMALL, 1e-5, 0.05).held
    assert not Levels(worse, SPREAD).bounded("private", SMALL, 1e-5, 0.05).held


def test_the_bound_at_its_ends():
    assert largest_area([(0.0, 0.0)]) == pytest.approx(0.5, abs=1e-3)
    assert largest_area([(0.0, 0.1)]) == pytest.approx(0.5 + 0.1 - 0.1**2 / 2, abs=1e-3)
    assert largest_area([(40.0, 0.0)]) == pytest.approx(1.0)
    assert largest_area([(math.inf, 1e-5)]) == 1.0
    areas = [largest_area([(e, 1e-5)]) for e in (0.1, 0.5, 1.0, 2.0, 8.0)]
    assert areas == sorted(areas)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_randomised_response_comes_close_to_the_bound_and_not_above(epsilon):
    """Its ROC curve has one corner, which lies on the bound."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    area = right * right + 2 * right * (1 - right) / 2
    assert area <= largest_area([(epsilon, 0.0)])
    assert largest_area([(epsilon, 0.0)]) == pytest.approx(right, abs=1e-3)


@pytest.mark.parametrize("noise", [1.08, 20.0])
def test_of_one_gaussian_the_bound_is_nearly_what_it_allows(noise):
    exact = stats.norm.cdf(1 / noise / math.sqrt(2))
    assert exact <= largest_area(curve_of(GaussianEvent(noise))) <= exact + 2e-3
