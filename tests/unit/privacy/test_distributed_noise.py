"""One object for sampling, rounding, noise and accounting: what is charged is what is drawn, and costs what it should.

Statistical tests fail correct code with probability at most 1e-6 each.
"""

import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsec.privacy.accountant import PldAccountant, RdpFilter, RenyiAccountant, calibrate, steps_of
from fedsec.privacy.distributed import DistributedStep
from fedsec.privacy.mechanisms import SMOOTHING, Mechanism, mechanisms, root_above, root_below
from fedsec.privacy.shown import shown_epsilon
from fedsec_secure.accounting.events import (
    NEIGHBOURS,
    Composed,
    DiscreteGaussianSumEvent,
    PoissonSampledEvent,
    SelfComposed,
)
from fedsec_secure.errors import ConfigError

DELTA = 1e-5
STEP = DistributedStep(
    rate=0.01, noise_multiplier=1.0, clip=0.5, clip_in_steps=1 << 16, dimension=1_000_000, survivors=5, colluding=2
)
relations = pytest.mark.parametrize("neighbours", NEIGHBOURS)


@settings(max_examples=200, deadline=None)
@given(
    noise=st.floats(0.3, 50),
    steps=st.integers(1 << 8, 1 << 24),
    dimension=st.integers(1, 1 << 30),
    colluding=st.integers(0, 20),
    honest=st.integers(1, 40),
    rate=st.floats(1e-6, 1),
)
def test_what_is_charged_is_at_least_the_noise_that_was_asked_for(noise, steps, dimension, colluding, honest, rate):
    step = DistributedStep(rate, noise, 1.0, steps, dimension, honest + colluding, colluding)
    ((charged, count),) = mechanisms([step.event]).items()
    assert count == 1
    assert charged.rate == step.sampler.accounted
    assert noise <= charged.noise <= noise * (1 + 1e-14)
    assert Fraction(step.sensitivity) ** 2 >= step.rounding.squared_norm_bound
    assert step.event.event.summands == honest


@pytest.mark.parametrize("records", [1, 2, 5])
def test_every_vector_of_a_unit_that_is_drawn_by_itself_is_charged(records):
    step = dataclasses.replace(STEP, records=records)
    ((charged, count),) = mechanisms([step.event]).items()
    assert (charged.rate, charged.records, count) == (step.sampler.accounted, records, 1)
    assert charged.noise >= step.noise_multiplier


@relations
def test_epsilon_is_that_of_pooled_data(neighbours):
    """The target that noise was calibrated to for pooled data holds; the pooled epsilon is the distributed one's."""
    noise = calibrate(3.0, DELTA, 0.02, 100, neighbours)
    step = dataclasses.replace(STEP, rate=0.02, noise_multiplier=noise)
    events = [SelfComposed(step.event, 100)]
    assert RdpFilter(neighbours).epsilon(events, DELTA) <= 3.0
    for kind in (PldAccountant, RenyiAccountant, RdpFilter):
        pooled = kind(neighbours).epsilon([steps_of(0.02, noise, 100)], DELTA)
        assert kind(neighbours).epsilon(events, DELTA) == pytest.approx(pooled, rel=1e-9)


MIXED = st.one_of(
    st.builds(steps_of, st.sampled_from([0.01, 1.0]), st.sampled_from([1.5, 4.0]), st.sampled_from([1, 3])),
    st.builds(
        lambda rate, noise, count: SelfComposed(
            dataclasses.replace(STEP, rate=rate, noise_multiplier=noise).event, count
        ),
        st.sampled_from([0.01, 1.0]),
        st.sampled_from([1.5, 4.0]),
        st.sampled_from([1, 3]),
    ),
)


@relations
@settings(max_examples=8, deadline=None)
@given(events=st.lists(MIXED, min_size=2, max_size=4), data=st.data())
def test_order_and_nesting_change_nothing_where_kinds_are_mixed(neighbours, events, data):
    shuffled = data.draw(st.permutations(events))
    for kind in (PldAccountant, RenyiAccountant, RdpFilter):
        epsilons = {kind(neighbours).epsilon(e, DELTA) for e in (events, shuffled, [Composed(tuple(shuffled))])}
        assert len(epsilons) == 1
        assert kind(neighbours).epsilon(events[1:], DELTA) <= epsilons.pop() + 1e-9


def test_the_page_has_these_numbers_rounded_up():
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = page.split("| q, steps | pooled data, PLD |", 1)[1].split("\n\n", 1)[0]
    for rate, steps in ((0.01, 40), (0.01, 200), (0.05, 40), (0.05, 200)):
        shared = [SelfComposed(dataclasses.replace(STEP, rate=rate).event, steps)]
        found = [PldAccountant().epsilon(events, DELTA) for events in ([steps_of(rate, 1.0, steps)], shared)]
        cells = [shown_epsilon(e, decimals=3) for e in (*found, RdpFilter().epsilon(shared, DELTA))]
        assert f"| {rate}, {steps} | {' | '.join(cells)} |" in table
    assert table.count("\n| ") == 4


def test_the_sum_of_the_honest_sites_noise_has_the_variance():
    """2e6 coordinates of 3 sites: the estimate deviates by 0.1 %, so 0.5 % are five deviations, false alarm 6e-7."""
    total = sum(STEP.noise.sample(2_000_000) for _ in range(STEP.honest)).astype(np.float64)
    variance = (STEP.noise_multiplier * STEP.sensitivity) ** 2 + SMOOTHING
    assert STEP.honest * STEP.sigma**2 == pytest.approx(variance, rel=1e-12)
    assert np.square(total).mean() == pytest.approx(variance, rel=5e-3)
    # And the law: cells of the Gaussian that it is close to, by chi-square at 1e-7.
    edges = np.concatenate([[-np.inf], np.linspace(-3.5, 3.5, 60) * math.sqrt(variance), [np.inf]])
    expected = np.diff(stats.norm.cdf(edges / math.sqrt(variance))) * len(total)
    found = np.histogram(total, edges)[0]
    assert ((found - expected) ** 2 / expected).sum() <= stats.chi2.isf(1e-7, len(expected) - 1)


def test_steps_of_a_run_are_charged_for_what_is_drawn():
    assert mechanisms([SelfComposed(STEP.event, 40)]) == {Mechanism(0.01, 1.0): 40}
    assert STEP.grid == 0.5 / (1 << 16)
    assert STEP.honest == 3
    assert STEP.noise.variance == Fraction(STEP.event.event.sigma) ** 2
    on_one_sample = PoissonSampledEvent(0.1, SelfComposed(STEP.event.event, 4))
    ((merged, _),) = mechanisms([on_one_sample]).items()
    assert merged.noise == pytest.approx(0.5, rel=1e-12)
    assert merged.noise < 0.5


@given(st.fractions(0, 2**80))
def test_roots_are_rounded_to_the_side(value):
    below, above = root_below(value), root_above(value)
    assert Fraction(below) ** 2 <= value <= Fraction(above) ** 2
    assert above <= math.nextafter(below, math.inf)
    assert Fraction(math.nextafter(below, math.inf)) ** 2 > value


@pytest.mark.parametrize("event", [(2.0**40, 4.0, 1, 1), (1.0, 2.0**40, 1 << 15, 1 << 40), (1.0, 4.0, 1, 1)])
def test_extreme_events_get_an_upper_bound_and_no_warning(event, recwarn):
    events = [SelfComposed(PoissonSampledEvent(0.5, DiscreteGaussianSumEvent(*event)), 100)]
    for neighbours in NEIGHBOURS:
        pld, rdp, chosen = (
            kind(neighbours).epsilon(events, DELTA) for kind in (PldAccountant, RenyiAccountant, RdpFilter)
        )
        assert 0 < pld <= rdp <= chosen
    assert not recwarn.list


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"clip": 0.0}, r"clipping norm from 2\^-64"),
        ({"clip": 1e-318}, r"clipping norm from 2\^-64"),
        ({"clip": math.nan}, r"clipping norm from 2\^-64"),
        ({"noise_multiplier": 0.0}, "noise multiplier from 1e-6"),
        ({"noise_multiplier": math.nan}, "noise multiplier from 1e-6"),
        ({"colluding": 5}, "fewer colluding sites than survivors"),
        ({"colluding": -1}, "fewer colluding sites than survivors"),
        ({"survivors": 40_000}, "at most 32768 more"),
        ({"clip_in_steps": 1, "dimension": 1}, r"noise of 4 to 2\^40 .* too few"),
        ({"clip_in_steps": 1 << 30, "noise_multiplier": 1e5}, r"noise of 4 to 2\^40 .* too many"),
        ({"clip_in_steps": 0}, "clipping norm in grid steps"),
        ({"dimension": 0}, "dimension"),
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.5}, "rate"),
    ],
)
def test_what_is_wrong_with_a_step_is_named(changes, what):
    with pytest.raises(ConfigError, match=what):
        dataclasses.replace(STEP, **changes)
