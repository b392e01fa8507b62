"""Site, stage 3 of 5: the masked update is uploaded. Entered by `mask`; next: `confirm`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fedsec_secure.codec import Buffer, Reader, Sign, Writer, seal_head, sha256
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking import keys
from fedsec_secure.masking.checks import (
    check_members,
    open_request,
    public_weights,
    verify_dealings,
    verify_statements,
)
from fedsec_secure.masking.messages import (
    Dealing,
    MaskRequest,
    ShareKind,
    bound_context,
    encode_packets,
    read_packets,
    set_digest,
)
from fedsec_secure.masking.parameters import Group, SumParameters
from fedsec_secure.masking.site_shared import SiteShared
from fedsec_secure.masking.tag import PRIME, LinearTag, pads, tag_key
from fedsec_secure.masking.vector import Encoder, IntegerEncoder, write_masked
from fedsec_secure.numeric.keystream import WordSource
from fedsec_secure.numeric.lanes import Floats, Ints, Words
from fedsec_secure.numeric.shamir import SHARE_BYTES
from fedsec_secure.secrets import SecretBytes


@dataclass(frozen=True)
class Contribution:
    """What a site adds to the sum: its update (float32[d], unweighted), its weight, and its rounding coins' key."""

    update: Floats = field(repr=False)
    weight: int = field(repr=False)
    coins: SecretBytes = field(repr=False)

    def source(self, parameters: SumParameters, tag: LinearTag | None = None) -> WordSource:
        """Its words, front to back; ``tag`` is fed every lane."""
        return Encoder(parameters, self.update, self.weight, self.coins, tag)


@dataclass(frozen=True)
class NoisyContribution:
    """The same where the sum is of integers: int32[d] with this site's share of the noise, as they are."""

    update: Ints = field(repr=False)

    def source(self, parameters: SumParameters, tag: LinearTag | None = None) -> WordSource:
        """Its words, front to back; ``tag`` is fed every lane."""
        return IntegerEncoder(parameters, self.update, tag)


class Outer(Protocol):
    """What masked words go through on their way out."""

    def write(self, chunk: Words) -> None:
        """The next words, in chunks of whole blocks but for the last; they may be overwritten afterwards."""
        ...

    def finish(self) -> None:
        """Everything is handed on when this returns."""
        ...


Encrypting = Callable[[Callable[[Buffer], None]], Outer]
"""Makes one that hands the encryption of what it is given to a function, in order."""


@dataclass(frozen=True)
class SiteMasked:
    """The dealings of U2, the shares that were dealt to this site, and the signed head of what it uploaded."""

    shared: SiteShared
    bound: bytes
    """Context of this and every later message: H(context, H(U1), H(U2))."""
    tag_key: SecretBytes = field(repr=False)
    """K of this attempt's sites, which the coordinator does not have."""
    dealings: Mapping[SiteId, bytes] = field(repr=False)
    shares: Mapping[SiteId, tuple[bytes, bytes]] = field(repr=False)
    """Dealer -> (self-seed share, mask-key share)."""
    head: bytes = field(repr=False)

    @classmethod
    def enter(
        cls,
        shared: SiteShared,
        request: bytes,
        group: Group,
        parameters: SumParameters,
        contribution: Contribution | NoisyContribution,
        sign: Sign,
        write: Callable[[Buffer], None],
        adapter: bytes | None = None,
        encrypting: Encrypting | None = None,
    ) -> tuple[SiteMasked, bytes]:
        """`mask`: check U2, open the shares, hand the masked words and the masked tag to ``write`` chunk by chunk.

        Returns the stage and the upload's signed head; the reply is the head followed by what was written,
        little-endian: the vector's words, or their encryption, then the tag in one more.
        ``parameters``: of the plan; here they are scaled to the weights of U1.
        ``adapter``: the digest that is bound now, where keys were shared ahead of it.
        ``encrypting``: where ``parameters`` say that words travel encrypted, and only there.
        Nothing may be sent before the record of this stage is on disk.
        """
        me, context = shared.stated.me, shared.stated.context
        message = MaskRequest.decode(open_request("mask", request, context, group))
        check_members(message.dealings, me, group, "U2")
        # Check 14 (split views): the others are shown what this site dealt.
        if message.dealings[me] != shared.dealing:
            raise PeerViolationError(f"the dealing of {me} came back changed")
        dealings = verify_dealings(message.dealings, shared.statements, context, group)
        statements = verify_statements(shared.statements, context, group)
        parameters = parameters.weighted(public_weights(statements, group))
        u1, u2 = set_digest("U1", shared.statements), set_digest("U2", message.dealings)
        bound = bound_context(context, u1, u2, adapter)
        dealt = {}
        for dealer, dealing in dealings.items():
            secret = agreement.agree(shared.stated.channel_secret, statements[dealer].channel_key, dealer)
            dealt[dealer] = _open(secret, message.sealed[dealer], dealing, dealer, me, context, u1)
        plus = [keys.self_mask(shared.seed, me, bound)]
        minus: list[keys.Mask] = []
        for peer in dealings:
            if peer != me:
                mask = keys.pair_mask(shared.stated.mask_secret, statements[peer].mask_key, me, peer, bound)
                (plus if me < peer else minus).append(mask)
        key = tag_key((dealt[dealer].tag_seed for dealer in sorted(dealt)), bound)
        # Check 116 (bare upload): where the plan encrypts, no masked word leaves without.
        if (encrypting is None) != (parameters.encryption is None):
            raise LocalMisuseError("an upload is encrypted where the plan says so, and only there")
        head = _upload(me, bound, parameters, contribution, key, (plus, minus), sign, write, encrypting)
        shares = {dealer: (d.self_share, d.key_share) for dealer, d in dealt.items()}
        return cls(shared, bound, key, dict(message.dealings), shares, head), head

    def record(self) -> bytes:
        """What the write-ahead record keeps (secrets included)."""
        out = Writer().text("site masked v1").blob(self.shared.record()).fixed(self.bound, 32)
        out.fixed(self.tag_key.reveal(), 32).blob(self.head)
        out.uint(len(self.shares), 2)
        for dealer in sorted(self.shares):
            out.text(dealer)
            for share in self.shares[dealer]:
                out.fixed(share, SHARE_BYTES)
        return out.done() + encode_packets(self.dealings)

    @classmethod
    def restore(cls, data: bytes) -> SiteMasked:
        """Inverse of :meth:`record`."""
        r = Reader(data, "site record")
        if r.text() != "site masked v1":
            raise LocalMisuseError("the record is of another stage")
        shared = SiteShared.restore(r.blob(most=1 << 27))
        bound, key, head = r.fixed(32), SecretBytes(r.fixed(32)), r.blob(most=1 << 17)
        shares = {}
        for _ in range(r.uint(2)):
            dealer = SiteId(r.text())
            shares[dealer] = (r.fixed(SHARE_BYTES), r.fixed(SHARE_BYTES))
        dealings = read_packets(r, "site record")
        r.done()
        return cls(shared, bound, key, dealings, shares, head)


def _open(
    secret: SecretBytes, sealed: bytes, dealing: Dealing, dealer: SiteId, me: SiteId, context: bytes, u1: bytes
) -> keys.Dealt:
    promise = dealing.promises[me]
    # Check 15 (bad share): blames the right party: the dealer or the carrier.
    if sha256(sealed) != promise.sealed:
        raise PeerViolationError(f"the sealed shares from {dealer} are not those that it signed")
    dealt = keys.open_dealt(secret, sealed, dealer, me, sha256(context, u1))
    hashes = (
        keys.share_hash(ShareKind.SELF_SEED, dealt.self_share, dealer, me, context),
        keys.share_hash(ShareKind.MASK_KEY, dealt.key_share, dealer, me, context),
    )
    # Check 16 (bad share): a share that its dealer did not promise would be refused at the reveal.
    if hashes != (promise.self_share, promise.key_share):
        raise PeerViolationError(f"{dealer} sealed other shares than it signed for {me}")
    # Check 17 (split tag keys): all sites get one seed from each dealer.
    if keys.tag_seed_hash(dealt.tag_seed, dealer, context) != dealing.tag_seed:
        raise PeerViolationError(f"{dealer} sealed another tag seed than it signed for all")
    return dealt


def _upload(
    me: SiteId,
    bound: bytes,
    parameters: SumParameters,
    contribution: Contribution | NoisyContribution,
    key: SecretBytes,
    masks: tuple[list[keys.Mask], list[keys.Mask]],
    sign: Sign,
    write: Callable[[Buffer], None],
    encrypting: Encrypting | None,
) -> bytes:
    """The vector, masked, then tau_i + a_i, masked in F_p, which is not encrypted: it tells nothing without K."""
    plus, minus = masks
    tag = LinearTag(key, parameters.fixed.lanes)
    digest = hashlib.sha256()

    def sink(part: Buffer) -> None:
        digest.update(part)
        write(part)

    source = contribution.source(parameters, tag)
    vectors = [m.vector for m in plus], [m.vector for m in minus]
    if encrypting is None:
        write_masked(parameters.words, source, *vectors, lambda chunk: sink(chunk.data))
    else:
        outer = encrypting(sink)
        write_masked(parameters.words, source, *vectors, outer.write)
        outer.finish()
    masked = tag.value + pads(key, [me]) + sum(m.tag for m in plus) - sum(m.tag for m in minus)
    sink((masked % PRIME).to_bytes(8, "little"))
    return seal_head("masked", me, bound, parameters.masked_bytes, digest.digest(), sign)
