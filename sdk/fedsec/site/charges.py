"""What each release of a site costs, on its privacy ledger before anything private is touched for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fedsec.plan.model import Plan
from fedsec.site.ledger import Ledger
from fedsec_secure.accounting.accountant import TrivialAccountant
from fedsec_secure.accounting.chain import Head
from fedsec_secure.accounting.events import Event, NonPrivateRelease
from fedsec_secure.errors import ConfigError

UPDATE, BASELINE = "update", "baseline"


class Charges(Protocol):
    """Asked by the site agent around every release."""

    def reserve(self, run: str, round_index: int, purpose: str) -> None:
        """Charge the release, durably, before notes are read for it. The same again charges nothing."""
        ...

    def spend(self, run: str, round_index: int, purpose: str, released: bytes) -> None:
        """Record that the output with this digest (SHA-256 of what is private in it) leaves now."""
        ...

    def head(self) -> bytes:
        """Digest of the ledger's newest entry, for the run's log."""
        ...

    def passed(self, digest: bytes) -> bool:
        """Whether the ledger has or had this head."""
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
    """Charges the releases of one plan to one account of a ledger.

    Args:
        ledger: the account: population and unit.
        plan: what runs.
        allow_non_private: whether the site's policy lets a plan run without differential privacy.
        keep: puts the ledger's head on record elsewhere, after every change.
    """

    def __init__(self, ledger: Ledger, plan: Plan, *, allow_non_private: bool, keep: Callable[[Head], None]) -> None:
        self._ledger = ledger
        self._plan = plan
        self._allow = allow_non_private
        self._keep = keep

    def reserve(self, run: str, round_index: int, purpose: str) -> None:
        """PrivacyBudgetExceededError where the ledger refuses; nothing was charged then."""
        self._reserve(run, round_index, purpose)
        self._keep(self._ledger.head())

    def spend(self, run: str, round_index: int, purpose: str, released: bytes) -> None:
        """LocalMisuseError where another output was released for this before."""
        self._ledger.spend(self._reserve(run, round_index, purpose), released)
        self._keep(self._ledger.head())

    def head(self) -> bytes:
        """32 bytes; zeros before the first entry."""
        return self._ledger.head().digest

    def passed(self, digest: bytes) -> bool:
        """False for a head that is not in the chain: the ledger was rolled back since it was signed."""
        return self._ledger.passed(digest)

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
        )
        return reservation.sequence
