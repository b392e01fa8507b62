"""What counts of guesses prove about epsilon: lower bounds that hold with a stated confidence.

An auditor sees one number of each trial and says "in" above a threshold that was fixed on other trials. Of the trials
without the canary a share alpha is called "in" falsely, of those with it a share tau rightly. Clopper-Pearson bounds
(1934) on the two hold together with confidence 1 - level, each at level / 2. From there two ways lead to epsilon.

*By the mechanism's own curve* (Nasr et al., USENIX Security 2023, "Tight auditing of differentially private machine
learning", section 4). What the accountant takes for granted is more than one (epsilon, delta): Gaussian noise of
multiplier z on a Poisson sample of rate q, for which no threshold gives more than (Dong, Roth and Su 2019)

    tau = the sum over j = 0..k of P[Binomial(k, q) = j] Phi(Phi^-1(alpha) + j / z),

with k the vectors of the clipping norm that a unit has, each sampled by itself (Choquette-Choo et al. 2024, "Privacy
amplification for matrix mechanisms"); k = 1 where units are sampled. The smallest mu = 1 / z that the bounds on alpha
and tau leave possible is a lower bound, and mu > 1 / z refutes the accountant. It is used for the verdict: all trials
count for it, where an (epsilon, delta) bound lives of the few in the tail, and needs some 1 / delta of them to come
near epsilon. Epsilon of mu is exact (:func:`epsilon_of`).

*Without a curve* (Kairouz, Oh and Viswanath 2015): tau <= exp(epsilon) alpha + delta, and the same with "out" for "in".
It needs no Gaussian, and stands beside the other for mechanisms that turn out to be something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from fedsec_secure.accounting.events import MOST_RECORDS
from fedsec_secure.errors import ConfigError

Values = npt.NDArray[np.float64]
LEAST_NOISE: Final = 0.125
"""The smallest noise multiplier of an audited step."""
_CHOICES = 49
"""Thresholds that are tried: this many quantiles of the first halves together."""
_CAUTIOUS = 1e-9
"""The level at which thresholds are compared: at a larger one some tail with a few lucky trials may win."""


def confidence_level(confidence: float) -> float:
    """1 - ``confidence``; ConfigError unless the confidence is from 0.5 up to, but not including, 1."""
    if not 0.5 <= confidence < 1:
        raise ConfigError(
            f"confidence: expected from 0.5 to below 1, found {confidence}: use 0.95, or 0.999999 in tests"
        )
    return 1 - confidence


def auditable(noise_multiplier: float, delta: float, records: int) -> None:
    """ConfigError for noise, delta or records of a patient that no step has or no audit could show epsilon of."""
    if not (LEAST_NOISE <= noise_multiplier <= 1000 and 0 < delta < 0.1):
        raise ConfigError(
            f"audit: expected a noise multiplier from {LEAST_NOISE} to 1000 and a delta below 0.1, found "
            f"{noise_multiplier} and {delta}: use those of the plan"
        )
    if not 1 <= records <= MOST_RECORDS:
        raise ConfigError(
            f"audit: expected 1 to {MOST_RECORDS} records of a patient, found {records}: use the plan's dp.max_records"
        )


def below(count: int, trials: int, level: float) -> float:
    """Clopper-Pearson: the share of which ``count`` were seen is smaller than this with probability at most level."""
    return 0.0 if count == 0 else float(stats.beta.ppf(level, count, trials - count + 1))


def above(count: int, trials: int, level: float) -> float:
    """Clopper-Pearson: the share of which ``count`` were seen is larger than this with probability at most level."""
    return 1.0 if count == trials else float(stats.beta.isf(level, count + 1, trials - count))


@lru_cache(maxsize=64)
def _weights(rate: float, records: int) -> Values:
    """float64[records + 1]: how likely it is that so many of a unit's vectors are in a sample."""
    found: Values = stats.binom.pmf(np.arange(records + 1), records, rate)
    return found


@lru_cache(maxsize=64)
def _log_weights(rate: float, records: int) -> Values:
    """Their logarithms, also of those that are below the smallest float."""
    found: Values = stats.binom.logpmf(np.arange(records + 1), records, rate)
    return found


def mu_of(alpha: float, tau: float, rate: float, records: int = 1) -> float:
    """The smallest mu = 1 / z with which a threshold can have false positives <= ``alpha`` and true ones >= ``tau``."""
    weights, vectors = _weights(rate, records), np.arange(records + 1)
    if tau <= alpha:
        return 0.0
    if alpha <= 0 or tau >= 1 - weights[0] * (1 - alpha):
        return math.inf
    at = float(special.ndtri(alpha))

    def short(mu: float) -> float:
        return float(weights @ special.ndtr(at + vectors * mu)) - tau

    high = 1.0
    while short(high) < 0:
        high *= 2
    return float(optimize.brentq(short, 0.0, high))


def epsilon_of(mu: float, rate: float, delta: float, records: int = 1) -> float:
    """Epsilon (nats) of one Gaussian step with noise multiplier 1 / ``mu`` on a Poisson sample, exactly.

    With the unit the released value, in deviations of the noise, is a mixture of N(j mu, 1), and N(0, 1) without. The
    logarithm of the ratio of their densities grows with y, so delta of an epsilon is what either law has on its side of
    one y more than exp(epsilon) times the other; y is sought, for a unit that is taken away and for one that is added.
    Agrees with `fedsec.privacy.accountant` up to its grid.
    """
    weights = _weights(rate, records)
    if mu <= 0 or delta >= 1 - weights[0]:
        return 0.0
    if math.isinf(mu):
        return math.inf
    means, logs = np.arange(records + 1) * mu, _log_weights(rate, records)

    def loss(y: float) -> float:
        return float(special.logsumexp(logs + means * y - means**2 / 2))

    def taken(y: float) -> float:
        return float(weights @ special.ndtr(means - y)) - math.exp(loss(y) + special.log_ndtr(-y)) - delta

    def added(y: float) -> float:
        other = float(special.logsumexp(logs + special.log_ndtr(y - means)))
        return float(special.ndtr(y)) - math.exp(other - loss(y)) - delta

    low, high, found = -40.0, 40.0 + means[-1], 0.0
    if taken(low) > 0:
        found = max(found, loss(optimize.brentq(taken, low, high)))
    if added(high) > 0:
        found = max(found, -loss(optimize.brentq(added, low, high)))
    return found


def epsilon_without_curve(alpha: float, tau: float, delta: float) -> float:
    """The smallest epsilon >= 0 (nats) with tau <= exp(epsilon) alpha + delta and the same for "out"."""
    found = 0.0
    for small, large in ((alpha, tau), (1 - tau, 1 - alpha)):
        if large > delta:
            found = max(found, math.inf if small <= 0 else math.log((large - delta) / small))
    return found


@dataclass(frozen=True)
class Bound:
    """Lower bounds from one audit; each holds with the confidence that was asked for."""

    mu: float
    """Of 1 / z, within the family of Gaussian steps."""
    epsilon: float
    """The epsilon of ``mu``."""
    without_curve: float
    """Of epsilon, for whatever mechanism."""


def lower_bound(without: Values, canary: Values, rate: float, delta: float, level: float, records: int = 1) -> Bound:
    """From what the auditor saw in trials without and with the canary, each float64[n], n at least 2.

    Thresholds come from the first half of either, bounds from the second.
    """
    halves = [np.split(values, [len(values) // 2]) for values in (without, canary)]
    (out, out_fresh), (seen, seen_fresh) = halves
    thresholds = np.quantile(np.concatenate([out, seen]), np.linspace(0, 1, _CHOICES + 2)[1:-1])

    def shares(t: float, without: Values, canary: Values, level: float) -> tuple[float, float]:
        false, true = int((without > t).sum()), int((canary > t).sum())
        return above(false, len(without), level / 2), below(true, len(canary), level / 2)

    tried = [shares(t, out, seen, _CAUTIOUS) for t in thresholds]
    by_curve = thresholds[int(np.argmax([mu_of(*pair, rate, records) for pair in tried]))]
    by_ratio = thresholds[int(np.argmax([epsilon_without_curve(*pair, delta) for pair in tried]))]
    mu = mu_of(*shares(by_curve, out_fresh, seen_fresh, level), rate, records)
    free = epsilon_without_curve(*shares(by_ratio, out_fresh, seen_fresh, level), delta)
    return Bound(mu, epsilon_of(mu, rate, delta, records), free)
