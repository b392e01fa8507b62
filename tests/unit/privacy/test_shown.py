"""An ε as it is printed is never below the bound."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.privacy.shown import shown_epsilon, shown_rest


@given(value=st.floats(1e-6, 1e9), digits=st.integers(1, 6), decimals=st.none() | st.integers(0, 6))
def test_it_is_rounded_up_and_by_less_than_one_digit(value, digits, decimals):
    exact, shown = Decimal(repr(value)), Decimal(shown_epsilon(value, digits, decimals=decimals))
    last = exact.adjusted() - digits + 1 if decimals is None else -decimals
    assert exact <= shown < exact + Decimal(1).scaleb(last)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.1, "0.1"), (8.0, "8"), (2.1011, "2.102"), (9.9991, "10"), (math.inf, "∞")]
)
def test_what_is_short_stays_so(value, text):
    assert shown_epsilon(value) == text


@pytest.mark.parametrize("value", [1e30, 1.7e308])
def test_no_float_is_too_large_for_decimals(value):
    assert shown_epsilon(value, decimals=3) == f"{Decimal(repr(value)):f}.000"


@given(value=st.just(0.0) | st.floats(1e-9, 1e9), digits=st.integers(1, 6))
def test_what_is_left_is_rounded_down_and_by_less_than_one_digit(value, digits):
    exact, shown = Decimal(repr(value)), Decimal(shown_rest(value, digits))
    assert exact - Decimal(1).scaleb(exact.adjusted() - digits + 1) < shown <= exact
