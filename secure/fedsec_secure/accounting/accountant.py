"""The accountant, as the ledger sees it: events in, one epsilon out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedsec_secure.accounting.events import Event, Neighbours


class Accountant(Protocol):
    """An upper bound on what a sequence of mechanisms reveals about one unit.

    The ledger refuses by it, and which mechanism comes next depends on what the earlier ones released. So a bound must
    hold as a *privacy filter* (Rogers, Roth, Ullman and Vadhan, NeurIPS 2016): for parameters chosen adaptively while
    the composition stays below a limit fixed beforehand. Adding the Rényi divergences of each order does (Feldman and
    Zrnic, NeurIPS 2021); a composition theorem for parameters fixed in advance need not.
    """

    @property
    def neighbours(self) -> Neighbours:
        """The relation that the numbers are for. Numbers of different relations do not compose."""
        ...

    def epsilon(self, events: Sequence[Event], delta: float, exchanged: Sequence[Event] = ()) -> float:
        """An epsilon (natural logarithms, math.inf allowed) such that all ``events`` together are (epsilon, delta)-DP.

        ``exchanged``: mechanisms beside them whose unit is there either way and may be another one, whatever the
        relation: what one record more or less does to those that protect its patient.
        It never falls when an event is added. ConfigError for a mechanism that it cannot account for.
        """
        ...
