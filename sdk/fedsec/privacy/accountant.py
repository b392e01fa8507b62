"""The accountants: privacy loss distributions for the number that is reported, Rényi divergences for the decision.

Both are upper bounds: every rounding step goes up. PLD is tight, but its composition is proved for mechanisms that were
fixed in advance; the ledger admits mechanisms that people choose after seeing results, so a filter decides there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import scipy

from fedsec.privacy.mechanisms import Mechanism, mechanisms
from fedsec.privacy.renyi import Floats, divergences, epsilon_at_best_order, epsilon_for_any_choice
from fedsec_secure.accounting.events import (
    NEIGHBOURS,
    Event,
    GaussianEvent,
    Neighbours,
    PoissonSampledEvent,
    PoissonSampledRecordsEvent,
    SelfComposed,
)
from fedsec_secure.errors import ConfigError

INTERVAL: Final = 1e-3
"""Grid of the privacy loss, in nats; losses are rounded up to it ("connect the dots", Doroshenko et al., PETS 2022)."""
LARGEST: Final = 50.0
"""Where the Rényi bound is above this, it stands, and no large table is made. Of many sampled records it can be far
above what a PLD would give."""
SMALLEST_DELTA: Final = 1e-10
"""Below, rounding in the PLD's Fourier transforms, some 1e-15 of mass, is no longer negligible: Rényi stands."""
TABULATED: Final = {"rate": 1e-9, "noise": 1e4, "count": 10**6}
"""Smallest rate, largest noise and largest count for which a PLD is made: beyond, each loss is far below the grid and
tables would lose more than they gain. Rényi stands there too."""
_MOST_THOUSANDTHS: Final = 10**9
_HINTS: Final = {
    "sampling rate": "use the expected batch size divided by the number of units",
    "noise multiplier": "use the noise's standard deviation divided by the clipping norm",
    "number of steps": "count every step, those on empty batches too",
}


def _check(neighbours: Neighbours, delta: float = 0.5) -> None:
    if neighbours not in NEIGHBOURS:
        raise ConfigError(
            f"accountant: expected neighbours by {' or '.join(NEIGHBOURS)}, found {neighbours!r}: use one"
        )
    if isinstance(delta, bool) or not 0 < delta < 1:
        raise ConfigError(f"accountant: expected a delta between 0 and 1, both excluded, found {delta}: use 1e-6 or so")


@dataclass(frozen=True)
class _Found:
    """How often each mechanism runs: those whose units are counted, and those that exchange one."""

    own: Mapping[Mechanism, int]
    exchanged: Mapping[Mechanism, int]

    def divergences(self, neighbours: Neighbours) -> Floats:
        """Upper bounds by order. What is exchanged may be gone as well."""
        exchanged = np.maximum(*(divergences(self.exchanged, relation) for relation in NEIGHBOURS))
        return divergences(self.own, neighbours) + exchanged


def _of_one_record(found: Mapping[Mechanism, int]) -> Mapping[Mechanism, int]:
    """Of several sampled vectors of a patient one record is one, by a coin of its own."""
    merged: Counter[Mechanism] = Counter()
    for mechanism, count in found.items():
        merged[Mechanism(mechanism.rate, mechanism.noise)] += count
    return merged


class RenyiAccountant:
    """The best single Rényi order, for mechanisms fixed in advance. A cross-check of PLD, above it."""

    def __init__(self, neighbours: Neighbours = "add-or-remove") -> None:
        _check(neighbours)
        self._neighbours: Neighbours = neighbours

    @property
    def neighbours(self) -> Neighbours:
        """The relation that the numbers are for."""
        return self._neighbours

    def epsilon(self, events: Sequence[Event], delta: float, exchanged: Sequence[Event] = ()) -> float:
        """Natural logarithms; 0.0 for no events, math.inf for a release without privacy. ConfigError otherwise.

        ``exchanged``: mechanisms beside them that protect patients, where a unit is a record. A patient's vector is
        then another one, or, where it was the only record, gone; of several sampled vectors one is.
        """
        _check(self._neighbours, delta)
        own, others = mechanisms(events), mechanisms(exchanged)
        if own is None or others is None:
            return math.inf
        if not own and not others:
            return 0.0
        found = _Found(own, _of_one_record(others))
        if self._neighbours == "replace-one" and (others or any(mechanism.records > 1 for mechanism in own)):
            # Beside patients: a record and the one that takes its place may be of two of them, and exchange two.
            return self._by_two_steps(found, delta)
        return self._of(found, delta, self._neighbours)

    def _by_two_steps(self, found: _Found, delta: float) -> float:
        """Exchanging a unit is removing one and adding another: twice epsilon, at a smaller delta.

        If each step is (epsilon, share)-private, both are (2 epsilon, share (1 + exp(epsilon)))-private (Vadhan 2017,
        the proof of lemma 2.2). The share is searched; whatever is found holds, and where none is, nothing is promised.
        """

        def fits(share: float) -> bool:
            once = self._of(found, math.exp(share), "add-or-remove")
            return once < 700 and share + math.log1p(math.exp(once)) <= math.log(delta)

        low, high = -300.0, math.log(delta)
        if not fits(low):
            return math.inf
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return 2 * self._of(found, math.exp(low), "add-or-remove")

    def _of(self, found: _Found, delta: float, neighbours: Neighbours) -> float:
        return epsilon_at_best_order(found.divergences(neighbours), delta)


class RdpFilter(RenyiAccountant):
    """The ledger's accountant: its number is valid as a privacy filter.

    Mechanisms may be chosen after seeing earlier results, in any way, as long as each runs only if this number, for
    everything up to and including it, is at most a limit fixed beforehand. That costs 12 to 37 % over the best single
    order in the cases of ``docs/privacy.md``; see :func:`fedsec.privacy.renyi.epsilon_for_any_choice`. Where exchanging
    is removing and adding (replace-one with sampled records, or beside patients), how delta is shared depends on what
    was spent: the number is an upper bound then, and proved for mechanisms fixed in advance. No ledger decides by it.
    """

    def _of(self, found: _Found, delta: float, neighbours: Neighbours) -> float:
        total = found.divergences(neighbours)
        return max(epsilon_for_any_choice(total, delta), epsilon_at_best_order(total, delta))


class PldAccountant(RenyiAccountant):
    """The number that is reported: privacy loss distributions of dp-accounting, pessimistic, on a grid of 1e-3.

    For mechanisms fixed in advance. Discretisation and truncation round up. The smaller of this and the Rényi bound is
    given, as both hold; above :data:`LARGEST`, for a delta below :data:`SMALLEST_DELTA`, for mechanisms beyond
    :data:`TABULATED` and beside exchanged units the Rényi bound alone.
    """

    def _of(self, found: _Found, delta: float, neighbours: Neighbours) -> float:
        bound = super()._of(found, delta, neighbours)
        tabulated = not found.exchanged and all(_is_tabulated(*item) for item in found.own.items())
        if bound > LARGEST or delta < SMALLEST_DELTA or not tabulated:
            return bound
        total: Any = None
        for mechanism, count in found.own.items():
            part = _distribution(mechanism, count, neighbours)
            total = part if total is None else total.compose(part)
        return min(bound, max(0.0, float(total.get_epsilon_for_delta(delta))))


def _is_tabulated(mechanism: Mechanism, count: int) -> bool:
    usual = mechanism.rate >= TABULATED["rate"] and mechanism.noise <= TABULATED["noise"]
    return usual and count <= TABULATED["count"]


@lru_cache(maxsize=64)
def _distribution(mechanism: Mechanism, count: int, neighbours: Neighbours) -> Any:
    """The privacy loss distribution of one mechanism, ``count`` times: where ours becomes dp-accounting's."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    relation = {
        "add-or-remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }
    if mechanism.records > 1:
        among = range(mechanism.records + 1)
        once = privacy_loss_distribution.from_mixture_gaussian_mechanism(
            mechanism.noise,
            [float(j) for j in among],
            scipy.stats.binom.pmf(among, mechanism.records, mechanism.rate).tolist(),
            pessimistic_estimate=True,
            value_discretization_interval=INTERVAL,
        )
        return once if count == 1 else once.self_compose(count)
    # Gaussians without sampling add up to one; a table composed with itself would round each time.
    whole = mechanism.rate == 1.0
    once = privacy_loss_distribution.from_gaussian_mechanism(
        mechanism.noise / math.sqrt(count) * (1 - 1e-15) if whole else mechanism.noise,
        pessimistic_estimate=True,
        value_discretization_interval=INTERVAL,
        sampling_prob=mechanism.rate,
        neighboring_relation=relation[neighbours],
    )
    return once if whole or count == 1 else once.self_compose(count)


def steps_of(rate: float, noise: float, steps: int, records: int = 1) -> Event:
    """The event of ``steps`` steps of DP-SGD: a fresh Poisson sample each, then a Gaussian mechanism.

    With ``records`` above 1 it is records that are sampled and clipped, of which a unit has so many at most.
    ConfigError for a rate outside (0, 1], a noise multiplier outside 1e-6 to 1e6, or steps outside 1 to 2^53 - 1.
    """
    for what, value, low, high in (
        ("sampling rate", rate, math.ulp(0.0), 1.0),
        ("noise multiplier", noise, 1e-6, 1e6),
        ("number of steps", steps, 1, (1 << 53) - 1),
    ):
        if not low <= value <= high:
            raise ConfigError(f"accountant: expected a {what} from {low:g} to {high:g}, found {value}: {_HINTS[what]}")
    once = GaussianEvent(float(noise))
    sampled = (
        PoissonSampledEvent(float(rate), once)
        if records == 1
        else PoissonSampledRecordsEvent(float(rate), records, once)
    )
    return SelfComposed(sampled, steps)


@lru_cache(maxsize=64)
def calibrate(
    target_epsilon: float,
    delta: float,
    rate: float,
    steps: int,
    neighbours: Neighbours = "add-or-remove",
    records: int = 1,
    beside: Event | None = None,
) -> float:
    """The smallest noise multiplier, to 3 decimals and rounded up, with which all steps stay within the target.

    The ledger's number (:class:`RdpFilter`) decides, so that a ledger that holds nothing else accepts the steps. The
    one that is reported (:class:`PldAccountant`) is never larger.

    Args:
        target_epsilon: above 0 and finite, natural logarithms.
        delta: between 0 and 1, both excluded.
        rate: of the Poisson sampling, above 0 and at most 1.
        steps: how many, from 1.
        neighbours: the relation of the target.
        records: as in :func:`steps_of`.
        beside: what is released besides the steps, and counts within the same target.

    Raises:
        ConfigError: an argument is no such number, or no noise multiplier up to 10^6 is enough.
    """
    _check(neighbours, delta)
    if not 0 < target_epsilon < math.inf:
        raise ConfigError(
            f"accountant: expected a finite epsilon above 0 as target, found {target_epsilon}: use 1 to 8"
        )
    accountant, rest = RdpFilter(neighbours), [] if beside is None else [beside]

    def holds(thousandths: int) -> bool:
        step = steps_of(rate, thousandths / 1000, steps, records)
        return accountant.epsilon([step, *rest], delta) <= target_epsilon

    low, high = 0, 1000
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST_THOUSANDTHS:
            once = accountant.epsilon([steps_of(rate, _MOST_THOUSANDTHS / 1000, 1, records), *rest], delta)
            # Nearly all of it is the conversion's share, which no noise and no count of steps lowers.
            less = "fewer steps or more epsilon" if once <= target_epsilon else "more epsilon or a larger delta"
            raise ConfigError(
                "accountant: expected a target that some noise multiplier up to 10^6 meets, found epsilon "
                f"{target_epsilon:g} at delta {delta:g} for {steps} steps: take {less}"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high / 1000
