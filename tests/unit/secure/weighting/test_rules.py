"""Counts within their bounds, and what weights are worth."""

from __future__ import annotations

from fractions import Fraction

import pytest

from fedsec_secure.errors import ConfigError
from fedsec_secure.weighting.rules import clip_count, effective_cohort


@pytest.mark.parametrize(("count", "clipped"), [(1, 10), (10, 10), (17, 17), (40, 40), (10**9, 40)])
def test_counts_are_clipped_to_the_plan(count, clipped):
    assert clip_count(count, 10, 40) == clipped


@pytest.mark.parametrize(("count", "low", "high"), [(0, 1, 5), (-3, 1, 5), (3, 0, 5), (3, 6, 5)])
def test_impossible_counts_and_bounds_are_refused(count, low, high):
    with pytest.raises(ConfigError):
        clip_count(count, low, high)


def test_effective_cohort_at_its_extremes():
    assert effective_cohort([7, 7, 7, 7]) == 4
    assert effective_cohort([3, 1]) == Fraction(16, 10)
    assert effective_cohort([10**6, 1, 1]) == pytest.approx(1, abs=1e-5)
    for weights in ([], [0, 1], [-1, 2]):
        with pytest.raises(ConfigError):
            effective_cohort(weights)
