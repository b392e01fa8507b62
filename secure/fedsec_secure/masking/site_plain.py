"""Site, without masks: what `plain` shows is all that there is between a statement and the verdict.

For comparison with what masks cost, where plan and policy both say so: the coordinator sees every update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsec_secure.codec import Reader, Writer
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.checks import (
    check_balance,
    check_members,
    open_request,
    public_weights,
    verify_statements,
)
from fedsec_secure.masking.messages import decode_packets, encode_packets, read_packets
from fedsec_secure.masking.parameters import Cohort, SumParameters
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.masking.vector import Decoded, decode_sum
from fedsec_secure.numeric.lanes import Words


@dataclass(frozen=True)
class SitePlain:
    """The statements (U1) that the weights follow from."""

    stated: SiteStated
    statements: Mapping[SiteId, bytes] = field(repr=False)

    @classmethod
    def enter(cls, stated: SiteStated, request: bytes, cohort: Cohort) -> SitePlain:
        """`plain`: check all statements."""
        packets = decode_packets(open_request("plain", request, stated.context, cohort), "plain request")
        check_members(packets, stated.me, cohort, "U1")
        # Check 86 (lopsided weights): the score that counts for this site is the one that it stated.
        if packets[stated.me] != stated.statement:
            raise PeerViolationError(f"the statement of {stated.me} came back changed")
        state = cls(stated, packets)
        check_balance(state.weights(cohort), packets, cohort, "U1")
        return state

    def weights(self, cohort: Cohort) -> dict[SiteId, int]:
        """What every site of U1 weighs."""
        return public_weights(verify_statements(self.statements, self.stated.context, cohort), cohort)

    def check_sum(
        self, heads: Mapping[SiteId, bytes], total: Words, tag: int, parameters: SumParameters, cohort: Cohort
    ) -> Decoded:
        """`verdict`: the sum has the right size and lies in the possible range. That it is of those uploads nothing
        shows.
        """
        check_members(heads, self.stated.me, cohort, "the verdict")
        # Check 87 (lopsided weights): nobody is in a sum whose weight is not known.
        if tag or not set(heads) <= set(self.statements):
            raise PeerViolationError("a sum without masks is over sites that made a statement, and has no tag")
        weights = self.weights(cohort)
        check_balance(weights, heads, cohort, "the verdict")
        weight = parameters.public_weight(weights, heads)
        return decode_sum(parameters.weighted(weights), total, len(heads), weight)

    def record(self) -> bytes:
        """What the write-ahead record keeps."""
        return Writer().text("site plain v1").blob(self.stated.record()).done() + encode_packets(self.statements)

    @classmethod
    def restore(cls, data: bytes) -> SitePlain:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site plain v1":
            raise LocalMisuseError("the record is of another stage")
        stated = SiteStated.restore(r.blob(most=1 << 18))
        statements = read_packets(r, "site record")
        r.done()
        return cls(stated, statements)
