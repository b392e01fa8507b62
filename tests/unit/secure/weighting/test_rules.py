"""Weights against brute force over every count that the bounds allow."""

from __future__ import annotations

import itertools

import pytest

from fedsec_secure.errors import ConfigError
from fedsec_secure.weighting.rules import (
    check_size_bounds,
    clip_count,
    effective_cohort,
    largest_share,
    least_effective_cohort,
)

BOUNDS = [(1, 1), (1, 5), (2, 3), (3, 6), (4, 4), (1, 7)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("cohort", [1, 2, 3, 4])
def test_the_least_effective_cohort_is_the_minimum_over_all_counts(low, high, cohort):
    """Over every cohort of at least the minimum, not only the smallest: one large site among many small ones counts."""
    least = min(
        effective_cohort(counts)
        for size in range(cohort, cohort + 3)
        for counts in itertools.combinations_with_replacement(range(low, high + 1), size)
    )
    assert least_effective_cohort(low, high, cohort) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("cohort", [1, 2, 3, 4])
def test_the_largest_share_is_the_maximum_over_all_counts(low, high, cohort):
    most = max(
        max(counts) / sum(counts)
        for size in range(cohort, cohort + 2)
        for counts in itertools.combinations_with_replacement(range(low, high + 1), size)
    )
    assert largest_share(low, high, cohort) == pytest.approx(most, rel=1e-12)


def test_the_cap_is_kept_exactly():
    check_size_bounds(10, 20, 3, 0.5)
    with pytest.raises(ConfigError, match=r"could claim 0\.512 of a round"):
        check_size_bounds(10, 21, 3, 0.5)


@pytest.mark.parametrize(("count", "clipped"), [(1, 10), (10, 10), (17, 17), (40, 40), (10**9, 40)])
def test_counts_are_clipped_to_the_plan(count, clipped):
    assert clip_count(count, 10, 40) == clipped


@pytest.mark.parametrize(("count", "low", "high"), [(0, 1, 5), (-3, 1, 5), (3, 0, 5), (3, 6, 5)])
def test_impossible_counts_and_bounds_are_refused(count, low, high):
    with pytest.raises(ConfigError):
        clip_count(count, low, high)


def test_effective_cohort_at_its_extremes():
    assert effective_cohort([7, 7, 7, 7]) == 4
    assert effective_cohort([10**6, 1, 1]) == pytest.approx(1, abs=1e-5)
    for weights in ([], [0, 1], [-1, 2]):
        with pytest.raises(ConfigError):
            effective_cohort(weights)
