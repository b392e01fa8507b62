"""What a site agent is given: who the site is, what its officer lets it do, and the work that is done on its notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedsec.site.charges import Charges
from fedsec.training.adapter import AdapterState
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.secrets import SecretBytes


class SiteWork(Protocol):
    """What happens to the notes. Only updates' encodings and, where allowed, public scores ever leave."""

    def initial_adapter(self) -> AdapterState:
        """The adapter that the plan fixes for round 0."""
        ...

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        """Local training of one round. Order and dropout depend on the run id: no two runs give one update."""
        ...

    def weight(self) -> int:
        """The site's weight under the plan's rule, within its bounds."""
        ...

    def single_scores(self, first: AdapterState, run: str, checkpoint: Callable[[int], Path]) -> bytes:
        """Go on alone from this site's own round-0 adapter; scores on the plan's public tests as JSON."""
        ...


@dataclass(frozen=True)
class SiteIdentity:
    """Who this site is, and what its officer lets it do.

    Attributes:
        authorise: raises where the approval or the policy does not hold (any more); called before every answer.
        minimum_cohort: the policy's own floor; the larger of it and the plan's counts.
        min_cohort_change: the policy's own least difference of two survivor sets; the larger of it and the plan's
            counts.
        max_runs: run ids that one plan may have here.
        rounding_secret: keys the rounding coins; the same for the same site key.
        charges: the privacy ledger, asked before training and before an update leaves.
    """

    me: SiteId
    key: SigningKey
    authorise: Callable[[], None]
    minimum_cohort: int
    max_runs: int
    min_cohort_change: int
    rounding_secret: SecretBytes = field(repr=False)
    charges: Charges = field(repr=False)
