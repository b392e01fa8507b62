"""What a published score tells: areas by hand, the bound against simulation, and the audit itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedsec.audits.scores import Sites, area_under, audit, largest_area, notes
from fedsec_secure.errors import ConfigError


def test_the_area_counts_pairs_and_halves_ties():
    low, area, high = area_under(np.array([1.0, 2.0]), np.array([2.0, 3.0]), 0.05)
    assert area == 3.5 / 4
    assert low <= area <= high


def test_the_bound_at_its_ends():
    assert largest_area(0.0, 0.0) == pytest.approx(0.5)
    assert largest_area(0.0, 0.1) == pytest.approx(0.5 + 0.1 - 0.1**2 / 2)
    assert largest_area(40.0, 0.0) == pytest.approx(1.0)
    areas = [largest_area(e, 1e-5) for e in (0.1, 0.5, 1.0, 2.0, 8.0)]
    assert areas == sorted(areas)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_randomised_response_comes_close_to_the_bound_and_not_above(epsilon):
    """Its ROC curve has one corner, which lies on the bound."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    area = right * right + 2 * right * (1 - right) / 2
    assert area <= largest_area(epsilon, 0.0) + 1e-12
    assert largest_area(epsilon, 0.0) == pytest.approx(right)


@pytest.mark.parametrize("changes", [{"trainings": 10}, {"records": 2}, {"validation": 0}])
def test_numbers_that_no_test_can_use(changes):
    with pytest.raises(ConfigError, match="expected 20 to 10000"):
        Sites(**changes)


def test_notes_of_a_kind_are_always_the_same_and_of_two_kinds_are_not():
    assert notes("site", 3) == notes("site", 3)
    assert {n.text for n in notes("site", 20)}.isdisjoint(n.text for n in notes("target", 1))


@pytest.mark.slow
def test_a_score_leaks_without_privacy_and_not_with_it():
    control, unrelated, private = audit(Sites(trainings=60, confidence=0.999))
    assert control.held, control.got
    assert unrelated.held, unrelated.got
    assert private.held, private.got
    assert private.numbers["area"] < control.numbers["low"]


@pytest.mark.slow
def test_a_private_score_that_is_not_private_is_found_out(monkeypatch):
    """Trained without noise, it exceeds what a small epsilon would allow."""
    from fedsec.audits import scores

    real = scores._trained
    monkeypatch.setattr(
        scores, "_trained", lambda base, start, examples, sites, private: real(base, start, examples, sites, False)
    )
    *_, private = audit(Sites(trainings=60, noise_multiplier=20.0, confidence=0.999))
    assert not private.held
