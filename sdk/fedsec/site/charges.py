"""What each release of a site costs, on its privacy ledger before anything private is touched for it."""

from __future__ import annotations

import math
from typing import Final, Protocol

from fedsec.plan.attestation import Epsilon, Privacy
from fedsec.plan.model import Plan
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec_secure.accounting.accountant import TrivialAccountant
from fedsec_secure.accounting.events import Event, NonPrivateRelease
from fedsec_secure.accounting.rules import composed_epsilon
from fedsec_secure.errors import ConfigError, VerificationError

UPDATE, BASELINE = "update", "baseline"
DEFAULT_DELTA: Final = 1e-6
"""Where the plan states none: without differential privacy epsilon is infinite at any."""


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


def releases(plan: Plan) -> list[tuple[int, str, Event]]:
    """(round, purpose, event) of everything that one run of ``plan`` releases from a site.

    ConfigError for a plan with differential privacy, whose mechanisms this version does not run.
    """
    if plan.dp.mode != "none":
        raise ConfigError(f"dp.mode {plan.dp.mode} is not built: no event says what its releases cost")
    updates = [(number, UPDATE, NonPrivateRelease()) for number in range(plan.rounds)]
    baseline = [(plan.rounds, BASELINE, NonPrivateRelease())] if "single" in plan.evaluation.baselines else []
    return [*updates, *baseline]


class LedgerCharges:
    """Charges the releases of one plan to one account of a ledger, on behalf of one write-ahead record.

    Neither file goes back alone: the record holds the ledger's head, the ledger pins the record's state.

    Args:
        ledger: the account: population and unit. Opened with the head that the record expects.
        plan: what runs.
        record: the site's write-ahead record.
        allow_non_private: whether the site's policy lets a plan run without differential privacy.

    Raises:
        VerificationError: the record is an older copy than the ledger knows.
    """

    def __init__(self, ledger: Ledger, plan: Plan, record: SiteStore, *, allow_non_private: bool) -> None:
        self._ledger = ledger
        self._plan = plan
        self._record = record
        self._allow = allow_non_private
        ledger.verify_record(record.chain.id, record.chain.passed)

    def reserve(self, run: str, round_index: int, purpose: str) -> None:
        """PrivacyBudgetExceededError where the ledger refuses; nothing was charged then."""
        self._reserve(run, round_index, purpose)
        self._record.save_ledger_head(self._ledger.head())

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
        delta = self._plan.dp.target_delta or DEFAULT_DELTA
        accountant = TrivialAccountant()
        return Privacy(
            unit=self._plan.dp.unit,
            releases=len(history) - len(before),
            epsilon_before=_stated(composed_epsilon(before, (), accountant, delta)),
            epsilon_after=_stated(composed_epsilon(history, (), accountant, delta)),
            delta=delta,
            ledger_head_sha256=self.head().hex(),
        )

    def _reserve(self, run: str, round_index: int, purpose: str) -> int:
        events = {(number, what): event for number, what, event in releases(self._plan)}
        if (round_index, purpose) not in events:
            raise ConfigError(f"plan {self._plan.name} releases no {purpose} in round {round_index}")
        reservation = self._ledger.reserve(
            run=run,
            round_index=round_index,
            purpose=purpose,
            plan=self._plan.digest(),
            event=events[round_index, purpose],
            neighbours="add-or-remove",
            budgets=(),
            accountant=TrivialAccountant(),
            allow_non_private=self._allow,
            witness=self._record.chain.witness(),
        )
        # Check 76 (lost record): what one record was charged for, another does not release.
        if reservation.record != self._record.chain.id:
            raise VerificationError(
                f"{purpose} of round {round_index} of run {run} was charged by another record of this site: the record "
                "was lost or replaced, and what it had sent is not known. Restore the newest copy, or start a new run"
            )
        return reservation.sequence


def _stated(epsilon: float) -> Epsilon:
    return "infinity" if math.isinf(epsilon) else epsilon
