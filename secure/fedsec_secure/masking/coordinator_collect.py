"""Coordinator, stages 1 to 4: collect what the sites sign, and build what the next exchange shows them.

The coordinator draws no randomness: from the same replies come the same requests, byte for byte, which is what lets a
killed run be replayed from its journal. A site whose reply does not hold is left out and named; a set that falls below
the floor aborts the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fedsec_secure.codec import Header, Sign, open_head, open_packet, seal
from fedsec_secure.errors import AbortError, CodecError, PeerViolationError, ProtocolError, VerificationError
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.checks import check_balance, public_weights, verify_dealings, verify_statements
from fedsec_secure.masking.messages import (
    Dealing,
    MaskRequest,
    ShareReply,
    Statement,
    bound_context,
    encode_packets,
    set_digest,
)
from fedsec_secure.masking.parameters import Cohort, Group, SumParameters
from fedsec_secure.secrets import SecretBytes

T = TypeVar("T")
_ANY_SCALAR = SecretBytes(bytes([1] * 32))
"""No secret: a point of small order gives zero with every scalar, and zero is what ``agree`` refuses."""
Refused = dict[SiteId, str]
"""Site -> why its reply was left out."""


def sift(replies: Mapping[SiteId, bytes], accept: Callable[[SiteId, bytes], T]) -> tuple[dict[SiteId, T], Refused]:
    """Accept each reply or name the reason; one bad site never stops the others."""
    good: dict[SiteId, T] = {}
    refused: Refused = {}
    for site in sorted(replies):
        try:
            good[site] = accept(site, replies[site])
        except (CodecError, ProtocolError, VerificationError) as e:
            refused[site] = str(e)
    return good, refused


def require(count: int, group: Cohort, name: str) -> None:
    """AbortError below the floor."""
    # Check 33 (small cohort): the coordinator's own floor, before it asks for more.
    if count < group.floor:
        raise AbortError(f"{name} has {count} sites, {group.floor} are needed")


@dataclass(frozen=True)
class Collected:
    """A round as the coordinator knows it. Fields fill up exchange by exchange; each stage is a subclass."""

    group: Group
    parameters: SumParameters
    context: bytes
    sign: Sign = field(repr=False)

    def _request(self, name: str, context: bytes, body: bytes) -> bytes:
        return seal(f"{name}-request", COORDINATOR, context, body, self.sign)


@dataclass(frozen=True)
class Stated(Collected):
    """U1: the statements."""

    statements: Mapping[SiteId, bytes]
    parsed: Mapping[SiteId, Statement]

    @classmethod
    def collect(
        cls, group: Group, parameters: SumParameters, context: bytes, sign: Sign, replies: Mapping[SiteId, bytes]
    ) -> tuple[Stated, Refused]:
        """From the `train` replies. Two sites with one X25519 key are both left out, and so is a site with a key of
        small order, which every peer would refuse, and the attempt with it.
        """

        def accept(site: SiteId, packet: bytes) -> Statement:
            statement = verify_statements({site: packet}, context, group)[site]
            # Check 34 (small-order keys): their owner is left out, rather than every peer refusing.
            for public in (statement.channel_key, statement.mask_key):
                agreement.agree(_ANY_SCALAR, public, site)
            return statement

        parsed, refused = sift(replies, accept)
        seen: dict[bytes, list[SiteId]] = {}
        for site, statement in parsed.items():
            for key in (statement.channel_key, statement.mask_key):
                seen.setdefault(key, []).append(site)
        # Check 35 (reflected keys): both owners are left out, rather than every site refusing.
        for owners in seen.values():
            for site in owners if len(owners) > 1 else ():
                refused[site] = "its X25519 key stands twice among the statements"
                parsed.pop(site, None)
        require(len(parsed), group, "U1")
        weights = public_weights(parsed, group)
        check_balance(weights, parsed, group, "U1")
        parameters = parameters.weighted(weights)
        return cls(group, parameters, context, sign, {s: replies[s] for s in parsed}, parsed), refused

    @property
    def weights(self) -> dict[SiteId, int]:
        """What every site of U1 weighs."""
        return public_weights(self.parsed, self.group)

    def share_requests(self) -> dict[SiteId, bytes]:
        """The same bytes to every member of U1."""
        request = self._request("share", self.context, encode_packets(self.statements))
        return dict.fromkeys(self.statements, request)


@dataclass(frozen=True)
class Shared(Stated):
    """U2: the dealings, and the ciphertexts that wait for their recipients."""

    dealings: Mapping[SiteId, bytes]
    promises: Mapping[SiteId, Dealing]
    sealed: Mapping[SiteId, Mapping[SiteId, bytes]]
    """Dealer -> recipient -> ciphertext."""
    adapter: bytes | None = None
    """The adapter's digest, where these keys were shared before it was known."""

    @classmethod
    def gather(cls, stated: Stated, replies: Mapping[SiteId, bytes]) -> tuple[Shared, Refused]:
        """From the `share` replies."""
        recipients = sorted(stated.statements)

        def accept(site: SiteId, data: bytes) -> tuple[bytes, Dealing, dict[SiteId, bytes]]:
            reply = ShareReply.decode(data)
            dealing = verify_dealings({site: reply.packet}, stated.statements, stated.context, stated.group)[site]
            # Check 36 (bad share): a sealed pair for every recipient.
            if len(reply.sealed) != len(recipients):
                raise PeerViolationError(f"{site} sealed {len(reply.sealed)} share pairs, {len(recipients)} are due")
            return reply.packet, dealing, dict(zip(recipients, reply.sealed, strict=True))

        good, refused = sift(replies, accept)
        require(len(good), stated.group, "U2")
        state = cls(
            stated.group,
            stated.parameters,
            stated.context,
            stated.sign,
            stated.statements,
            stated.parsed,
            {s: v[0] for s, v in good.items()},
            {s: v[1] for s, v in good.items()},
            {s: v[2] for s, v in good.items()},
        )
        return state, refused

    @property
    def bound(self) -> bytes:
        """H(context, H(U1), H(U2)), and the adapter where these keys were shared ahead of it."""
        u1, u2 = set_digest("U1", self.statements), set_digest("U2", self.dealings)
        return bound_context(self.context, u1, u2, self.adapter)

    def at(self, adapter: bytes) -> Shared:
        """The same for the round's adapter (digest), once it is known."""
        return replace(self, adapter=adapter)

    def mask_requests(self) -> dict[SiteId, bytes]:
        """To each member of U2: all dealings, and the ciphertexts that are for it."""
        return {
            site: self._request(
                "mask",
                self.context,
                MaskRequest(self.dealings, {dealer: self.sealed[dealer][site] for dealer in self.dealings}).encode(),
            )
            for site in self.dealings
        }


@dataclass(frozen=True)
class UploadFacts:
    """What the spool measured of one upload: its signed head, and the length and SHA-256 of the bytes behind it."""

    head: bytes
    body_length: int
    body_sha256: bytes


def verify_upload(site: SiteId, upload: UploadFacts, kind: str, context: bytes, group: Cohort, length: int) -> Header:
    """The head's signature, and that the spooled bytes are those that it signs. Never add a partial upload."""
    verify = group.roster.verifier(site)
    header = open_head(upload.head, kind=kind, sender=site, context=context, verify=verify)
    # Check 37 (alteration): an upload is added whole or not at all.
    if (header.body_length, header.body_sha256) != (upload.body_length, upload.body_sha256):
        raise CodecError(f"the upload of {site} is cut short or altered")
    # Check 38 (malformed update): and has the length of this round's vector.
    if header.body_length != length:
        raise PeerViolationError(f"the upload of {site} has {header.body_length} bytes, {length} are due")
    return header


@dataclass(frozen=True)
class Masked:
    """U3: the survivors, by the signed heads of their uploads."""

    shared: Shared
    heads: Mapping[SiteId, bytes]

    @classmethod
    def gather(cls, shared: Shared, uploads: Mapping[SiteId, UploadFacts]) -> tuple[Masked, Refused]:
        """From the `mask` replies, spooled and measured."""
        length = shared.parameters.masked_bytes

        def accept(site: SiteId, _: bytes) -> bytes:
            # Check 39 (Sybil): nobody uploads who dealt no shares.
            if site not in shared.dealings:
                raise PeerViolationError(f"an upload by {site}, which is not in U2")
            verify_upload(site, uploads[site], "masked", shared.bound, shared.group, length)
            return uploads[site].head

        good, refused = sift({s: u.head for s, u in uploads.items()}, accept)
        return cls(shared, good)._required(), refused

    def restricted(self, survivors: Collection[SiteId]) -> Masked:
        """The same with fewer survivors, at least the floor. Who is left out counts as dropped: its self-mask stays."""
        heads = {site: head for site, head in self.heads.items() if site in survivors}
        return Masked(self.shared, heads)._required()

    def _required(self) -> Masked:
        require(len(self.heads), self.shared.group, "U3")
        check_balance(self.shared.weights, self.heads, self.shared.group, "U3")
        return self

    @property
    def digest(self) -> bytes:
        """H(U3)."""
        return set_digest("U3", self.heads)

    def confirm_requests(self) -> dict[SiteId, bytes]:
        """The same bytes to every survivor."""
        request = seal("confirm-request", COORDINATOR, self.shared.bound, encode_packets(self.heads), self.shared.sign)
        return dict.fromkeys(self.heads, request)


@dataclass(frozen=True)
class Confirmed:
    """The survivors' signatures on U3."""

    masked: Masked
    confirmations: Mapping[SiteId, bytes]

    @classmethod
    def gather(cls, masked: Masked, replies: Mapping[SiteId, bytes]) -> tuple[Confirmed, Refused]:
        """From the `confirm` replies."""
        shared = masked.shared

        def accept(site: SiteId, packet: bytes) -> bytes:
            # Check 40 (split survivor sets): only survivors confirm.
            if site not in masked.heads:
                raise PeerViolationError(f"a confirmation by {site}, which is not in U3")
            verify = shared.group.roster.verifier(site)
            body = open_packet(packet, kind="confirm", sender=site, context=shared.bound, verify=verify)
            # Check 41 (split survivor sets): a signature on another set would make every site refuse.
            if bytes(body) != masked.digest:
                raise PeerViolationError(f"{site} confirmed another survivor set")
            return packet

        good, refused = sift(replies, accept)
        require(len(good), shared.group, "the set of confirmations")
        return cls(masked, good), refused

    def unmask_requests(self) -> dict[SiteId, bytes]:
        """The same bytes to every site that confirmed."""
        shared = self.masked.shared
        request = seal("unmask-request", COORDINATOR, shared.bound, encode_packets(self.confirmations), shared.sign)
        return dict.fromkeys(self.confirmations, request)
