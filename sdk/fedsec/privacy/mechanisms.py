"""Ledger events as what accountants know: Gaussian mechanisms on Poisson samples, each with a count.

*Sums of discrete Gaussians* are Gaussian mechanisms too, seen through a random map, up to a factor that is nothing.
Write v for a variance, and lambda(v) = log((1 + h) / (1 - h)) with h = 2 sum over m >= 1 of exp(-2 pi^2 v m^2). By
Poisson's summation formula, for every real c,

    the sum over integers x of exp(-(x - c)^2 / 2v)  lies in  sqrt(2 pi v) [1 - h, 1 + h].                         (1)

- *n discrete Gaussians of parameter sigma.* Completing squares, P(X_1 + ... + X_n = z) is proportional to
  exp(-z^2 / (2 n sigma^2)) F_n(z), where F_1 = 1 and F_(k+1)(z) is the sum over x of exp(-(x - cz)^2 / 2v) F_k(x) with
  c = k / (k + 1), v = c sigma^2. By (1), log F_n varies by at most the sum of lambda(sigma^2 k / (k + 1)) over k < n.
  (Kairouz, Liu and Steinke, ICML 2021: the tau of their theorem 1 is about twice that.)
- *One Gaussian y of variance n sigma^2 - v,* mapped to the integer x with probability proportional to
  exp(-(x - y)^2 / 2v). If y has the integer mean m, P(x) is proportional to exp(-(x - m)^2 / (2 n sigma^2)) H(x), and
  by (1) log H varies by at most lambda(v). The map does not depend on m. (Peikert, CRYPTO 2010, theorem 3.1.)

Both are laws on the same integers with the same exponential, and both sum to 1. So in d coordinates the logarithm of
their ratio is at most d times the sum of these lambdas: with v = 8 = 4^2 / 2, sigma >= 4, n <= 2^15 and d <= 2^40, at
most n d lambda(8) < 2^-170. That also holds for mixtures over samples and roundings, with the same weights, and for
each step of a composition given the earlier ones. So 2^53 steps are within factors exp(2^-117) of the same steps with
Gaussian noise, followed by a map that knows no data. What is proved of those, under either relation, holds of these,
with divergences of order a larger by at most 2^-117 (2a - 1) / (a - 1) and epsilons by 2^-116: less than the slack of
``renyi``, and than what a float of an epsilon can show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Final, NamedTuple

from fedsec_secure.accounting.events import (
    Composed,
    DiscreteGaussianSumEvent,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    PoissonSampledRecordsEvent,
    SelfComposed,
    is_private,
)
from fedsec_secure.errors import ConfigError

SMOOTHING: Final = 8
"""v above, in squared integer units: how much smaller the variance of the Gaussian is that is accounted for."""
LEAST_CLIP: Final = 2.0**-64
"""Of a clipping norm, in the gradient's unit: below 2^-1000 floats have no bits left for a grid's step, and noise that
is counted in steps would be short."""
_LARGEST_NOISE: Final = 1e6


class Mechanism(NamedTuple):
    """Gaussian noise on the sum over one Poisson sample."""

    rate: float
    """Above 0 and at most 1, where 1 is no sampling."""
    noise: float
    """Standard deviation of the noise over the clipping norm."""
    records: int = 1
    """How many vectors of the clipping norm a unit has, each in the sample by a coin of its own. With more than one,
    ``rate`` is below 1."""


def mechanisms(events: Iterable[Event]) -> dict[Mechanism, int] | None:
    """How often each mechanism runs, sorted; None where something was released without privacy.

    The same events give the same value in any order and any nesting, so a sum over it is the same to the last bit.
    Merging rounds rates up and noise down. ConfigError for what cannot be accounted for.
    """
    found: Counter[Mechanism] = Counter()
    for event in events:
        if not is_private(event):
            return None
        _add(event, 1, found)
    return dict(sorted(found.items()))


def _add(event: Event, count: int, found: Counter[Mechanism]) -> None:
    match event:
        case SelfComposed(inner, repeats):
            _add(inner, count * repeats, found)
        case Composed(parts):
            for part in parts:
                _add(part, count, found)
        case _:
            found[_on_one_sample(event)] += count


def _on_one_sample(event: Event) -> Mechanism:
    """The one mechanism that ``event`` amounts to, where all of it runs on the same units."""
    match event:
        case GaussianEvent(noise):
            return Mechanism(1.0, noise)
        case DiscreteGaussianSumEvent():
            return Mechanism(1.0, _noise_of_sum(event))
        case PoissonSampledRecordsEvent(rate, records, inner):
            return _of_records(rate, records, _on_one_sample(inner))
        case PoissonSampledEvent(rate, inner):
            # A sample of a sample is a sample.
            below = _on_one_sample(inner)
            if below.records > 1:
                raise ConfigError(_unknown("a sample of records drawn from a sample"))
            product = rate * below.rate if 1.0 in (rate, below.rate) else math.nextafter(rate * below.rate, 1.0)
            return Mechanism(product, below.noise)
        case SelfComposed(inner, count):
            return _merged([(_on_one_sample(inner), count)])
        case Composed(parts):
            return _merged([(_on_one_sample(part), 1) for part in parts])
    raise ConfigError(_unknown(type(event).__name__))


def _of_records(rate: float, records: int, below: Mechanism) -> Mechanism:
    if below.rate != 1.0:
        raise ConfigError(_unknown("a sample drawn from a sample of records"))
    if rate == 1.0:  # the unit is one vector, so many times as long
        return Mechanism(1.0, below.noise / records * (1 - 1e-15))
    return Mechanism(rate, below.noise, records)


def _noise_of_sum(event: DiscreteGaussianSumEvent) -> float:
    variance = event.summands * Fraction(event.sigma) ** 2 - SMOOTHING
    return min(_LARGEST_NOISE, root_below(variance / Fraction(event.sensitivity) ** 2))


def root_below(value: Fraction) -> float:
    """The largest float whose square is at most ``value``, which is at least 0."""
    root = math.nextafter(math.sqrt(value), math.inf)
    while Fraction(root) ** 2 > value:
        root = math.nextafter(root, 0.0)
    return root


def root_above(value: Fraction) -> float:
    """The smallest float whose square is at least ``value``, which is at least 0."""
    root = root_below(value)
    return root if Fraction(root) ** 2 == value else math.nextafter(root, math.inf)


def _merged(parts: list[tuple[Mechanism, int]]) -> Mechanism:
    """Several Gaussians on one vector are one, with the inverse variances added."""
    if any(part.rate != 1.0 for part, _ in parts):
        raise ConfigError(_unknown("several samples drawn from one sample"))
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    precision = math.fsum(count / part.noise**2 for part, count in parts)
    return Mechanism(1.0, precision**-0.5 * (1 - 1e-15))


def _unknown(found: str) -> str:
    return (
        f"privacy accounting: expected Gaussian mechanisms, on all units or on a Poisson sample, found {found}: no "
        "epsilon can be given for it; charge it as a release without differential privacy, or leave it out of the plan"
    )
