"""What each release of a site costs, on its privacy ledger before anything private is touched for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedsec.plan.attestation import Epsilon, Privacy
from fedsec.plan.cost import RELATION, cost, releases
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.privacy.accountant import RdpFilter
from fedsec.privacy.shown import shown_epsilon
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec_secure.accounting.chain import Reservation
from fedsec_secure.accounting.rules import Budget, composed_epsilon
from fedsec_secure.errors import ConfigError, PrivacyBudgetExceededError, VerificationError


class Charges(Protocol):
    """Asked by the site agent around every release."""

    def reserve(self, run: str, round_index: int, purpose: str) -> None:
        """Charge the release, durably, before notes are read for it. The same again charges nothing."""
        ...

    def spend(self, run: str, round_index: int, purpose: str, released: bytes) -> None:
        """Record that the output with this digest (SHA-256 of what is private in it) leaves now."""
        ...

    def pin(self) -> None:
        """Tie the ledger to the record as it is now, before an answer leaves."""
        ...

    def head(self) -> bytes:
        """Digest of the ledger's newest entry, for the run's log."""
        ...

    def passed(self, digest: bytes) -> bool:
        """Whether the ledger has or had this head."""
        ...

    def privacy(self, run: str) -> Privacy:
        """What this run cost, for the site's attestation."""
        ...


class LedgerCharges:
    """Charges the releases of one plan to one account of a ledger, on behalf of one write-ahead record.

    Neither file goes back alone: the record holds the ledger's head, the ledger pins the record's state.

    Args:
        ledger: the account: population and unit. Opened with the head that the record expects.
        plan: what runs.
        record: the site's write-ahead record.
        policy: the site's, whose budgets hold.

    Raises:
        VerificationError: the record is an older copy than the ledger knows.
    """

    def __init__(self, ledger: Ledger, plan: Plan, record: SiteStore, policy: Policy) -> None:
        self._ledger = ledger
        self._plan = plan
        self._record = record
        self._policy = policy
        ledger.verify_record(record.chain.id, record.chain.passed)

    def reserve(self, run: str, round_index: int, purpose: str) -> None:
        """PrivacyBudgetExceededError where the ledger refuses; nothing was charged then."""
        self._reserve(run, round_index, purpose)
        self._record.save_ledger_head(self._ledger.head())

    def require_room(self) -> None:
        """PrivacyBudgetExceededError where all of one more run does not fit. Charges nothing."""
        require_room(rooms(self._plan, self._policy, self._ledger.population, self._ledger.history()), self._plan)

    def spend(self, run: str, round_index: int, purpose: str, released: bytes) -> None:
        """LocalMisuseError where another output was released for this before."""
        reservation = self._reserve(run, round_index, purpose)
        self._ledger.spend(reservation, released, witness=self._record.chain.witness())
        self._record.save_ledger_head(self._ledger.head())

    def pin(self) -> None:
        """Pin the record's state in the ledger, unless it is pinned: before each answer leaves."""
        self._ledger.pin(self._record.chain.witness())

    def head(self) -> bytes:
        """32 bytes; zeros before the first entry."""
        return self._ledger.head().digest

    def passed(self, digest: bytes) -> bool:
        """False for a head that is not in the chain: the ledger was rolled back since it was signed."""
        return self._ledger.passed(digest)

    def privacy(self, run: str) -> Privacy:
        """Before the run and after it, at the plan's delta."""
        history = self._ledger.history()
        before = [r for r in history if r.charge.run != run]
        planned, accountant, unit = cost(self._plan), RdpFilter(RELATION), self._plan.dp.unit
        return Privacy(
            unit=unit,
            releases=len(history) - len(before),
            epsilon_run=_stated(planned.epsilon),
            epsilon_run_replace_one=_stated(planned.replace_one),
            epsilon_before=_stated(composed_epsilon(before, (), accountant, planned.delta, unit)),
            epsilon_after=_stated(composed_epsilon(history, (), accountant, planned.delta, unit)),
            delta=planned.delta,
            ledger_head_sha256=self.head().hex(),
        )

    def _reserve(self, run: str, round_index: int, purpose: str) -> int:
        events = {(number, what): event for number, what, event in releases(self._plan)}
        if (round_index, purpose) not in events:
            raise ConfigError(f"plan {self._plan.name} releases no {purpose} in round {round_index}")
        if not any(r.charge.run == run for r in self._ledger.history()):
            # Before a run's first charge: all that it will charge has to fit, or it would stop half-way, paid for.
            self.require_room()
        reservation = self._ledger.reserve(
            run=run,
            round_index=round_index,
            purpose=purpose,
            plan=self._plan.digest(),
            event=events[round_index, purpose],
            neighbours=RELATION,
            budgets=budgets_of(self._plan, self._policy, self._ledger.population),
            accountant=RdpFilter(RELATION),
            allow_non_private="none" in self._policy.dp_modes,
            witness=self._record.chain.witness(),
        )
        # Check 76 (lost record): what one record was charged for, another does not release.
        if reservation.record != self._record.chain.id:
            raise VerificationError(
                f"{purpose} of round {round_index} of run {run} was charged by another record of this site: the record "
                "was lost or replaced, and what it had sent is not known. Restore the newest copy, or start a new run"
            )
        return reservation.sequence


@dataclass(frozen=True)
class Room:
    """One budget, and the epsilon of what counts in it, at the budget's own delta."""

    budget: Budget
    earlier: int
    """Reservations that count in it."""
    before: float
    after: float
    """With all that one more run of the plan charges."""


def rooms(plan: Plan, policy: Policy, population: str, history: Sequence[Reservation]) -> list[Room]:
    """Each of `budgets_of`, before one more run of ``plan`` and after it. ``history``: the account's reservations.

    PrivacyBudgetExceededError and ConfigError as `budgets_of` and `composed_epsilon`.
    """
    events, accountant = [event for _, _, event in releases(plan)], RdpFilter(RELATION)

    def room(budget: Budget) -> Room:
        counted = [r for r in history if budget.scope == "population" or r.charge.plan == plan.digest()]
        unit = plan.dp.unit
        before, after = (composed_epsilon(counted, more, accountant, budget.delta, unit) for more in ((), events))
        return Room(budget, len(counted), before, after)

    return [room(budget) for budget in budgets_of(plan, policy, population)]


def require_room(found: Sequence[Room], plan: Plan) -> None:
    """PrivacyBudgetExceededError unless one more run of ``plan`` stays within every budget."""
    for room in found:
        if room.after > room.budget.epsilon:
            what_to_do = _NO_MORE if math.isinf(room.before) else _LESS
            raise PrivacyBudgetExceededError(
                f"expected at most epsilon {room.budget.epsilon:.6g} at delta {room.budget.delta:.3g} per "
                f"{plan.dp.unit} of this {room.budget.scope}; all of this run would make it "
                f"{shown_epsilon(room.after, 6)}: {room.earlier} earlier reservations count. "
                f"Nothing was charged; {what_to_do}"
            )


_LESS = "ask for more noise, fewer steps, or a budget that the officer approves"
_NO_MORE = (
    "what was released before has no bound, as without differential privacy, and that is never undone: no noise and no "
    "budget over all studies can hold for these patients"
)


def budgets_of(plan: Plan, policy: Policy, population: str) -> tuple[Budget, ...]:
    """What a charge of ``plan`` has to keep: its own target, and the officer's limits for one study and for all.

    Empty without differential privacy. PrivacyBudgetExceededError where the policy has no line for this data set.
    """
    dp = plan.dp
    if dp.mode == "none":
        return ()
    line = policy.budget(dp.unit, population)
    if line is None or dp.target_epsilon is None or dp.target_delta is None:
        raise PrivacyBudgetExceededError(
            f"expected a budget per {dp.unit} of population {population!r} in the policy, found none: nothing may be "
            "charged to it; the officer adds a line to budgets"
        )
    return (
        Budget(dp.target_epsilon, dp.target_delta, "plan"),
        Budget(line.max_epsilon, line.max_delta, "plan"),
        Budget(line.total, line.max_delta, "population"),
    )


def _stated(epsilon: float) -> Epsilon:
    return "infinity" if math.isinf(epsilon) else epsilon
