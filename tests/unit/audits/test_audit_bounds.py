"""From counts to epsilon: exact where there is something to compare with, and wrong as seldom as is said."""

import math
import warnings

import numpy as np
import pytest
from scipy import integrate, stats

from fedsec.audits.bounds import (
    above,
    below,
    confidence_level,
    epsilon_of,
    epsilon_without_curve,
    lower_bound,
    mu_of,
)
from fedsec.privacy.accountant import PldAccountant, steps_of
from fedsec_secure.errors import ConfigError

DELTA = 1e-5


@pytest.mark.parametrize(("count", "trials"), [(0, 10), (1, 10), (7, 10), (10, 10), (312, 1000)])
def test_clopper_pearson_is_scipy_s(count, trials):
    interval = stats.binomtest(count, trials).proportion_ci(0.9, method="exact")
    assert below(count, trials, 0.05) == pytest.approx(interval.low, abs=1e-12)
    assert above(count, trials, 0.05) == pytest.approx(interval.high, abs=1e-12)


@pytest.mark.parametrize("count", [0, 3, 97, 500])
def test_clopper_pearson_inverts_the_binomial(count):
    """At the bound itself, so few or so many are seen with exactly the level's probability."""
    assert stats.binom(500, above(count, 500, 0.01)).cdf(count) == pytest.approx(0.01 if count < 500 else 1)
    assert stats.binom(500, below(count, 500, 0.01)).sf(count - 1) == pytest.approx(0.01 if count else 1)


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("noise", [0.3, 0.5, 1.0, 2.0])
def test_epsilon_of_mu_is_the_accountant_s(rate, noise):
    accounted = PldAccountant().epsilon([steps_of(rate, noise, 1)], DELTA)
    assert epsilon_of(1 / noise, rate, DELTA) <= accounted
    assert epsilon_of(1 / noise, rate, DELTA) == pytest.approx(accounted, abs=1e-4)


@pytest.mark.parametrize(
    ("rate", "noise", "records"),
    [pytest.param(0.5, 1.0, 4, marks=pytest.mark.slow), (0.05, 2.0, 5), (1.0, 2.0, 3), (0.3, 1.0, 2)],
)
def test_epsilon_of_mu_is_the_accountant_s_with_sampled_records(rate, noise, records):
    accounted = PldAccountant().epsilon([steps_of(rate, noise, 1, records)], DELTA)
    assert epsilon_of(1 / noise, rate, DELTA, records) <= accounted
    assert epsilon_of(1 / noise, rate, DELTA, records) == pytest.approx(accounted, abs=1e-4)


def test_a_bound_is_that_of_the_fresh_halves_at_half_the_level_each():
    """Values of 0 and 1, so that every threshold says the same; the first halves are only for choosing one."""
    without, canary = np.zeros(400), np.zeros(400)
    without[:100], canary[:150] = 1, 1
    without[200:203], canary[200:320] = 1, 1
    found = lower_bound(without, canary, 1.0, DELTA, 0.02)
    assert found.mu == pytest.approx(mu_of(above(3, 200, 0.01), below(120, 200, 0.01), 1.0), rel=1e-12)
    free = epsilon_without_curve(above(3, 200, 0.01), below(120, 200, 0.01), DELTA)
    assert found.without_curve == pytest.approx(free, rel=1e-12)


def test_what_is_summed_of_several_steps_shows_no_more_than_all_of_them():
    """The sum is a function of the steps: its epsilon is below theirs, and not far."""
    summed = epsilon_of(1 / math.sqrt(4), 0.5, DELTA, 4)
    accounted = PldAccountant().epsilon([steps_of(0.5, 1.0, 4)], DELTA)
    assert 0.98 * accounted < summed < accounted


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_epsilon_of_mu_is_what_the_definition_gives(rate):
    """delta is the integral of max(0, p - exp(epsilon) q)."""
    epsilon, normal = epsilon_of(1.25, rate, DELTA), stats.norm

    def excess(x):
        p = (1 - rate) * normal.pdf(x) + rate * normal.pdf(x - 1.25)
        return max(0.0, p - math.exp(epsilon) * normal.pdf(x))

    assert integrate.quad(excess, 2, 14, limit=500, epsabs=1e-13)[0] == pytest.approx(DELTA, rel=1e-5)


def test_epsilon_of_mu_has_its_ends():
    assert epsilon_of(0.0, 1.0, DELTA) == epsilon_of(1e-7, 1.0, DELTA) == epsilon_of(3.0, 1e-6, DELTA) == 0
    assert epsilon_of(math.inf, 0.5, DELTA) == math.inf
    assert epsilon_of(30.0, 1.0, DELTA) == pytest.approx(30**2 / 2 + 30 * stats.norm.isf(DELTA), rel=0.01)


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_mu_is_found_again_from_a_perfect_roc(rate):
    for alpha in (0.01, 0.3, 0.8):
        tau = (1 - rate) * alpha + rate * stats.norm.cdf(stats.norm.ppf(alpha) + 1.7)
        assert mu_of(alpha, tau, rate) == pytest.approx(1.7)
    assert mu_of(0.2, 0.2, rate) == pytest.approx(0, abs=1e-9)
    assert mu_of(0.5, 0.1, rate) == 0
    assert mu_of(0.2, 1.0, 1.0) == math.inf


def test_mu_is_found_again_with_sampled_records():
    weights = stats.binom.pmf(range(4), 3, 0.4)
    for alpha in (0.01, 0.3, 0.8):
        tau = sum(w * stats.norm.sf(stats.norm.isf(alpha) - 0.6 * j) for j, w in enumerate(weights))
        assert mu_of(alpha, tau, 0.4, 3) == pytest.approx(0.6)
    assert mu_of(0.2, 1 - 0.6**3 * 0.8 + 1e-9, 0.4, 3) == math.inf


def test_without_a_curve_randomised_response_gives_its_epsilon():
    right = math.exp(1.3) / (1 + math.exp(1.3))
    assert epsilon_without_curve(1 - right, right, 0.0) == pytest.approx(1.3)
    assert epsilon_without_curve(1 - right, right, 0.1) < 1.3
    assert epsilon_without_curve(0.5, 0.5, DELTA) == 0
    assert epsilon_without_curve(0.0, 0.5, DELTA) == math.inf


def gaussian(generator, trials, rate, mu=1.0):
    without = generator.normal(size=trials)
    return without, generator.normal(size=trials) + mu * (generator.random(trials) < rate)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_bounds_are_above_the_truth_no_more_often_than_is_said(rate):
    """100 audits of a true mu of 1 at level 0.2; the generator is seeded, so the counts are always the same."""
    generator, wrong = np.random.default_rng(7), {"curve": 0, "none": 0}
    truth = epsilon_of(1.0, rate, 1e-3)
    for _ in range(100):
        found = lower_bound(*gaussian(generator, 600, rate), rate, 1e-3, 0.2)
        wrong["curve"] += found.mu > 1
        wrong["none"] += found.without_curve > truth
        assert found.epsilon == epsilon_of(found.mu, rate, 1e-3)
    assert max(wrong.values()) <= 20


def test_many_trials_come_near_the_truth():
    found = lower_bound(*gaussian(np.random.default_rng(3), 200_000, 1.0), 1.0, DELTA, 0.05)
    assert 0.97 < found.mu < 1
    assert 2 < found.without_curve < found.epsilon < epsilon_of(1.0, 1.0, DELTA)


def test_thresholds_come_from_trials_that_no_bound_is_made_of():
    """Half of the trials without any difference make no bound, whatever the other half shows."""
    generator = np.random.default_rng(0)
    apart, same = gaussian(generator, 1000, 1.0, 9.0), gaussian(generator, 1000, 1.0, 0.0)
    first = [np.concatenate(pair) for pair in zip(apart, same, strict=True)]
    assert lower_bound(*first, 1.0, DELTA, 0.05).epsilon == 0


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 1.5, math.nan])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(ConfigError, match=r"expected from 0\.5 to below 1"):
        confidence_level(confidence)


@pytest.mark.parametrize("mu", [0.001, 0.01, 0.1])
def test_many_records_and_a_small_rate_lose_no_digits(mu):
    """Chances below the smallest float: with them as weights the logarithm of a sum overflows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = epsilon_of(mu, 0.001, 1e-9, 256)
    reported = PldAccountant().epsilon([steps_of(0.001, 1 / mu, 1, 256)], 1e-9)
    assert 0 < found <= reported < found + 2e-3
