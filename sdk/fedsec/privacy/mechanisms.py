"""Ledger events as what accountants know: Gaussian mechanisms on Poisson samples, each with a count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from fedsec_secure.accounting.events import (
    Composed,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposed,
    is_private,
)
from fedsec_secure.errors import ConfigError


class Mechanism(NamedTuple):
    """Gaussian noise on the sum over one Poisson sample."""

    rate: float
    """Above 0 and at most 1, where 1 is no sampling."""
    noise: float
    """Standard deviation of the noise over the clipping norm."""


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
        case PoissonSampledEvent(rate, inner):
            # A sample of a sample is a sample.
            below = _on_one_sample(inner)
            product = rate * below.rate if 1.0 in (rate, below.rate) else math.nextafter(rate * below.rate, 1.0)
            return Mechanism(product, below.noise)
        case SelfComposed(inner, count):
            return _merged([(_on_one_sample(inner), count)])
        case Composed(parts):
            return _merged([(_on_one_sample(part), 1) for part in parts])
    raise ConfigError(_unknown(type(event).__name__))


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
