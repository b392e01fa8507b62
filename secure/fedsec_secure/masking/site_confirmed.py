"""Site, stage 4 of 5: one survivor set is signed, for ever. Entered by `confirm`; next: `unmask`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsec_secure.codec import Reader, Sign, Writer, open_head, seal
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.checks import check_balance, check_members, open_request
from fedsec_secure.masking.messages import decode_packets, encode_packets, read_packets, set_digest
from fedsec_secure.masking.parameters import Group
from fedsec_secure.masking.site_masked import SiteMasked


@dataclass(frozen=True)
class SiteConfirmed:
    """The survivors U3 by the signed heads of their uploads, and this site's signature over that set."""

    masked: SiteMasked
    survivors: Mapping[SiteId, bytes] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """H(U3): the survivors and the hash of each upload."""
        return set_digest("U3", self.survivors)

    @classmethod
    def enter(cls, masked: SiteMasked, request: bytes, group: Group, sign: Sign) -> tuple[SiteConfirmed, bytes]:
        """`confirm`: check U3 within U2 and above the floor, every upload's head signed; sign H(U3)."""
        me = masked.shared.stated.me
        heads = decode_packets(open_request("confirm", request, masked.bound, group), "confirm request")
        check_members(heads, me, group, "U3")
        # Check 21 (split views): what counts as this site's upload is what it sent.
        if heads[me] != masked.head:
            raise PeerViolationError(f"the upload of {me} came back with another hash")
        for site, head in heads.items():
            # Check 22 (split survivor sets): U3 lies within U2.
            if site not in masked.dealings:
                raise PeerViolationError(f"U3 names {site}, which is not in U2")
            # Check 23 (forged survivors): who is named a survivor has uploaded: its mask key is not asked for.
            open_head(head, kind="masked", sender=site, context=masked.bound, verify=group.roster.verifier(site))
        check_balance(masked.shared.weights(group), heads, group, "U3")
        state = cls(masked, heads)
        return state, seal("confirm", me, masked.bound, state.digest, sign)

    def record(self) -> bytes:
        """What the write-ahead record keeps (secrets included)."""
        return Writer().text("site confirmed v1").blob(self.masked.record()).done() + encode_packets(self.survivors)

    @classmethod
    def restore(cls, data: bytes) -> SiteConfirmed:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site confirmed v1":
            raise LocalMisuseError("the record is of another stage")
        masked = SiteMasked.restore(r.blob(most=1 << 28))
        survivors = read_packets(r, "site record")
        r.done()
        return cls(masked, survivors)
