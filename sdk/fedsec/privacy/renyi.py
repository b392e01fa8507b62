"""Rényi divergences of Poisson-sampled Gaussian mechanisms, and what they say about epsilon.

The worst pairs of neighbours, with noise s and every unit in the sample with probability q:

- *add or remove* one unit: (1-q) N(0, s^2) + q N(1, s^2) against N(0, s^2), whose divergence is the larger of the two
  directions (Mironov, Talwar and Zhang 2019, "Rényi DP of the sampled Gaussian mechanism", section 3);
- *replace one* by another: (1-q) N(0, s^2) + q N(1, s^2) against (1-q) N(0, s^2) + q N(-1, s^2), its own mirror image
  (Schuchardt, Stoian, Kosmala and Günnemann, NeurIPS 2024; dp-accounting's PLD takes the same pair);
- *add or remove* a unit of k records, each of which is in the sample by its own coin: the binomial mixture of
  N(j, s^2), j = 0..k, against N(0, s^2), in both directions (Choquette-Choo, Ganesh, Steinke and Thakurta, ICLR 2024,
  section 4: vectors are dominated by their norms, and longer ones dominate shorter ones).

Their divergences are integrals of analytic functions, taken by the trapezoidal rule, whose error falls exponentially
(Trefethen and Weideman, SIAM Review 2014, theorem 5.1). Results are rounded up by more than the arithmetic can lose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy

from fedsec.privacy.mechanisms import Mechanism
from fedsec_secure.accounting.events import Neighbours

Floats = npt.NDArray[np.float64]

ORDERS: Floats = np.array([*(1 + n / 10 for n in range(1, 100)), *range(11, 64), 72, 80, 96, 112, 128, 192, 256])
"""Orders, all above 1, at which divergences are taken."""
_LEAST_NOISE = 0.2
"""Below, quadrature would need many points, and no useful budget is met: the bound by convexity stands alone."""
_SLACK = 1e-12


@lru_cache(maxsize=512)
def _curve(mechanism: Mechanism, neighbours: Neighbours) -> Floats:
    if mechanism.records > 1:
        values = _of_mixture(mechanism)
    else:
        values = np.array([_divergence(mechanism, neighbours, float(order)) for order in ORDERS])
    values.flags.writeable = False
    return values


def divergences(found: Mapping[Mechanism, int], neighbours: Neighbours) -> Floats:
    """Sums over all mechanisms, float64[len(ORDERS)]: upper bounds, math.inf where they overflow.

    Divergences of one order add up, also where a mechanism was chosen after seeing what the earlier ones released
    (Mironov 2017, proposition 1).
    """
    total = np.zeros(len(ORDERS))
    with np.errstate(over="ignore"):
        for mechanism, count in found.items():
            total += float(count) * _curve(mechanism, neighbours)
    return total


def _divergence(mechanism: Mechanism, neighbours: Neighbours, order: float) -> float:
    """An upper bound on the divergence of one order, in nats, for one vector."""
    rate, noise, _ = mechanism
    shift = 1.0 if neighbours == "add-or-remove" else 2.0
    full = order * (shift / noise) ** 2 / 2
    if rate == 1.0:
        return full * (1 + _SLACK)
    # exp((order - 1) D) is jointly convex in the two distributions, and both are mixtures with the same weights.
    exponent = (order - 1) * full
    convex = math.log1p(rate * math.expm1(exponent)) if exponent < 700 else exponent + math.log1p(math.exp(-exponent))
    integral = _log_integral(rate, noise, neighbours, order) if noise >= _LEAST_NOISE else math.inf
    log_moment = min(convex, max(integral, 0.0))
    return (log_moment * (1 + _SLACK) + _SLACK) / (order - 1)


def _of_mixture(mechanism: Mechanism) -> Floats:
    """Upper bounds for adding or removing a unit of several records, float64[len(ORDERS)], in nats.

    Lengths are taken over that of all records, so that `_grid` sees means between 0 and 1. Orders of a kind share the
    points of their highest, which lie closest and reach farthest: with many records it is the density that takes time.
    """
    rate, noise, records = mechanism
    means = np.arange(records + 1) / records
    log_weights = scipy.stats.binom.logpmf(np.arange(records + 1), records, rate)
    variance = (noise / records) ** 2
    # exp((order - 1) D) is jointly convex, and N(0, s^2) is the mixture of itself with the same weights.
    powers = np.outer((ORDERS - 1) * ORDERS, means**2 / (2 * variance))
    moments: Floats = scipy.special.logsumexp(log_weights + powers, axis=1)
    if noise / records >= _LEAST_NOISE:
        kinds = np.split(ORDERS, np.searchsorted(ORDERS, [11, 72]))
        integrals = [_log_integrals(means, log_weights, noise / records, orders) for orders in kinds]
        moments = np.minimum(moments, np.maximum(np.concatenate(integrals), 0.0))
    return (moments * (1 + _SLACK) + _SLACK) / (ORDERS - 1)


def _log_integrals(means: Floats, log_weights: Floats, noise: float, orders: Floats) -> Floats:
    """As `_log_integral`, of the mixture against N(0, s^2), in the direction that is larger: float64[len(orders)]."""
    variance = noise**2
    x, step = _grid(noise, float(orders[-1]))
    ratio = np.full_like(x, -math.inf)
    for mean, log_weight in zip(means, log_weights, strict=True):
        np.logaddexp(ratio, log_weight + mean * (2 * x - mean) / (2 * variance), out=ratio)
    plain = -(x**2) / (2 * variance)
    both = ((order * ratio + plain, (1 - order) * ratio + plain) for order in orders)
    return np.array([max(_log_sum(there, step, variance), _log_sum(back, step, variance)) for there, back in both])


def _log_integral(rate: float, noise: float, neighbours: Neighbours, order: float) -> float:
    """The logarithm of the integral of p^order q^(1 - order), at most 1e-12 off, relatively and absolutely."""
    variance = noise**2
    x, step = _grid(noise, order)
    none, one = math.log1p(-rate), math.log(rate)
    upper = np.logaddexp(none, one + (2 * x - 1) / (2 * variance))
    # Both densities are taken relative to that of N(0, s^2), so that large logarithms are never subtracted.
    lower = np.logaddexp(none, one - (2 * x + 1) / (2 * variance)) if neighbours == "replace-one" else np.zeros_like(x)
    terms = lower + order * (upper - lower) - x**2 / (2 * variance)
    return _log_sum(terms, step, variance)


def _grid(noise: float, order: float) -> tuple[Floats, float]:
    """Points, and the distance between them, for means of 0 to 1.

    In the strip of half-width y around the real line the integrand grows by at most exp(c y^2),
    c = 1 / (2 s^2) + (order - 1) / (8 s^4), as long as y <= s^2: a mixture's characteristic function is at least
    1 - (theta / 2)^2 / 2 at theta = y / s^2. The step makes the error about exp(-40).
    """
    variance = noise**2
    growth = 1 / (2 * variance) + (order - 1) / (8 * variance**2)
    step = 0.45 / math.sqrt(growth)
    if math.pi / (growth * step) > variance:
        step = 2 * math.pi * variance / (40 + growth * variance**2)
    reach = noise * math.sqrt(8 * (2 * order * math.log(2) + 45))
    return np.arange(-1 - reach, 2 * order + reach + step, step), step


def _log_sum(terms: Floats, step: float, variance: float) -> float:
    top = float(terms.max())
    return top + math.log(float(np.exp(terms - top).sum()) * step / math.sqrt(2 * math.pi * variance))


def epsilon_at_best_order(total: Floats, delta: float) -> float:
    """The smallest epsilon that any one order gives, for mechanisms that were fixed in advance.

    Canonne, Kamath and Steinke (NeurIPS 2020), proposition 12: for each order, (order, R)-Rényi privacy gives
    epsilon = R + log(1 - 1/order) - log(delta * order) / (order - 1).
    """
    each = total + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(each.min()))


_FILTER = (ORDERS >= 1.5) & (ORDERS <= 128)
_LOWERED = ORDERS[_FILTER] - 1
_WEIGHTS: Floats = np.gradient(np.log(_LOWERED))
_LOG_WEIGHTS: Floats = np.log(_WEIGHTS / _WEIGHTS.sum())


def epsilon_for_any_choice(total: Floats, delta: float) -> float:
    """An epsilon that holds for mechanisms chosen adaptively while it stays below a limit fixed beforehand.

    Which order is best may then depend on what was released, and the smallest epsilon over the orders is not proved
    to be a filter. A mixture over the orders is. Let L be the privacy loss and R_a the sum of the divergences of order
    a so far. For every a, exp((a - 1)(L - R_a)) is a supermartingale that starts at 1 (Feldman and Zrnic, NeurIPS 2021,
    theorem 4.3); so is W = sum of w_a exp((a - 1)(L - R_a)) with weights w_a fixed in advance that sum to 1. If

        1 - exp(eps - L) <= delta * W   for all L > eps,

    which this function ensures of its result, then in every branch that stopped with a result of at most eps,
    E[max(0, 1 - exp(eps - L))] <= delta, and that is (eps, delta)-privacy. The weights are even in log(a - 1).
    """
    return _epsilon_for_any_choice(total[_FILTER].tobytes(), delta)


@lru_cache(maxsize=4096)
def _epsilon_for_any_choice(divergences_of_filter: bytes, delta: float) -> float:
    """The same; remembered, as the sites of one process often have the same charges."""
    moments = np.frombuffer(divergences_of_filter)
    bounds = moments + np.log1p(-1 / (1 + _LOWERED)) - (np.log(delta * (1 + _LOWERED)) + _LOG_WEIGHTS) / _LOWERED
    high, low = max(0.0, float(bounds.min())), 0.0  # one order alone, at its share of delta
    if not math.isfinite(high) or _holds(0.0, moments, delta):
        return 0.0 if math.isfinite(high) else math.inf
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (low, middle) if _holds(middle, moments, delta) else (middle, high)
    return high + 1e-10


def _holds(epsilon: float, moments: Floats, delta: float) -> bool:
    """Whether 1 - exp(-u) <= delta * W for all u = L - epsilon > 0.

    log(1 - exp(-u)) - log W is concave in u; its slope 1 / (exp(u) - 1) - E[a - 1] is 0 for some u between the values
    at which the first term is the largest and the smallest a - 1.
    """

    def slope(u: float) -> float:
        terms = _LOG_WEIGHTS + _LOWERED * (u + epsilon - moments)
        shares = np.exp(terms - terms.max())
        return 1 / math.expm1(u) - float(shares @ _LOWERED) / float(shares.sum())

    # The place need not be exact: near the largest value a small shift changes it by the shift's square.
    ends = math.log1p(1 / _LOWERED[-1]), math.log1p(1 / _LOWERED[0])
    if slope(ends[0]) <= 0 or slope(ends[1]) >= 0:  # where one order has all the weight, the mean is an end itself
        u = ends[0] if slope(ends[0]) <= 0 else ends[1]
    else:
        u = float(scipy.optimize.brentq(slope, *ends, xtol=1e-9))
    terms = _LOG_WEIGHTS + _LOWERED * (u + epsilon - moments)
    top = float(terms.max())
    shares = np.exp(terms - top)
    return math.log(-math.expm1(-u)) - top - math.log(float(shares.sum())) <= math.log(delta) - 1e-11
