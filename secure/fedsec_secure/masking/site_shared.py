"""Site, stage 2 of 5: both secrets are dealt to the members of U1. Entered by `share`; next: `mask`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsec_secure.codec import Reader, Sign, Writer, seal, sha256
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking import keys
from fedsec_secure.masking.checks import (
    check_balance,
    check_members,
    open_request,
    public_weights,
    verify_statements,
)
from fedsec_secure.masking.messages import (
    Dealing,
    Promise,
    ShareKind,
    ShareReply,
    Statement,
    decode_packets,
    encode_packets,
    read_packets,
    set_digest,
)
from fedsec_secure.masking.parameters import Group
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.numeric import shamir
from fedsec_secure.secrets import SecretBytes


@dataclass(frozen=True)
class SiteShared:
    """The self-mask seed b, and the statements (U1) that it was dealt to."""

    stated: SiteStated
    seed: SecretBytes = field(repr=False)
    statements: Mapping[SiteId, bytes] = field(repr=False)
    dealing: bytes = field(repr=False)

    @classmethod
    def enter(cls, stated: SiteStated, request: bytes, group: Group, sign: Sign) -> tuple[SiteShared, bytes]:
        """`share`: check all statements, deal both secrets to every member of U1; returns the stage and the reply.

        Raises PeerViolationError, VerificationError, CodecError or AbortError; nothing was drawn or sent then.
        """
        packets = decode_packets(open_request("share", request, stated.context, group), "share request")
        check_members(packets, stated.me, group, "U1")
        # Check 13 (key substitution): the others are shown the keys that this site has.
        if packets[stated.me] != stated.statement:
            raise PeerViolationError(f"the statement of {stated.me} came back changed")
        statements = verify_statements(packets, stated.context, group)
        check_balance(public_weights(statements, group), statements, group, "U1")
        u1 = set_digest("U1", packets)
        seed, tag_seed = SecretBytes.random(), SecretBytes.random()
        promises, sealed = _deal(stated, (seed, tag_seed), statements, u1, group)
        seed_hash = keys.seed_hash(seed, stated.me, stated.context)
        dealing = Dealing(u1, seed_hash, keys.tag_seed_hash(tag_seed, stated.me, stated.context), promises)
        packet = seal("dealing", stated.me, stated.context, dealing.encode(), sign)
        return cls(stated, seed, packets, packet), ShareReply(packet, sealed).encode()

    def weights(self, group: Group) -> dict[SiteId, int]:
        """What every site of U1 weighs: every site computes the same from the same statements."""
        return public_weights(verify_statements(self.statements, self.stated.context, group), group)

    def record(self) -> bytes:
        """What the write-ahead record keeps (secrets included)."""
        out = Writer().text("site shared v1").blob(self.stated.record()).fixed(self.seed.reveal(), 32)
        return out.blob(self.dealing).done() + encode_packets(self.statements)

    @classmethod
    def restore(cls, data: bytes) -> SiteShared:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site shared v1":
            raise LocalMisuseError("the record is of another stage")
        stated = SiteStated.restore(r.blob(most=1 << 18))
        seed, dealing = SecretBytes(r.fixed(32)), r.blob(most=1 << 17)
        statements = read_packets(r, "site record")
        r.done()
        return cls(stated, seed, statements, dealing)


def _deal(
    stated: SiteStated,
    seeds: tuple[SecretBytes, SecretBytes],
    statements: Mapping[SiteId, Statement],
    u1: bytes,
    group: Group,
) -> tuple[dict[SiteId, Promise], list[bytes]]:
    """Shares are dealt over the whole roster's x coordinates; only members of U1 are sent theirs, this site included.

    The tag seed goes whole to every one of them: it hides nothing from sites, only from the coordinator.
    """
    (seed, tag_seed), n, me = seeds, len(group.roster.sites), stated.me
    seed_shares = shamir.split(seed, group.threshold, n)
    key_shares = shamir.split(stated.mask_secret, group.threshold, n)
    box_context = sha256(stated.context, u1)
    promises, sealed = {}, []
    for peer in sorted(statements):
        x = group.roster.index(peer)
        dealt = keys.Dealt(seed_shares[x], key_shares[x], tag_seed)
        shared = agreement.agree(stated.channel_secret, statements[peer].channel_key, peer)
        box = keys.seal_dealt(shared, dealt, me, peer, box_context)
        promises[peer] = Promise(
            keys.share_hash(ShareKind.SELF_SEED, dealt.self_share, me, peer, stated.context),
            keys.share_hash(ShareKind.MASK_KEY, dealt.key_share, me, peer, stated.context),
            sha256(box),
        )
        sealed.append(box)
    return promises, sealed
