"""Site, before round 0 of a run in groups: `commit`, `reveal`, `draw`. Each stage has only its legal next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsec_secure.codec import Reader, Sign, Writer, seal
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.checks import open_request
from fedsec_secure.masking.draw import (
    Drawn,
    commitment,
    drawn_groups,
    groups_digest,
    opened_context,
    verify_commitments,
)
from fedsec_secure.masking.messages import decode_packets, encode_packets, read_packets, set_digest
from fedsec_secure.masking.parameters import Cohort
from fedsec_secure.secrets import SecretBytes


@dataclass(frozen=True)
class SiteCommitted:
    """32 random bytes of this site's, and the signed commitment to them. ``context``: of the draw."""

    me: SiteId
    context: bytes
    nonce: SecretBytes = field(repr=False)
    packet: bytes = field(repr=False)

    @classmethod
    def begin(cls, me: SiteId, context: bytes, sign: Sign) -> SiteCommitted:
        """`commit`: bytes from the operating system."""
        nonce = SecretBytes.random()
        return cls(me, context, nonce, seal("commit", me, context, commitment(context, me, nonce.reveal()), sign))

    def record(self) -> bytes:
        """What the write-ahead record keeps (the nonce included)."""
        out = Writer().text("site committed v1").text(self.me).fixed(self.context, 32)
        return out.fixed(self.nonce.reveal(), 32).blob(self.packet).done()

    @classmethod
    def restore(cls, data: bytes) -> SiteCommitted:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site committed v1":
            raise LocalMisuseError("the record is of another stage")
        state = cls(SiteId(r.text()), r.fixed(32), SecretBytes(r.fixed(32)), r.blob(most=1 << 10))
        r.done()
        return state


@dataclass(frozen=True)
class SiteOpened:
    """The nonce is out, for one set of commitments and no other."""

    committed: SiteCommitted
    commitments: Mapping[SiteId, bytes] = field(repr=False)
    packet: bytes = field(repr=False)

    @classmethod
    def enter(cls, committed: SiteCommitted, request: bytes, cohort: Cohort, sign: Sign) -> SiteOpened:
        """`reveal`: check everybody's commitment, then open this site's own."""
        me, context = committed.me, committed.context
        packets = decode_packets(open_request("reveal", request, context, cohort), "reveal request")
        verify_commitments(packets, context, cohort.roster)
        # Check 91 (redrawn groups): the others are shown what this site committed to.
        if packets[me] != committed.packet:
            raise PeerViolationError(f"the commitment of {me} came back changed")
        bound = opened_context(context, packets)
        return cls(committed, packets, seal("reveal", me, bound, committed.nonce.reveal(), sign))

    def require_same(self, request: bytes, cohort: Cohort) -> None:
        """PeerViolationError unless the request shows the commitments that this site opened its own for."""
        content = open_request("reveal", request, self.committed.context, cohort)
        packets = decode_packets(content, "reveal request")
        # Check 92 (redrawn groups): a nonce is opened for one set: another would be another draw.
        if set_digest("commitments", packets) != set_digest("commitments", self.commitments):
            raise PeerViolationError(
                "this site has opened its commitment for another set of commitments: groups are drawn once a run"
            )

    @property
    def bound(self) -> bytes:
        """The context of what was opened."""
        return opened_context(self.committed.context, self.commitments)

    def record(self) -> bytes:
        """What the write-ahead record keeps."""
        out = Writer().text("site opened v1").blob(self.committed.record()).blob(self.packet).done()
        return out + encode_packets(self.commitments)

    @classmethod
    def restore(cls, data: bytes) -> SiteOpened:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site opened v1":
            raise LocalMisuseError("the record is of another stage")
        committed, packet = SiteCommitted.restore(r.blob(most=1 << 12)), r.blob(most=1 << 10)
        packets = read_packets(r, "site record")
        r.done()
        return cls(committed, packets, packet)


@dataclass(frozen=True)
class SiteDrawn:
    """The groups of the run, which this site computed from everybody's nonces."""

    groups: Drawn
    packet: bytes = field(repr=False)

    @classmethod
    def enter(cls, opened: SiteOpened, request: bytes, cohort: Cohort, count: int, sign: Sign) -> SiteDrawn:
        """`draw`: check that everybody opened what it committed to, and draw. The reply is H(groups), signed."""
        reveals = decode_packets(open_request("draw", request, opened.bound, cohort), "draw request")
        committed = opened.committed
        groups = drawn_groups(reveals, opened.commitments, committed.context, cohort.roster, count)
        return cls(groups, seal("draw", committed.me, opened.bound, groups_digest(groups), sign))
