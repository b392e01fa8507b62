"""The table against sixty digits, water-filling against every ceiling there is, and rules that no score gets round."""

from __future__ import annotations

import itertools
import math
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.errors import AbortError, ConfigError
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL, is_score, level_of
from fedsec_secure.weighting.influence import TABLE, Influence, ceiling, in_units
from fedsec_secure.weighting.rules import effective_cohort

LEVEL = st.one_of(st.integers(0, WORST_LEVEL), st.just(NO_SCORE))
CAP = st.fractions(min_value=Fraction(1, 5), max_value=1, max_denominator=100)


def rule(cap=Fraction(1, 2), bins=None, least=Fraction(1)) -> Influence:
    return Influence(bins or {}, Fraction(cap), Fraction(least))


def test_the_table_is_the_exponential_to_the_last_digit():
    with localcontext() as digits:
        digits.prec = 60
        expected = [
            int((Decimal(65536) * (-Decimal(level) / 20).exp()).to_integral_value(ROUND_HALF_EVEN))
            for level in range(WORST_LEVEL + 1)
        ]
    assert list(TABLE) == expected
    assert all(a > b > 0 for a, b in itertools.pairwise(TABLE))


@pytest.mark.parametrize(
    ("loss", "level"),
    [(0.0, 0), (-1.0, 0), (0.024, 0), (0.026, 1), (1.0, 20), (3.99, 80), (4.0, 80), (1e9, 80), (math.inf, NO_SCORE)],
)
def test_losses_are_clipped_to_levels(loss, level):
    assert level_of(loss) == level
    assert is_score(level)


def test_no_number_is_no_score():
    assert level_of(math.nan) == NO_SCORE
    assert not is_score(WORST_LEVEL + 1)
    assert not is_score(254)
    assert not is_score(-1)


@given(st.floats(0, 4))
def test_a_level_is_the_nearest_step(loss):
    assert abs(level_of(loss) / 20 - loss) <= 0.025 + 1e-9


def test_weights_are_as_the_paper_says_but_for_rounding():
    """Uncapped: w_i / w_j = bin_i / bin_j * exp(loss_j - loss_i)."""
    weights = rule(cap=1, bins={"a": 2}).weigh({"a": 20, "b": 7, "c": 40})
    assert weights["a"] / weights["b"] == pytest.approx(2 * math.exp(0.35 - 1.0), rel=1e-4)
    assert weights["c"] / weights["b"] == pytest.approx(math.exp(0.35 - 2.0), rel=1e-4)


@given(st.dictionaries(st.sampled_from("abcdefgh"), LEVEL, min_size=5), CAP, st.integers(1, 64))
def test_no_scores_and_no_bin_break_the_cap(scores, cap, size):
    weights = rule(cap, {"a": size}).weigh(scores)
    total = sum(weights.values())
    assert all(1 <= w <= cap * total for w in weights.values())
    assert effective_cohort(list(weights.values())) >= 1 / cap
    assert rule(cap).why_not(list(weights.values())) is None


@given(st.lists(st.integers(1, 400), min_size=5, max_size=9), CAP)
def test_the_ceiling_is_the_largest_that_keeps_the_cap(weights, cap):
    def keeps(c: int) -> bool:
        cut = [min(w, c) for w in weights]
        return max(cut) <= cap * sum(cut)

    found = ceiling(weights, cap)
    assert keeps(found)
    assert found == max(weights) or not keeps(found + 1)


@given(st.dictionaries(st.sampled_from("abcdef"), LEVEL, min_size=5), st.sampled_from("abcdef"))
def test_a_missing_score_weighs_as_the_worst_one(scores, site):
    assert rule().weigh(scores | {site: NO_SCORE}) == rule().weigh(scores | {site: WORST_LEVEL})


@given(st.dictionaries(st.sampled_from("abcdef"), LEVEL, min_size=5), CAP)
def test_a_better_score_never_weighs_less(scores, cap):
    """Of a site's share: a lie pays, up to the cap and no further."""
    site = min(scores)
    shares = []
    for level in range(0, WORST_LEVEL + 1, 8):
        weights = rule(cap).weigh(scores | {site: level})
        shares.append(Fraction(weights[site], sum(weights.values())))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= cap


def test_the_order_of_statements_changes_nothing():
    scores = {"c": 3, "a": 9, "b": 70, "d": 1}
    assert rule().weigh(scores) == rule().weigh(dict(sorted(scores.items())))


def test_survivors_that_break_the_bounds_are_refused():
    weights = rule(Fraction(2, 5)).weigh({"a": 0, "b": 10, "c": 80, "d": 80, "e": 80})
    assert rule(Fraction(2, 5)).why_not(list(weights.values())) is None
    left = [weights[s] for s in "acde"]
    assert "would weigh" in (rule(Fraction(2, 5)).why_not(left) or "")
    assert "equal sites" in (rule(1, least=Fraction(7, 2)).why_not(left) or "")
    assert rule(1, least=Fraction(1)).why_not(left) is None


def test_too_few_sites_for_the_cap():
    with pytest.raises(AbortError, match="more sites are needed"):
        rule(Fraction(1, 5)).weigh({"a": 1, "b": 1, "c": 1, "d": 1})


@pytest.mark.parametrize(("cap", "size"), [(0, 1), (Fraction(3, 2), 1), (Fraction(1, 2), 0), (Fraction(1, 2), 65)])
def test_rules_that_are_none(cap, size):
    with pytest.raises(ConfigError):
        rule(cap, {"a": size})


# ---- units, where whoever sums multiplies ciphertexts by them


@given(st.dictionaries(st.sampled_from("abcdefgh"), LEVEL, min_size=5), CAP, st.integers(16, 362))
def test_units_keep_the_cap_and_never_pass_their_number(scores, cap, units):
    whole = Influence({"a": 64}, cap, Fraction(1), units).weigh(scores)
    assert whole.keys() == scores.keys()
    assert all(w >= 1 for w in whole.values())
    assert sum(whole.values()) <= units
    assert max(whole.values()) <= cap * sum(whole.values())


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 1 << 22), min_size=2, max_size=60))
def test_units_are_the_nearest_that_a_site_can_have(weights):
    units = 256
    found, total, dealt = in_units(weights, units), sum(weights.values()), units - len(weights)
    for site, weight in weights.items():
        exact = Fraction(weight * dealt, total)
        assert abs(found[site] - exact) <= Fraction(1, 2) or (found[site] == 1 and exact < 1)


def test_too_few_units_are_refused():
    assert in_units(dict.fromkeys(range(128), 5), 256) == dict.fromkeys(range(128), 1)
    with pytest.raises(ConfigError, match="256 units of weight are too few for 129 sites"):
        in_units(dict.fromkeys(range(129), 5), 256)
