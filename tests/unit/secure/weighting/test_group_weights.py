"""Group weights: the table, the cap on one site's share, the effective cohort, and the server's step."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.errors import AbortError, ConfigError
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL
from fedsec_secure.weighting.groups import STEPS, GroupInfluence, best_step, shares, site_weights
from fedsec_secure.weighting.influence import TABLE
from fedsec_secure.weighting.rules import effective_cohort

LEVEL = st.one_of(st.integers(0, WORST_LEVEL), st.just(NO_SCORE))
GROUPS = st.lists(st.tuples(st.integers(3, 9), LEVEL), min_size=2, max_size=6)


def rule(cap=Fraction(1), least=1) -> GroupInfluence:
    return GroupInfluence(Fraction(cap), Fraction(least))


def test_a_group_weighs_by_its_sites_and_its_loss():
    weights = rule().weigh([3, 4], [0, 20])
    assert weights == (TABLE[0], TABLE[20])
    first, second = shares([3, 4], weights)
    assert float(second / first) == pytest.approx(4 / 3 * math.exp(-1), rel=1e-4)
    assert first + second == 1


def test_a_group_without_a_loss_weighs_as_the_worst():
    assert rule().weigh([3, 3], [NO_SCORE, 10]) == rule().weigh([3, 3], [WORST_LEVEL, 10])


@given(GROUPS, st.fractions(Fraction(1, 6), 1, max_denominator=60), st.fractions(1, 6, max_denominator=10))
def test_cap_and_effective_cohort_hold_whatever_the_losses(groups, cap, least):
    survivors, levels = zip(*groups, strict=True)
    weights = rule(cap, least).weigh(survivors, levels)
    each = [w for w, n in zip(weights, survivors, strict=True) for _ in range(n)]
    assert max(each) <= cap * sum(each)
    assert effective_cohort(each) >= least
    full = rule().weigh(survivors, levels)
    most = max(weights)
    assert weights == tuple(min(w, most) for w in full)


@given(GROUPS, st.fractions(Fraction(1, 6), 1, max_denominator=60), st.fractions(1, 6, max_denominator=10))
def test_no_more_is_cut_than_it_takes(groups, cap, least):
    """The next higher ceiling breaks one of the two, unless nothing is cut."""
    survivors, levels = zip(*groups, strict=True)
    full, weights = rule().weigh(survivors, levels), rule(cap, least).weigh(survivors, levels)
    if weights != full:
        higher = [min(w, max(weights) + 1) for w in full]
        each = [w for w, n in zip(higher, survivors, strict=True) for _ in range(n)]
        assert max(each) > cap * sum(each) or effective_cohort(each) < least


def test_too_few_sites_for_the_cap():
    with pytest.raises(AbortError, match="6 sites cannot each weigh at most 0\\.16"):
        rule(Fraction(4, 25)).weigh([3, 3], [0, 0])
    with pytest.raises(AbortError, match="worth 7 equal sites"):
        rule(least=7).weigh([3, 3], [0, 0])


def test_malformed_rules_and_groups():
    for cap, least in ((0, 1), (2, 1), (1, Fraction(1, 2))):
        with pytest.raises(ConfigError):
            rule(cap, least)
    for survivors, levels in (([3], [1, 2]), ([], []), ([3, 0], [1, 1])):
        with pytest.raises(ConfigError):
            rule().weigh(survivors, levels)


def test_weights_by_site():
    assert site_weights([("c", "a"), ("b",)], (7, 9)) == {"a": 7, "b": 9, "c": 7}
    assert list(site_weights([("c", "a"), ("b",)], (7, 9))) == ["a", "b", "c"]


class TestSteps:
    def test_the_smallest_loss_wins(self):
        assert best_step(dict.fromkeys(STEPS, 2.0) | {Fraction(3, 2): 1.9}) == Fraction(3, 2)

    def test_ties_go_to_the_one_nearest_one_then_the_smaller(self):
        assert best_step(dict.fromkeys(STEPS, 2.0)) == 1
        assert best_step({Fraction(3, 4): 1.0, Fraction(5, 4): 1.0, Fraction(1): 2.0}) == Fraction(3, 4)

    def test_what_is_no_number_never_wins(self):
        assert best_step({Fraction(1, 2): math.nan, Fraction(5, 4): 3.0, Fraction(1): math.inf}) == Fraction(5, 4)
        assert best_step(dict.fromkeys(STEPS, math.nan)) == 1
