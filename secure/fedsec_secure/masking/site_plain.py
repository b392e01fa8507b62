"""Site, without protection: what `plain` shows is all that there is between a statement and the verdict.

For comparison with what masks cost, where plan and policy both say so: the coordinator sees every update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.parameters import Cohort, SumParameters
from fedsec_secure.masking.site_weighed import SiteWeighed
from fedsec_secure.masking.vector import Decoded, decode_sum
from fedsec_secure.numeric.lanes import Words


@dataclass(frozen=True)
class SitePlain(SiteWeighed):
    """The update is uploaded as it is. Entered by `plain`; next: `verdict`."""

    exchange: ClassVar[str] = "plain"

    def check_sum(
        self, heads: Mapping[SiteId, bytes], total: Words, tag: int, parameters: SumParameters, cohort: Cohort
    ) -> Decoded:
        """`verdict`: the sum has the right size and lies in the possible range. That it is of those uploads nothing
        shows.
        """
        weights = self.weights_of(heads, cohort)
        # Check 128 (forged sum): what is not there cannot fit.
        if tag:
            raise PeerViolationError("a sum in the open has no tag, and one came with it")
        weight = parameters.public_weight(weights, heads)
        return decode_sum(parameters.weighted(self.weights(cohort)), total, len(heads), weight)
