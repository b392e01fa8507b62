"""Site, without masks: every statement is here, and what each site weighs follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

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
from fedsec_secure.masking.parameters import Cohort
from fedsec_secure.masking.site_stated import SiteStated


@dataclass(frozen=True)
class SiteWeighed:
    """The statements (U1) that the weights follow from."""

    exchange: ClassVar[str]
    """What the coordinator asks for, and the stage's name in the record."""

    stated: SiteStated
    statements: Mapping[SiteId, bytes] = field(repr=False)

    @classmethod
    def enter(cls, stated: SiteStated, request: bytes, cohort: Cohort) -> Self:
        """Check all statements."""
        kind = cls.exchange
        packets = decode_packets(open_request(kind, request, stated.context, cohort), f"{kind} request")
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

    def weights_of(self, heads: Mapping[SiteId, bytes], cohort: Cohort) -> dict[SiteId, int]:
        """What the sites of a sum weigh, in the order of their names, once it is known to be one that may be opened."""
        check_members(heads, self.stated.me, cohort, "the verdict")
        # Check 87 (lopsided weights): nobody is in a sum whose weight is not known.
        if not set(heads) <= set(self.statements):
            raise PeerViolationError("a sum without masks is over sites that made a statement")
        weights = self.weights(cohort)
        check_balance(weights, heads, cohort, "the verdict")
        return {site: weights[site] for site in sorted(heads)}

    def record(self) -> bytes:
        """What the write-ahead record keeps."""
        out = Writer().text(f"site {self.exchange} v1").blob(self.stated.record())
        return out.done() + encode_packets(self.statements)

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != f"site {cls.exchange} v1":
            raise LocalMisuseError("the record is of another stage")
        stated = SiteStated.restore(r.blob(most=1 << 18))
        statements = read_packets(r, "site record")
        r.done()
        return cls(stated, statements)
