"""When one more release is refused: a privacy filter over everything that was ever reserved.

Charges are chosen adaptively — the next plan is written by people who saw the last one's results — so the ledger is a
*privacy filter* in the sense of Rogers, Roth, Ullman and Vadhan (NeurIPS 2016): the limit is fixed beforehand, and a
mechanism runs only if everything up to and including it stays within. What was spent so far, read at a moment that the
data chose, is their *odometer*; an epsilon that is reported afterwards is the filter's limit or an accountant's bound
for the events, not a promise about later ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedsec_secure.accounting.accountant import Accountant
from fedsec_secure.accounting.chain import History, Reservation
from fedsec_secure.accounting.entries import Charge, PopulationId
from fedsec_secure.accounting.events import Event, Neighbours, Unit, is_private
from fedsec_secure.codec import DIGEST_BYTES
from fedsec_secure.errors import ConfigError, LocalMisuseError, PrivacyBudgetExceededError


@dataclass(frozen=True)
class Budget:
    """The most that one unit may be charged."""

    epsilon: float
    """Natural logarithms, above 0 and finite."""
    delta: float
    """Between 0 and 1, both excluded."""
    scope: Literal["population", "plan"] = "population"
    """What is added up: everything ever charged to the population, or only what the charge's own plan charged."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf or not 0 < self.delta < 1:
            raise ConfigError("a privacy budget has a finite epsilon above 0 and a delta between 0 and 1")


def charged(history: History, population: PopulationId | None, unit: Unit) -> tuple[Reservation, ...]:
    """Every reservation that counts against the units of a population, spent or not.

    Those made for the unit, and every release without differential privacy whatever its unit: it bounds nothing for
    anyone. What protects patients tells of their records too, and counts against records as well. A mechanism that
    protects records is not converted into what a patient with several records has lost: that needs a bound on how many,
    and an account of its own.
    """
    return tuple(
        reservation
        for reservation in history.reservations
        if reservation.charge.population == population
        and (unit in (reservation.charge.unit, "record") or not is_private(reservation.charge.event))
    )


def composed_epsilon(
    reservations: Sequence[Reservation], events: Sequence[Event], accountant: Accountant, delta: float, unit: Unit
) -> float:
    """The accountant's epsilon of a ``unit`` at ``delta`` for all reservations that count against it (`charged`) and
    then ``events``; math.inf is an answer.

    A record more or less leaves its patient there, with other records: where patients are protected, it exchanges one.

    ConfigError where a reservation was made under another neighbouring relation than the accountant's, or where the
    accountant cannot account for a mechanism.
    """
    if not 0 < delta < 1:
        raise ConfigError("a delta lies between 0 and 1, both excluded")
    for reservation in reservations:
        if is_private(reservation.charge.event):
            _check_relation(reservation.charge.neighbours, accountant, f"entry {reservation.sequence}")
    own = [r.charge.event for r in reservations if r.charge.unit == unit]
    others = [r.charge.event for r in reservations if r.charge.unit != unit]
    epsilon = accountant.epsilon((*own, *events), delta, others)
    if not epsilon >= 0:  # NaN compares false: no accountant's fault may pass for a small number
        raise LocalMisuseError(f"{type(accountant).__name__} gave an epsilon that is negative or not a number")
    return epsilon


def may_reserve(
    history: History,
    charge: Charge,
    budgets: Sequence[Budget],
    accountant: Accountant,
    *,
    allow_non_private: bool = False,
) -> Reservation | None:
    """Whether ``charge`` may be made: None if it may, or the reservation that was made for it before.

    Args:
        history: everything that was reserved up to now, verified.
        charge: what is asked for.
        budgets: what the officer and the plan allow; all of them hold. Empty where no differential privacy is promised:
            then everything is recorded and nothing is compared.
        accountant: composes the events.
        allow_non_private: whether the officer's policy lets a study run without such a promise (``dp.mode none``).

    Raises:
        PrivacyBudgetExceededError: a budget does not hold with this charge, or there is none and it takes one.
        LocalMisuseError: the same run, round and purpose was charged for something else.
        ConfigError: the accountant cannot tell, or relations are mixed.
    """
    before = history.reserved(charge)
    if before is not None:
        # A site that crashed asks again: it is charged once, and gets nothing else for it.
        if before.charge != charge:
            raise LocalMisuseError(
                f"expected the charge that entry {before.sequence} made for {charge.purpose!r} of round {charge.round} "
                f"of run {charge.run!r}; found another event, plan or relation: start a new run for another release"
            )
        return before
    if not budgets and not allow_non_private:
        raise PrivacyBudgetExceededError(
            f"expected a privacy budget per {charge.unit}, found none: the policy has to name one, or to allow "
            "releases without differential privacy"
        )
    earlier = charged(history, charge.population, charge.unit)
    if is_private(charge.event):
        _check_relation(charge.neighbours, accountant, f"{charge.purpose!r} of round {charge.round}")
    for budget in budgets:
        _check_budget(earlier, charge, budget, accountant)
    return None


def _check_budget(earlier: Sequence[Reservation], charge: Charge, budget: Budget, accountant: Accountant) -> None:
    counted = [r for r in earlier if budget.scope == "population" or r.charge.plan == charge.plan]
    epsilon = composed_epsilon(counted, [charge.event], accountant, budget.delta, charge.unit)
    if epsilon <= budget.epsilon:
        return
    bare = next((r for r in counted if not is_private(r.charge.event)), None)
    if bare is not None:
        why = f"entry {bare.sequence} released something without differential privacy, and that is never undone"
    elif not is_private(charge.event):
        why = "this release is without differential privacy"
    else:
        why = f"{len(counted)} earlier reservations count, spent or not"
    raise PrivacyBudgetExceededError(
        f"expected at most epsilon {budget.epsilon:.6g} at delta {budget.delta:.3g} per {charge.unit} of this "
        f"{budget.scope}; {charge.purpose!r} of round {charge.round} would make it {epsilon:.6g}: {why}. Nothing was "
        "charged; ask for more noise, fewer steps, or a budget that the officer approves"
    )


def _check_relation(neighbours: Neighbours, accountant: Accountant, whose: str) -> None:
    if neighbours != accountant.neighbours:
        raise ConfigError(
            f"expected neighbours by {accountant.neighbours}, found {neighbours} in {whose}: the two do not compose; "
            "use one relation for all plans of a population"
        )


def may_spend(history: History, sequence: int, released: bytes) -> bool:
    """Whether an entry has to be written before ``released`` (a digest) leaves for reservation ``sequence``.

    False where that was written before: the same output may go out again. LocalMisuseError where nothing was reserved,
    or where another output has used the reservation: what left once is charged, and a second output is a second charge.
    """
    reservation = history.reservation(sequence)
    if reservation is None or len(released) != DIGEST_BYTES:
        raise LocalMisuseError(f"expected a reservation and a digest of {DIGEST_BYTES} bytes to spend entry {sequence}")
    if reservation.released is not None and reservation.released != released:
        raise LocalMisuseError(
            f"expected the output that entry {sequence} was spent on, found another: a reservation pays for one output"
        )
    return reservation.released is None
