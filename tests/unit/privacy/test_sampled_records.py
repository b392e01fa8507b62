"""Records drawn one by one, and the cost to the patient who has several of them."""

import decimal
import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from fedsec.privacy.accountant import PldAccountant, RdpFilter, RenyiAccountant, calibrate, steps_of
from fedsec.privacy.mechanisms import Mechanism, mechanisms
from fedsec.privacy.renyi import ORDERS, divergences
from fedsec.privacy.words import in_words
from fedsec_secure.accounting.events import (
    Composed,
    DiscreteGaussianSumEvent,
    GaussianEvent,
    PoissonSampledEvent,
    PoissonSampledRecordsEvent,
    decode_event,
    encode_event,
)
from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError

DELTA = 1e-5
ACCOUNTANTS = (PldAccountant, RenyiAccountant, RdpFilter)


def divergence(order, rate, noise, records, *, back):
    """By adaptive quadrature over the densities themselves."""
    weights = stats.binom.pmf(range(records + 1), records, rate)

    def log_mixture(x):
        return np.logaddexp.reduce([math.log(w) + stats.norm.logpdf(x, j, noise) for j, w in enumerate(weights)])

    def integrand(x):
        p, q = log_mixture(x), stats.norm.logpdf(x, 0, noise)
        return math.exp(order * q + (1 - order) * p if back else order * p + (1 - order) * q)

    reach = 12 * noise + order * records
    found, _ = integrate.quad(integrand, -reach, reach, points=[0, records, order * records], limit=400, epsabs=0)
    return math.log(found) / (order - 1)


@pytest.mark.parametrize(("rate", "noise", "records"), [(0.05, 2.0, 2), (0.3, 3.0, 4), (0.01, 1.0, 3)])
def test_divergences_by_quadrature_in_both_directions(rate, noise, records):
    ours = divergences({Mechanism(rate, noise, records): 1}, "add-or-remove")
    for index in (4, 10, 30, 70):
        there, back = (divergence(float(ORDERS[index]), rate, noise, records, back=b) for b in (False, True))
        assert ours[index] == pytest.approx(max(there, back), rel=1e-6, abs=1e-10)
        assert ours[index] >= max(there, back) - 1e-12


@pytest.mark.parametrize("records", [2, 3, 7])
@pytest.mark.parametrize("noise", [2.0, 3.7, 11.0])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_no_divergence_of_order_2_is_below_the_exact_one(rate, noise, records):
    """log of the sum over i, j of w_i w_j exp(i j / s^2), to 50 digits: what arithmetic loses is made up for."""
    with decimal.localcontext(prec=50):
        q, s = decimal.Decimal(rate), decimal.Decimal(noise)
        weights = [math.comb(records, j) * q**j * (1 - q) ** (records - j) for j in range(records + 1)]
        pairs = itertools.product(enumerate(weights), repeat=2)
        exact = sum(w * v * (i * j / s**2).exp() for (i, w), (j, v) in pairs).ln()
        found = decimal.Decimal(divergences({Mechanism(rate, noise, records): 1}, "add-or-remove")[9].item())
        assert float(ORDERS[9]) == 2
        assert exact < found < exact * (1 + decimal.Decimal("1e-9")) + decimal.Decimal("1e-11")


def test_one_record_is_a_unit():
    assert mechanisms([PoissonSampledRecordsEvent(0.1, 1, GaussianEvent(2.0))]) == {Mechanism(0.1, 2.0): 1}
    assert steps_of(0.1, 2.0, 5, 1) == steps_of(0.1, 2.0, 5)


def test_all_records_at_once_are_one_long_vector():
    ((mechanism, count),) = mechanisms([PoissonSampledRecordsEvent(1.0, 4, GaussianEvent(2.0))]).items()
    assert (mechanism.rate, mechanism.records, count) == (1.0, 1, 1)
    assert 0.5 * (1 - 1e-14) < mechanism.noise < 0.5


@pytest.mark.parametrize("kind", ACCOUNTANTS)
def test_the_cost_lies_between_one_record_and_all_of_them_together(kind):
    """More records cost more; never more than if they were drawn together, each k times as long."""
    costs = [kind().epsilon([steps_of(0.03, 2.0, 40, k)], DELTA) for k in (1, 2, 4)]
    together = kind().epsilon([steps_of(1 - (1 - 0.03) ** 4, 2.0 / 4, 40)], DELTA)
    assert costs[0] < costs[1] < costs[2] < together


@pytest.mark.parametrize("records", [2, 5])
def test_the_bounds_are_in_order_and_add_up_in_any_order(records):
    events = [steps_of(0.03, 2.0, 40, records), steps_of(0.05, 3.0, 10)]
    pld, renyi, chosen = (kind().epsilon(events, DELTA) for kind in ACCOUNTANTS)
    assert 0 < pld <= renyi <= chosen
    assert RdpFilter().epsilon([Composed(tuple(reversed(events)))], DELTA) == chosen


def test_the_pld_is_no_less_than_simulation_shows():
    """Delta at epsilon, estimated by 10^6 draws of the worst pair: never above what the distribution gives."""
    rate, noise, records, epsilon = 0.2, 2.0, 3, 0.5
    generator = np.random.default_rng(5)
    x = generator.binomial(records, rate, 10**6) + noise * generator.standard_normal(10**6)
    weights = stats.binom.pmf(range(records + 1), records, rate)
    p = sum(w * stats.norm.pdf(x, j, noise) for j, w in enumerate(weights))
    loss = np.log(p / stats.norm.pdf(x, 0, noise))
    simulated = np.maximum(0, 1 - np.exp(epsilon - loss)).mean()
    found = PldAccountant().epsilon([steps_of(rate, noise, 1, records)], float(simulated))
    assert found == pytest.approx(epsilon, abs=0.01)


@pytest.mark.parametrize("kind", ACCOUNTANTS)
def test_exchanging_is_removing_and_adding(kind):
    """The bound is the known lemma's: no less than twice one way at the same delta, and valid at its own share."""
    events = [steps_of(0.03, 3.0, 20, 3)]
    found, once = kind("replace-one").epsilon(events, DELTA), kind().epsilon(events, DELTA)
    assert 2 * once <= found <= 2 * kind().epsilon(events, DELTA / (1 + math.exp(found)))


def test_exchanging_promises_nothing_where_no_share_of_delta_is_small_enough():
    """Once costs more than the log of any share that is tried: a finite number would be a bound that does not hold."""
    assert RenyiAccountant("replace-one").epsilon([steps_of(0.05, 1.0, 200, 5)], DELTA) == math.inf


def test_calibration_is_for_the_patient():
    noise = calibrate(3.0, 1e-4, 0.03, 200, records=5)
    at, below = (RdpFilter().epsilon([steps_of(0.03, z, 200, 5)], 1e-4) for z in (noise, noise - 0.001))
    assert at <= 3.0 < below
    assert noise > calibrate(3.0, 1e-4, 0.03, 200)


def test_what_patients_cost_where_records_are_protected():
    """2,000 records, at most 5 each, 200 steps, delta 1e-4, noise 1: a patient pays seven times as much."""
    rate = 64 / 2000
    assert PldAccountant().epsilon([steps_of(rate, 1.0, 200)], 1e-4) == pytest.approx(2.47, abs=0.02)
    assert PldAccountant().epsilon([steps_of(rate, 1.0, 200, 5)], 1e-4) == pytest.approx(17.0, abs=0.1)


def test_sums_of_discrete_gaussians_over_sampled_records():
    total = DiscreteGaussianSumEvent(1000.0, 1500.0, 4, 1_000_000)
    (mechanism,) = mechanisms([PoissonSampledRecordsEvent(0.1, 3, total)])
    assert mechanism == Mechanism(0.1, mechanism.noise, 3)
    assert mechanism.noise == pytest.approx(3.0, rel=1e-5)
    assert mechanism.noise < 3.0


@pytest.mark.parametrize(
    "event",
    [
        PoissonSampledRecordsEvent(0.1, 2, PoissonSampledEvent(0.1, GaussianEvent(1.0))),
        PoissonSampledEvent(0.1, PoissonSampledRecordsEvent(0.1, 2, GaussianEvent(1.0))),
        PoissonSampledRecordsEvent(0.1, 2, PoissonSampledRecordsEvent(0.1, 2, GaussianEvent(1.0))),
    ],
)
def test_samples_of_samples_of_records_have_no_bound_here(event):
    with pytest.raises(ConfigError, match="a sample"):
        PldAccountant().epsilon([event], DELTA)


@pytest.mark.parametrize(
    ("rate", "records"), [(0.0, 2), (1.5, 2), (1, 2), (0.1, 0), (0.1, 257), (0.1, 2.0), (0.1, True)]
)
def test_an_event_is_checked_when_it_is_made(rate, records):
    with pytest.raises(LocalMisuseError):
        PoissonSampledRecordsEvent(rate, records, GaussianEvent(1.0))


def test_it_has_one_text():
    event = steps_of(0.05, 1.5, 20, 4)
    text = encode_event(event)
    assert decode_event(text) == event
    assert b'"kind":"poisson-sampled-records"' in text
    with pytest.raises(CodecError):
        decode_event(text.replace(b'"records":4', b'"records":400'))
    assert in_words(event) == "20 x (noise 1.5 on a sample of 0.05 of the records, at most 4 of a unit)"
