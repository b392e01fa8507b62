"""The hostile coordinator's hands: one attempt of one round, exchange by exchange, with whatever sets it likes to show.

Nothing is verified here; an attacker who is handed rubbish gets no update out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedsec.attacks.lab import THRESHOLD, Lab, roster_of
from fedsec.training.adapter import AdapterState
from fedsec.training.strategies import apply_update
from fedsec.wire import TrainRequest, VerdictRequest
from fedsec_secure.codec import Header, head_length, seal
from fedsec_secure.errors import FedsecError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.keys import Mask
from fedsec_secure.masking.messages import (
    MaskRequest,
    Revealed,
    ShareKind,
    ShareReply,
    Statement,
    bound_context,
    encode_packets,
    set_digest,
)
from fedsec_secure.masking.parameters import RoundContext
from fedsec_secure.masking.tag import PRIME, TAG_BYTES
from fedsec_secure.masking.vector import decode_sum, sum_words
from fedsec_secure.numeric import shamir
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.numeric.lanes import Floats, Words, unpack
from fedsec_secure.secrets import SecretBytes

Packets = Mapping[SiteId, bytes]
RUN = "attack-1"


def body_of(packet: bytes) -> bytes:
    """What a packet carries."""
    return packet[head_length(packet) :]


def header_of(packet: bytes) -> Header:
    """What a packet says of itself."""
    return Header.decode(packet[6 : head_length(packet) - 64])


def statement_of(packet: bytes) -> Statement:
    """The keys of a statement (whatever a careless site may have appended to it)."""
    return Statement.decode(body_of(packet)[:96])


@dataclass
class Play:
    """What the coordinator collected so far. A view (`u1`, `u2`, `u3`) left out is the honest one."""

    lab: Lab
    round: int = 0
    attempt: int = 0
    adapter: AdapterState | None = None
    run: str = RUN
    statements: dict[SiteId, bytes] = field(default_factory=dict)
    dealings: dict[SiteId, bytes] = field(default_factory=dict)
    sealed: dict[SiteId, dict[SiteId, bytes]] = field(default_factory=dict)
    uploads: dict[SiteId, bytes] = field(default_factory=dict)
    shares: dict[tuple[SiteId, ShareKind], dict[SiteId, bytes]] = field(default_factory=dict)
    """(dealer, kind) -> who revealed it -> the share."""
    shown: dict[SiteId, AdapterState] = field(default_factory=dict)
    """Sites that were shown another adapter."""
    views: dict[SiteId, tuple[Packets, Packets]] = field(default_factory=dict)
    """Sites that were shown other statements (U1) and dealings (U2)."""

    def context(self, site: SiteId | None = None) -> bytes:
        """The context of this attempt, for the adapter that ``site`` was shown."""
        world = self.lab.world
        shown = self.adapter or world.start
        shown = shown if site is None else self.shown.get(site, shown)
        plan, roster = world.plan.digest(), roster_of(world)
        return RoundContext(plan, self.run, self.round, self.attempt, roster, shown.digest()).digest()

    def bound(self, site: SiteId | None = None) -> bytes:
        """The context of everything after `share`, as ``site`` sees it."""
        honest = (self.statements, self.dealings)
        u1, u2 = honest if site is None else self.views.get(site, honest)
        return bound_context(self.context(site), set_digest("U1", u1), set_digest("U2", u2))

    def _ask(self, name: str, site: SiteId, context: bytes, body: bytes) -> bytes | None:
        sign = self.lab.world.coordinator.sign
        return self.lab.ask(name, site, seal(f"{name}-request", COORDINATOR, context, body, sign))

    def train(self, to: Iterable[SiteId], verdicts: Packets | None = None) -> dict[SiteId, bytes]:
        """Show a global adapter; collect statements."""
        fresh: dict[SiteId, bytes] = {}
        for site in to:
            adapter = self.shown.get(site, self.adapter or self.lab.world.start)
            body = TrainRequest(self.run, self.round, self.attempt, adapter.to_bytes(), dict(verdicts or {})).encode()
            reply = self._ask("train", site, self.context(site), body)
            fresh |= {site: reply} if reply is not None else {}
        self.statements |= fresh
        return fresh

    def share(self, to: Iterable[SiteId]) -> dict[SiteId, bytes]:
        """Show statements; collect dealings and what they sealed. ``views`` has U1 where it is not the honest one."""
        fresh: dict[SiteId, bytes] = {}
        for site in to:
            view = self.views[site][0] if site in self.views else self.statements
            reply = self._ask("share", site, self.context(site), encode_packets(view))
            if reply is not None:
                fresh[site] = reply
                self.deal(site, reply, view)
        return fresh

    def deal(self, site: SiteId, reply: bytes, view: Packets) -> None:
        """Keep a `share` reply over the statements ``view``."""
        parsed = ShareReply.decode(reply)
        self.dealings[site] = parsed.packet
        self.sealed[site] = dict(zip(sorted(view), parsed.sealed, strict=True))

    def mask(self, to: Iterable[SiteId]) -> dict[SiteId, bytes]:
        """Show dealings; collect uploads. ``views`` has U2 where it is not the honest one."""
        fresh: dict[SiteId, bytes] = {}
        for site in to:
            view = self.views[site][1] if site in self.views else self.dealings
            mine = {dealer: self.sealed[dealer][site] for dealer in view if site in self.sealed[dealer]}
            if set(mine) == set(view):
                reply = self._ask("mask", site, self.context(site), MaskRequest(view, mine).encode())
                fresh |= {site: reply} if reply is not None else {}
        self.uploads |= fresh
        return fresh

    def begin(self, sites: Iterable[SiteId]) -> None:
        """`train`, `share` and `mask` with the same sites."""
        for exchange in (self.train, self.share, self.mask):
            exchange(sites)

    def heads(self, sites: Iterable[SiteId]) -> dict[SiteId, bytes]:
        """The signed heads of their uploads."""
        return {s: self.uploads[s][: head_length(self.uploads[s])] for s in sites if s in self.uploads}

    def confirm(self, to: Iterable[SiteId], u3: Packets) -> dict[SiteId, bytes]:
        """Show a survivor set; collect signatures on it."""
        got = {s: self._ask("confirm", s, self.bound(s), encode_packets(u3)) for s in to}
        return {s: r for s, r in got.items() if r is not None}

    def unmask(self, to: Iterable[SiteId], signed: Packets) -> int:
        """Show signatures; keep every share that comes back, and count the sites that gave any."""
        answered = 0
        for site in to:
            reply = self._ask("unmask", site, self.bound(site), encode_packets(signed))
            if reply is not None:
                answered += 1
                for dealer, (kind, share) in Revealed.decode(body_of(reply)).shares.items():
                    self.shares.setdefault((dealer, kind), {})[site] = share
        return answered

    def reveal(self, survivors: Iterable[SiteId], to: Iterable[SiteId] | None = None) -> int:
        """`confirm` and `unmask` over a survivor set, shown ``to`` these (or the survivors); how many revealed."""
        u3 = self.heads(survivors)
        asked = list(u3 if to is None else to)
        return self.unmask(asked, self.confirm(asked, u3))

    def verdict(self, to: Iterable[SiteId], u3: Packets, words: Words, tag: int) -> dict[SiteId, bytes]:
        """Hand out a sum; the signatures on what follows from it."""
        body = b"".join(VerdictRequest(u3, tag % PRIME, words.view("u1").data).parts())
        got = {s: self._ask("verdict", s, self.bound(s), body) for s in to}
        return {s: r for s, r in got.items() if r is not None}

    def next_round(self, survivors: Sequence[SiteId]) -> Play | None:
        """End this round as an honest coordinator would, and begin the next with all: `train`; None where refused."""
        self.reveal(survivors)
        opened = self.open_sum(survivors)
        if opened is None:
            return None
        world, count = self.lab.world, len(survivors)
        mean = decode_sum(world.parameters, opened[0], count, count).mean
        adapter = apply_update("fedit", self.adapter or world.start, mean, 0)
        verdicts = self.verdict(survivors, self.heads(survivors), *opened)
        after = Play(self.lab, self.round + 1, adapter=adapter)
        return after if len(after.train(survivors, verdicts)) == count else None

    # ---- arithmetic

    def words(self, site: SiteId) -> Words:
        """The masked vector of an upload, without its tag."""
        return np.frombuffer(body_of(self.uploads[site])[:-TAG_BYTES], dtype="<u8")

    def tag(self, site: SiteId) -> int:
        """The tag of an upload."""
        return int.from_bytes(self.uploads[site][-TAG_BYTES:], "little")

    def secret(self, dealer: SiteId, kind: ShareKind) -> SecretBytes | None:
        """A site's self-mask seed or mask key, where enough shares of it came in."""
        shares = self.shares.get((dealer, kind), {})
        if len(shares) < THRESHOLD:
            return None
        roster = sorted(self.lab.world.keys)
        try:
            return shamir.combine({roster.index(s) + 1: share for s, share in shares.items()}, THRESHOLD)
        except FedsecError:
            return None

    def open_sum(self, over: Iterable[SiteId]) -> tuple[Words, int] | None:
        """The sum of these sites' inputs and of their tags, where the shares that came in open it."""
        inside = sorted(set(over) & set(self.uploads))
        masks = self.masks_over(inside)
        if masks is None:
            return None
        plus, minus = masks
        words = add_up([self.words(s) for s in inside], plus, minus)
        tags = sum(self.tag(s) for s in inside)
        return words, (tags + sum(m.tag for m in plus) - sum(m.tag for m in minus)) % PRIME

    def masks_over(self, inside: Sequence[SiteId]) -> tuple[list[Mask], list[Mask]] | None:
        """What has to be added to the sum of these sites' uploads and taken from it, where enough shares came in."""
        seeds = {s: self.secret(s, ShareKind.SELF_SEED) for s in inside}
        outside = {s: self.secret(s, ShareKind.MASK_KEY) for s in self.dealings if s not in inside}
        if not inside or None in (*seeds.values(), *outside.values()):
            return None
        target, bound = self.lab.target, self.bound()
        plus: list[Mask] = []
        minus = [target.self_mask(seed, s, bound) for s, seed in seeds.items() if seed is not None]
        for gone, secret in outside.items():
            for s in inside:
                assert secret is not None
                mask = target.pair_mask(secret, statement_of(self.statements[s]).mask_key, gone, s, bound)
                (minus if s < gone else plus).append(mask)
        return plus, minus

    def without_pairs(self, site: SiteId, secrets: Mapping[SiteId, SecretBytes] | SecretBytes) -> Words:
        """A site's upload without its pair masks, from its own mask key or from those of all its peers."""
        target, bound = self.lab.target, self.bound(site)
        public = {s: statement_of(p).mask_key for s, p in self.statements.items()}
        plus: list[Mask] = []
        minus: list[Mask] = []
        for peer in set(self.dealings) - {site}:
            if isinstance(secrets, SecretBytes):
                mask = target.pair_mask(secrets, public[peer], site, peer, bound)
            else:
                mask = target.pair_mask(secrets[peer], public[site], peer, site, bound)
            (minus if site < peer else plus).append(mask)
        return add_up([self.words(site)], plus, minus)

    def values(self, words: Words) -> Floats:
        """A sum's coordinates in the update's units, whatever they are."""
        parameters = self.lab.world.parameters
        lanes = np.concatenate(unpack(parameters.fixed.lanes, words))
        return (lanes[parameters.limbs : parameters.elements] * parameters.fixed.step).astype(np.float32)


def add_up(vectors: list[Words], plus: Iterable[Mask], minus: Iterable[Mask]) -> Words:
    """Their sum, plus and minus the masks' keystreams."""
    sources = [ArraySource(v) for v in vectors]
    return sum_words(len(vectors[0]), sources, [m.vector for m in plus], [m.vector for m in minus])


def is_near(found: Floats | None, truth: Floats, tolerance: float) -> bool:
    """Whether the attacker has the vector that it was after: every coordinate, within ``tolerance``."""
    return found is not None and bool(np.abs(found - truth).max() <= tolerance)
