"""What a coordinator knows of a run, whatever it does next: plan, keys, floors, and where it says what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedsec.plan.model import Plan
from fedsec.training.adapter import AdapterState
from fedsec.training.strategies import shared_names
from fedsec.wire import core_roster, sum_parameters, weight_rule
from fedsec_secure.codec import Sign
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.parameters import Cohort, Group, SumParameters
from fedsec_secure.record.entries import Entry, RefusalEntry, printable

Report = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class Driver:
    """Everything about a run that does not change from round to round."""

    plan: Plan
    run: str
    sign: Sign = field(repr=False)
    report: Report = lambda event: None
    record: Callable[[Entry], None] = lambda entry: None
    """Into the run's log. What follows from the same outcomes is recorded again, the same, in a replay."""
    loss: Callable[[AdapterState], float] | None = field(default=None, repr=False)
    """Of an adapter on the plan's validation set, in nats an answer token, where the plan weighs groups by it."""

    asked: Callable[[], int] | None = field(default=None, repr=False)
    """How many exchanges this process has made, and not found in the journal."""

    @property
    def roster(self) -> Roster:
        """The pinned keys."""
        return core_roster(self.plan)

    def note(self, event: str, index: int, exchange: str, sites: Mapping[SiteId, str]) -> None:
        """Report and log who is out of an exchange of round ``index``, and why."""
        if sites:
            self.report({"event": event, "round": index, "exchange": exchange, "sites": dict(sites)})
        for site, reason in sorted(sites.items()):
            self.record(RefusalEntry(site=site, exchange=exchange, reason=printable(reason)))

    def group(self) -> Group:
        """Who aggregates under masks, with the plan's floors."""
        secure = self.plan.secure
        return Group(self.roster, secure.minimum_cohort, secure.threshold, rule=weight_rule(self.plan))

    def cohort(self) -> Cohort:
        """Who takes part, with the plan's floors: the group where there are masks."""
        if self.plan.secure.is_masked:
            return self.group()
        return Cohort(self.roster, self.plan.secure.minimum_cohort, rule=weight_rule(self.plan))

    def parameters(self, shapes: Mapping[str, tuple[int, ...]], round_index: int) -> SumParameters:
        """The bounds of a round's sum. ``shapes``: of what the round starts from."""
        names = shared_names(self.plan.lora.strategy, shapes, round_index)
        return sum_parameters(self.plan, sum(int(np.prod(shapes[n])) for n in names))
