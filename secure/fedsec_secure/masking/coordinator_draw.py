"""Coordinator, before round 0 of a run in groups: it carries commitments and nonces, and draws nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsec_secure.codec import Reader, Sign, Writer, open_packet, seal
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.masking.draw import (
    Drawn,
    drawn_groups,
    groups_digest,
    opened_context,
    verify_commitment,
    verify_commitments,
    verify_reveal,
)
from fedsec_secure.masking.messages import encode_packets, read_packets


@dataclass(frozen=True)
class Draw:
    """One run's draw as far as it has come. Both mappings hold the packets of those who have answered."""

    roster: Roster
    context: bytes
    count: int
    run: str
    sign: Sign = field(repr=False)
    commitments: Mapping[SiteId, bytes] = field(default_factory=dict)
    reveals: Mapping[SiteId, bytes] = field(default_factory=dict)

    def commit_request(self) -> bytes:
        """To every site: which run."""
        return seal("commit-request", COORDINATOR, self.context, Writer().text(self.run).done(), self.sign)

    def accept_commit(self, site: SiteId, packet: bytes) -> bytes:
        """A reply that holds, or why not."""
        verify_commitment(site, packet, self.context, self.roster)
        return packet

    def reveal_request(self) -> bytes:
        """To every site: all commitments."""
        verify_commitments(self.commitments, self.context, self.roster)
        return seal("reveal-request", COORDINATOR, self.context, encode_packets(self.commitments), self.sign)

    def accept_reveal(self, site: SiteId, packet: bytes) -> bytes:
        """A reply that holds, or why not."""
        verify_reveal(site, packet, self.commitments, self.context, self.roster)
        return packet

    def draw_request(self) -> bytes:
        """To every site: everything that was opened."""
        return seal("draw-request", COORDINATOR, self._bound, encode_packets(self.reveals), self.sign)

    def accept_draw(self, site: SiteId, packet: bytes) -> bytes:
        """A reply that holds, or why not."""
        verify = self.roster.verifier(site)
        body = open_packet(packet, kind="draw", sender=site, context=self._bound, verify=verify)
        # Check 93 (split views): all sites drew the same groups.
        if bytes(body) != groups_digest(self.groups):
            raise PeerViolationError(f"{site} drew other groups from the same nonces")
        return packet

    @property
    def _bound(self) -> bytes:
        return opened_context(self.context, self.commitments)

    @property
    def groups(self) -> Drawn:
        """What follows; PeerViolationError before everybody has answered."""
        return drawn_groups(self.reveals, self.commitments, self.context, self.roster, self.count)

    def record(self) -> bytes:
        """What the journal keeps of it."""
        return encode_packets(self.commitments) + encode_packets(self.reveals)

    @classmethod
    def restore(cls, data: bytes, empty: Draw) -> Draw:
        """Inverse of :meth:`record`; ``empty``: the same draw before anybody has answered."""
        r = Reader(data, "journalled draw")
        commitments, reveals = read_packets(r, "journalled draw"), read_packets(r, "journalled draw")
        r.done()
        return cls(empty.roster, empty.context, empty.count, empty.run, empty.sign, commitments, reveals)
