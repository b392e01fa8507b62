"""What a site agent is given: who the site is, what its officer lets it do, and the work that is done on its notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedsec.data.canaries import Canary
from fedsec.plan.policy import Policy
from fedsec.privacy.distributed import DistributedStep
from fedsec.site.charges import Charges
from fedsec.training.adapter import AdapterState
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.lanes import Ints
from fedsec_secure.secrets import SecretBytes

Progress = Callable[[dict[str, object]], None]
"""Told by small dictionaries how far long work is: counts, losses. They stay at the site."""


class SiteWork(Protocol):
    """What happens to the notes. Only updates' encodings and, where allowed, public scores ever leave."""

    def initial_adapter(self) -> AdapterState:
        """The adapter that the plan fixes for round 0."""
        ...

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        """Local training of one round. Order and dropout depend on the run id: no two runs give one update."""
        ...

    def noisy_sum(self, adapter: AdapterState, step: DistributedStep) -> Ints:
        """One step's clipped gradients as integers with this site's share of the noise, int32[d]; always fresh."""
        ...

    def plant(self, canaries: Sequence[Canary]) -> None:
        """Train on these beside the notes."""
        ...

    def exposure(self, adapter: AdapterState, canaries: Sequence[Canary]) -> tuple[float, ...]:
        """How exposed each of them is under the adapter, in bits."""
        ...

    def weight(self) -> int:
        """The site's weight under the plan's rule, within its bounds."""
        ...

    def score(self, adapter: AdapterState) -> int | None:
        """The level of the adapter's loss on the plan's validation set; None where the plan does not weigh by it."""
        ...

    def single_scores(self, first: AdapterState, run: str, checkpoint: Callable[[int], Path]) -> bytes:
        """Go on alone from this site's own round-0 adapter; scores on the plan's public tests as JSON."""
        ...


@dataclass(frozen=True)
class SiteIdentity:
    """Who this site is, and what its officer lets it do.

    Attributes:
        authorise: raises where the approval or the policy does not hold (any more), else the approval as it stands;
            called before every answer.
        policy: the officer's. Of a bound that the plan sets as well the stricter counts.
        charges: the privacy ledger, asked before training and before an update leaves.
        newest: site keys (hex), each replaced by its newest successor where it was rotated: the same site.
        exclusions_hmac_sha256: of the list of patients who are left out, for the site's attestation.
    """

    me: SiteId
    key: SigningKey
    authorise: Callable[[], bytes]
    policy: Policy
    charges: Charges = field(repr=False)
    exclusions_hmac_sha256: str | None = None
    newest: Callable[[frozenset[str]], frozenset[str]] = lambda keys: keys

    def rounding_secret(self) -> SecretBytes:
        """Keys the rounding coins; the same for the same site key."""
        return self.key.derive_secret("fedsec v1 rounding secret")
