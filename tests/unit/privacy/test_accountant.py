"""The accountants: known numbers, an independent computation, and what must hold of any sequence of events."""

import math
from functools import partial
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.privacy.accountant import (
    SMALLEST_DELTA,
    PldAccountant,
    RdpFilter,
    RenyiAccountant,
    _distribution,
    calibrate,
    steps_of,
)
from fedsec.privacy.mechanisms import Mechanism, mechanisms
from fedsec.privacy.renyi import ORDERS, _holds, divergences, epsilon_at_best_order, epsilon_for_any_choice
from fedsec.privacy.shown import shown_epsilon
from fedsec_secure.accounting.events import (
    NEIGHBOURS,
    Composed,
    GaussianEvent,
    NonPrivateRelease,
    PoissonSampledEvent,
    SelfComposed,
)
from fedsec_secure.errors import ConfigError

DELTA = 1e-5
ACCOUNTANTS = (PldAccountant, RenyiAccountant, RdpFilter)
# Few values, so that distributions are made once: the order and the nesting are what varies.
STEPS = st.builds(
    steps_of, st.sampled_from([0.01, 0.05, 1.0]), st.sampled_from([1.0, 1.5, 4.0]), st.sampled_from([1, 3, 50])
)
relations = pytest.mark.parametrize("neighbours", NEIGHBOURS)


@pytest.mark.parametrize("kind", [RenyiAccountant, RdpFilter])
def test_beside_its_own_a_record_pays_for_what_protects_its_patient_as_for_an_exchange(kind):
    """By Gaussians that add up: exchanging a vector moves a sum twice as far."""
    one, both = GaussianEvent(1.0), GaussianEvent(5**-0.5)
    assert kind().epsilon([one], DELTA, [one]) == pytest.approx(kind().epsilon([both], DELTA), rel=1e-9)
    steps, other = steps_of(0.05, 1.0, 20), steps_of(0.05, 1.0, 20, 7)
    alone = kind().epsilon([], DELTA, [steps])
    assert alone == kind("replace-one").epsilon([steps], DELTA) > kind().epsilon([steps], DELTA)
    assert kind().epsilon([], DELTA, [other]) == alone  # of seven records one is exchanged
    assert kind().epsilon([], DELTA, [steps, other]) == kind().epsilon([], DELTA, [SelfComposed(steps, 2)])
    assert kind().epsilon([steps], DELTA, [steps]) > alone
    assert kind().epsilon([steps], DELTA, [NonPrivateRelease()]) == math.inf
    assert PldAccountant().epsilon([steps], DELTA, [steps]) == RenyiAccountant().epsilon([steps], DELTA, [steps])


def test_a_record_in_the_place_of_another_exchanges_two_patients():
    """One vector of each moves by twice the norm: together the sum moves four times as far as by one unit."""
    exact = PldAccountant().epsilon([GaussianEvent(0.25)], DELTA)
    assert RenyiAccountant("replace-one").epsilon([], DELTA, [GaussianEvent(1.0)]) > exact


@pytest.mark.parametrize(
    ("rate", "steps", "pld", "pld_replaced", "rdp"), [(0.01, 1000, 1.828, 2.84, 2.101), (0.05, 200, 4.766, 7.11, 5.368)]
)
def test_known_numbers(rate, steps, pld, pld_replaced, rdp):
    """Noise 1, delta 1e-5: dp-accounting's PLD by either relation, and Opacus' Rényi accountant."""
    events = [steps_of(rate, 1.0, steps)]
    assert PldAccountant().epsilon(events, DELTA) == pytest.approx(pld, abs=0.01)
    assert PldAccountant("replace-one").epsilon(events, DELTA) == pytest.approx(pld_replaced, abs=0.01)
    assert RenyiAccountant().epsilon(events, DELTA) == pytest.approx(rdp, abs=0.01)


def test_the_page_has_these_numbers_rounded_up():
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = page.split("| sampling rate, steps | neighbours | PLD", 1)[1].split("\n\n", 1)[0]
    for rate, steps in ((0.01, 1000), (0.05, 200), (0.01, 100)):
        for neighbours in NEIGHBOURS:
            events = [steps_of(rate, 1.0, steps)]
            cells = [shown_epsilon(kind(neighbours).epsilon(events, DELTA), decimals=3) for kind in ACCOUNTANTS]
            assert f"| {rate}, {steps} | {neighbours} | {' | '.join(cells)} |" in table
    assert table.count("\n| ") == 6


def test_the_gaussian_mechanism_by_its_formula():
    """Balle and Wang (ICML 2018), theorem 8: delta(eps) of one Gaussian; the sensitivity is 2 where one is replaced."""
    from scipy.stats import norm

    for neighbours, shift in (("add-or-remove", 1.0), ("replace-one", 2.0)):
        noise = 4.0
        epsilon = PldAccountant(neighbours).epsilon([GaussianEvent(noise)], DELTA)
        a, b = shift / (2 * noise), epsilon * noise / shift
        assert norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) <= DELTA
        lower = epsilon - 0.005
        b = lower * noise / shift
        assert norm.cdf(a - b) - math.exp(lower) * norm.cdf(-a - b) > DELTA


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.3, 0.7), (1e-4, 0.3), (0.9, 20.0), (1.0, 2.0)])
def test_divergences_by_another_computation(rate, noise):
    """The quadrature against the closed form at integer orders, 2 to 64, and against dp-accounting's at all."""
    ours = divergences({Mechanism(rate, noise): 1}, "add-or-remove")
    for order, found in zip(ORDERS, ours, strict=True):
        if float(order).is_integer() and order <= 64 and rate < 1:
            n = int(order)
            terms = [
                math.log(math.comb(n, k))
                + k * math.log(rate)
                + (n - k) * math.log1p(-rate)
                + k * (k - 1) / 2 / noise**2
                for k in range(n + 1)
            ]
            exact = np.logaddexp.reduce(terms) / (n - 1)
            assert exact <= found <= exact * (1 + 1e-9) + 1e-11
    event = dp_accounting.GaussianDpEvent(noise)
    event = dp_accounting.PoissonSampledDpEvent(rate, event) if rate < 1 else event
    for delta in (1e-3, 1e-6):
        theirs = RdpAccountant(ORDERS).compose(event, 10).get_epsilon(delta)
        total = divergences({Mechanism(rate, noise): 10}, "add-or-remove")
        ours_here = epsilon_at_best_order(total, delta)
        assert ours_here <= theirs * (1 + 1e-6) + 1e-9
        assert ours_here >= theirs * 0.999  # its series for orders below 2 does not always converge: it leaves them out


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.3, 0.7), (0.9, 20.0)])
def test_divergences_of_replacement_by_brute_force(rate, noise):
    """Against a Riemann sum with ten times the points; and never above that of the mechanism without sampling."""
    width = 2.0**-10 * max(1.0, noise / 4)
    x = np.arange(-125_000, 125_001) * width
    none, one = math.log1p(-rate), math.log(rate)
    p = np.logaddexp(none - x**2 / 2 / noise**2, one - (x - 1) ** 2 / 2 / noise**2)
    q = p[::-1]
    ours = divergences({Mechanism(rate, noise): 1}, "replace-one")
    unsampled = divergences({Mechanism(1.0, noise): 1}, "replace-one")
    assert (ours <= unsampled * (1 + 1e-9)).all()
    for index in (0, 9, 40, 98):
        order = float(ORDERS[index])
        terms = order * p + (1 - order) * q
        total = math.fsum(np.exp(terms - terms.max())) * width / (noise * math.sqrt(2 * math.pi))
        divergence = (terms.max() + math.log(total)) / (order - 1)
        assert ours[index] == pytest.approx(divergence, rel=1e-6, abs=2e-11)
        assert ours[index] >= divergence - 1e-13


def test_a_heterogeneous_composition_is_dp_accountings():
    found = [(0.01, 1.0, 300), (0.02, 1.3, 100), (0.05, 2.0, 50)]
    theirs = PLDAccountant(value_discretization_interval=1e-3)
    for rate, noise, steps in found:
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        theirs.compose(event, steps)
    ours = PldAccountant().epsilon([steps_of(*one) for one in found], DELTA)
    assert ours == pytest.approx(theirs.get_epsilon(DELTA), abs=1e-6)


@relations
@settings(max_examples=8, deadline=None)
@given(events=st.lists(STEPS, min_size=1, max_size=4), data=st.data())
def test_order_and_nesting_change_nothing(neighbours, events, data):
    shuffled = data.draw(st.permutations(events))
    for kind in ACCOUNTANTS:
        epsilon = partial(kind(neighbours).epsilon, delta=DELTA)
        assert epsilon(events) == epsilon(shuffled) == epsilon([Composed(tuple(events))])
        assert epsilon([*events, *events]) == epsilon([SelfComposed(Composed(tuple(shuffled)), 2)])


@relations
@settings(max_examples=8, deadline=None)
@given(events=st.lists(STEPS, min_size=1, max_size=3), more=STEPS)
def test_more_is_never_less_and_the_bounds_are_in_order(neighbours, events, more):
    for kind in ACCOUNTANTS:
        account = kind(neighbours)
        assert account.epsilon(events, DELTA) <= account.epsilon([*events, more], DELTA) + 1e-9
        assert account.epsilon(events, DELTA) <= account.epsilon(events, DELTA / 10) + 1e-9
    pld, rdp, chosen = (kind(neighbours).epsilon(events, DELTA) for kind in ACCOUNTANTS)
    assert 0 < pld <= rdp <= chosen


@relations
def test_replacing_costs_more_than_removing(neighbours):
    for kind in ACCOUNTANTS:
        assert kind("replace-one").epsilon([steps_of(0.05, 1.0, 50)], DELTA) > kind("add-or-remove").epsilon(
            [steps_of(0.05, 1.0, 50)], DELTA
        )
    assert kind(neighbours).neighbours == neighbours


def test_what_the_filter_costs_over_the_best_order():
    for rate, steps in ((0.01, 1000), (0.05, 200), (0.01, 100)):
        events = [steps_of(rate, 1.0, steps)]
        ratio = RdpFilter().epsilon(events, DELTA) / RenyiAccountant().epsilon(events, DELTA)
        assert 1 < ratio < 1.4


def test_the_filters_inequality_holds_on_a_grid():
    """What its proof needs, 1 - exp(eps - L) <= delta W(L), tight at some L; W is written out here once more."""
    total = divergences({Mechanism(0.02, 1.0): 300}, "add-or-remove")
    epsilon = epsilon_for_any_choice(total, DELTA)
    kept = (ORDERS >= 1.5) & (ORDERS <= 128)
    weights = np.gradient(np.log(ORDERS[kept] - 1))
    weights /= weights.sum()
    moments = total[kept]
    assert _holds(epsilon, moments, DELTA)
    assert not _holds(epsilon - 1e-8, moments, DELTA)
    loss = epsilon + np.linspace(1e-4, 5, 20_000)
    w = (weights[:, None] * np.exp((ORDERS[kept] - 1)[:, None] * (loss - total[kept][:, None]))).sum(axis=0)
    worst = ((1 - np.exp(epsilon - loss)) / (DELTA * w)).max()
    assert 1 - 1e-4 < worst <= 1


@relations
def test_calibration_finds_the_smallest_noise(neighbours):
    noise = calibrate(3.0, DELTA, 0.02, 100, neighbours)
    assert noise == round(noise, 3)
    events = [steps_of(0.02, noise, 100)]
    assert RdpFilter(neighbours).epsilon(events, DELTA) <= 3.0
    assert PldAccountant(neighbours).epsilon(events, DELTA) <= 3.0
    assert RdpFilter(neighbours).epsilon([steps_of(0.02, noise - 0.001, 100)], DELTA) > 3.0


def test_nothing_and_bare_releases():
    for kind in ACCOUNTANTS:
        account = kind()
        assert account.epsilon([], DELTA) == 0
        for bare in (NonPrivateRelease(), SelfComposed(Composed((GaussianEvent(1.0), NonPrivateRelease())), 3)):
            assert account.epsilon([GaussianEvent(9.0), bare], DELTA) == math.inf


def test_samples_of_samples_and_steps_on_one_sample():
    inner = PoissonSampledEvent(0.5, GaussianEvent(2.0))
    assert mechanisms([PoissonSampledEvent(0.5, inner)]) == {Mechanism(math.nextafter(0.25, 1), 2.0): 1}
    both = Composed((GaussianEvent(2.0), SelfComposed(GaussianEvent(2.0), 3)))
    ((merged, count),) = mechanisms([PoissonSampledEvent(0.1, both)]).items()
    assert (merged.rate, count) == (0.1, 1)
    assert merged.noise == pytest.approx(1.0, abs=1e-12)
    assert merged.noise < 1.0
    with pytest.raises(ConfigError, match="several samples drawn from one sample"):
        mechanisms([PoissonSampledEvent(0.5, SelfComposed(inner, 2))])


@pytest.mark.parametrize("noise", [1e-6, 0.01, 0.3, 1e6])
@pytest.mark.parametrize("rate", [5e-324, 1e-9, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, (1 << 53) - 1])
def test_extreme_events_get_an_upper_bound_and_no_warning(noise, rate, steps, recwarn):
    for neighbours in NEIGHBOURS:
        pld, rdp, chosen = (kind(neighbours).epsilon([steps_of(rate, noise, steps)], DELTA) for kind in ACCOUNTANTS)
        assert 0 <= pld <= rdp <= chosen
        if noise <= 0.01 and rate >= 0.5:
            assert pld > 1000
    assert not recwarn.list


def test_below_its_smallest_delta_the_distribution_gives_way_to_the_bound():
    """There rounding in its Fourier transforms, some 1e-15 of mass, would count: what it gives is no bound."""
    events = [steps_of(0.01, 1.0, 1000)]
    for delta in (SMALLEST_DELTA * (1 - 1e-9), 1e-12, 1e-14, 1e-300):
        assert PldAccountant().epsilon(events, delta) == RenyiAccountant().epsilon(events, delta)
    assert PldAccountant().epsilon(events, SMALLEST_DELTA) < RenyiAccountant().epsilon(events, SMALLEST_DELTA) - 0.1


def test_where_the_grid_costs_more_than_an_order_the_bound_is_what_is_given():
    """10^5 steps of little each: every one of them is rounded up to a thousandth of a nat."""
    events = [steps_of(1e-4, 10.0, 10**5)]
    assert PldAccountant().epsilon(events, DELTA) == RenyiAccountant().epsilon(events, DELTA) < 0.03
    once = _distribution(Mechanism(1e-4, 10.0), 10**5, "add-or-remove")
    assert once.get_epsilon_for_delta(DELTA) > 0.08, "or nothing was tested"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_lies_between_0_and_1(delta):
    for kind in ACCOUNTANTS:
        with pytest.raises(ConfigError, match="expected a delta between 0 and 1"):
            kind().epsilon([GaussianEvent(1.0)], delta)


def test_what_is_wrong_is_named():
    with pytest.raises(ConfigError, match="expected neighbours by"):
        PldAccountant("swap")
    with pytest.raises(ConfigError, match="expected a finite epsilon above 0"):
        calibrate(0.0, DELTA, 0.1, 10)
    with pytest.raises(ConfigError, match=r"up to 10\^6"):
        calibrate(1e-9, 1e-9, 1.0, 1 << 52)
    with pytest.raises(ConfigError, match=r"found epsilon 0\.05 .*: take more epsilon or a larger delta$"):
        calibrate(0.05, DELTA, 0.01, 1000)  # one step would not meet it either
    assert calibrate(0.05, 1e-3, 0.01, 1000) > 1
    with pytest.raises(ConfigError, match=r"found epsilon 0\.1 .*: take fewer steps or more epsilon$"):
        calibrate(0.1, DELTA, 1.0, 1 << 52)
    assert calibrate(0.1, DELTA, 1.0, 1000) > 1
    for arguments, what in (
        ((0.0, 1.0, 1), "rate"),
        ((1.1, 1.0, 1), "rate"),
        ((0.1, 0.0, 1), "noise"),
        ((0.1, 1.0, 0), "steps"),
    ):
        with pytest.raises(ConfigError, match=f"expected a .*{what}"):
            steps_of(*arguments)
