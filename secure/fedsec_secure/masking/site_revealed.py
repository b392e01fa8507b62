"""Site, stage 5 of 5: one share of each peer is revealed. Entered by `unmask`; only the verdict follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedsec_secure.codec import Reader, Sign, Writer, open_packet, seal
from fedsec_secure.errors import AbortError, LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.checks import open_request
from fedsec_secure.masking.messages import Revealed, ShareKind, decode_packets
from fedsec_secure.masking.parameters import Group, SumParameters
from fedsec_secure.masking.site_confirmed import SiteConfirmed
from fedsec_secure.masking.tag import PRIME, LinearTag, pads
from fedsec_secure.masking.vector import Decoded, decode_sum
from fedsec_secure.numeric.lanes import Words


@dataclass(frozen=True)
class SiteRevealed:
    """Terminal but for the verdict: no other attempt of this round, no second reveal."""

    confirmed: SiteConfirmed

    @classmethod
    def enter(cls, confirmed: SiteConfirmed, request: bytes, group: Group, sign: Sign) -> tuple[SiteRevealed, bytes]:
        """`unmask`: at least the floor's number of signatures on the same U3; then self-seed shares for U3 and
        mask-key shares for U2 without U3. The site derives who is dropped; it is never told (Bonawitz
        et al. 2017, section 6).
        """
        masked = confirmed.masked
        me = masked.shared.stated.me
        packets = decode_packets(open_request("unmask", request, masked.bound, group), "unmask request")
        for site, packet in packets.items():
            # Check 24 (split survivor sets): only survivors vouch for the survivor set.
            if site not in confirmed.survivors:
                raise PeerViolationError(f"a confirmation by {site}, which is not in U3")
            verify = group.roster.verifier(site)
            signed = open_packet(packet, kind="confirm", sender=site, context=masked.bound, verify=verify)
            # Check 25 (split survivor sets): all that vouch were shown the same set.
            if bytes(signed) != confirmed.digest:
                raise PeerViolationError(f"{site} confirmed another survivor set")
        # Check 26 (split survivor sets): two sets with so many signatures share an honest site.
        if len(packets) < group.floor:
            raise AbortError(f"{len(packets)} sites confirmed U3; this site reveals from {group.floor} on")
        shares = {
            peer: (ShareKind.SELF_SEED, pair[0]) if peer in confirmed.survivors else (ShareKind.MASK_KEY, pair[1])
            for peer, pair in masked.shares.items()
        }
        return cls(confirmed), seal("unmask", me, masked.bound, Revealed(shares).encode(), sign)

    def check_sum(
        self, heads: Mapping[SiteId, bytes], total: Words, tag: int, parameters: SumParameters, group: Group
    ) -> Decoded:
        """`verdict`: the sum is over the confirmed survivors, has the right size, lies in the possible range, and is
        the sum of their uploads: its tag fits.
        """
        # Check 27 (forged sum): the sum is over the survivors that were confirmed.
        if dict(heads) != dict(self.confirmed.survivors):
            raise PeerViolationError("the verdict is about another survivor set than the confirmed one")
        masked = self.confirmed.masked
        weights, key = masked.shared.weights(group), masked.tag_key
        found = LinearTag(key, parameters.fixed.lanes)
        weight = parameters.public_weight(weights, heads)
        decoded = decode_sum(parameters.weighted(weights), total, len(heads), weight, found)
        # Check 28 (forged sum): the sum is that of the uploads: its tag fits.
        if (found.value + pads(key, heads)) % PRIME != tag:
            raise PeerViolationError(
                "the sum is not the sum of the uploads that the sites confirmed: its tag does not fit. Either the "
                "coordinator changed it, or one site's tag was wrong; do not go on with this run"
            )
        return decoded

    def record(self) -> bytes:
        """What the write-ahead record keeps: the secrets stay until the round is final."""
        return Writer().text("site revealed v1").blob(self.confirmed.record()).done()

    @classmethod
    def restore(cls, data: bytes) -> SiteRevealed:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site revealed v1":
            raise LocalMisuseError("the record is of another stage")
        confirmed = SiteConfirmed.restore(r.blob(most=1 << 29))
        r.done()
        return cls(confirmed)
