"""A deliberately weak aggregator, for the attacks to succeed on. It lives here, has no plan checks, policy, record or
command of its own, and can serve no run.

It speaks this build's messages and computes the same sums. Its faults are those that published systems have or had:
no signature is looked at, masks come from a 14-bit seed and are bound to nothing, keys are derived from the round
number, nothing is written down, floors are the coordinator's, NaN and overflow are cast, counts travel in the open, and
whatever the shares open is taken for the sum.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedsec.attacks.lab import THRESHOLD, Finished, KnownWork, Lab, Site, World
from fedsec.attacks.play import Play, add_up, body_of, header_of, statement_of
from fedsec.plan.model import Plan
from fedsec.training.adapter import AdapterState
from fedsec.wire import TrainRequest
from fedsec_secure.codec import Writer, seal, seal_parts, sha256
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity import agreement
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking import keys
from fedsec_secure.masking.group_messages import CombineRequest
from fedsec_secure.masking.keys import Dealt, Mask
from fedsec_secure.masking.messages import (
    Dealing,
    MaskRequest,
    Promise,
    Revealed,
    ShareKind,
    ShareReply,
    Statement,
    bound_context,
    decode_packets,
    set_digest,
)
from fedsec_secure.numeric import shamir
from fedsec_secure.numeric.lanes import Floats, Words, pack_into
from fedsec_secure.numeric.score_levels import level_of
from fedsec_secure.secrets import SecretBytes, derive
from fedsec_secure.weighting.influence import TABLE

SEED_BITS = 14
"""Real ones folded to 28 or 32 bits, which takes seconds to search instead of a part of one."""


def folded(secret: SecretBytes) -> int:
    """A 256-bit secret folded into a small seed, as a generator with an integer seed asks for."""
    return int.from_bytes(secret.reveal(), "big") % (1 << SEED_BITS)


def expand(seed: int) -> Mask:
    """The mask of a small seed."""
    return Mask(derive(SecretBytes(seed.to_bytes(32, "big")), "naive mask"), 0)


@dataclass
class Memory:
    """What a site keeps of one attempt, until it is restarted."""

    update: Floats
    round: int
    statements: Mapping[SiteId, bytes] = field(default_factory=dict)
    shares: dict[SiteId, Dealt] = field(default_factory=dict)
    survivors: frozenset[SiteId] = frozenset()


class NaiveSite:
    """Believes what it is told."""

    def __init__(self, world: World, me: SiteId) -> None:
        self._world, self._me = world, me
        self._work = KnownWork(world, me)
        self._secret = world.keys[me].derive_secret("naive")
        self._memory: dict[bytes, Memory] = {}

    def restart(self) -> None:
        """Nothing was written down. The keys are back, for they follow from the round number."""
        self._memory.clear()

    def close(self) -> None:
        """Nothing to close."""

    def handle(self, name: str, body: bytes) -> bytes:
        """Answers anything, in any order, as often as asked."""
        context = header_of(body).context
        if name == "train":
            return self._train(context, body_of(body))
        if name in ("commit", "reveal", "draw", "verdict") and self._world.plan.weighting.groups is not None:
            return self._careless(name, context, body_of(body))
        if context not in self._memory:
            raise PeerViolationError("nothing of this round is in memory")
        memory = self._memory[context]
        if name in ("share", "mask"):
            return (self._share if name == "share" else self._mask)(context, memory, body_of(body))
        if name == "confirm":
            memory.survivors = frozenset(decode_packets(body_of(body), "naive"))
            return seal("confirm", self._me, context, sha256(body_of(body)), self._sign)
        if name == "unmask":
            return self._unmask(context, memory)
        return seal("verdict", self._me, context, sha256(body_of(body)), self._sign)

    def _careless(self, name: str, context: bytes, body: bytes) -> bytes:
        """New bytes whenever it is asked, groups from whatever comes, and a signature under any sum."""
        if name in ("commit", "reveal"):
            return seal(name, self._me, context, os.urandom(32), self._sign)
        return seal(name, self._me, context, sha256(body), self._sign)

    def _sign(self, data: bytes) -> bytes:
        return self._world.keys[self._me].sign(data)

    def _key(self, what: str, number: int) -> SecretBytes:
        return derive(self._secret, f"naive {what}", number.to_bytes(4, "big"))

    def _train(self, context: bytes, body: bytes) -> bytes:
        request = TrainRequest.decode(body)
        return self._state(context, request.round, AdapterState.from_bytes(request.adapter))

    def _state(self, context: bytes, number: int, adapter: AdapterState) -> bytes:
        self._memory[context] = Memory(self._work.learn(adapter), number)
        channel, mask = (agreement.x25519_public(self._key(what, number)) for what in ("channel", "mask"))
        statement = Statement(channel, mask, bytes(32)).encode()
        if self._world.parameters.hidden_weight:
            statement += Writer().uint(self._work.weight(), 4).done()
        score = self._work.score(adapter)
        if score is not None:
            statement += bytes([score])
        return seal("statement", self._me, context, statement, self._sign)

    def _share(self, context: bytes, memory: Memory, body: bytes) -> bytes:
        memory.statements = decode_packets(body, "naive")
        sites = sorted(self._world.keys)
        secrets = [self._key(what, memory.round) for what in ("self seed", "mask")]
        split = [shamir.split(secret, THRESHOLD, len(sites)) for secret in secrets]
        sealed, promises = [], {}
        for peer in sorted(memory.statements):
            x = sites.index(peer) + 1
            dealt = Dealt(split[0][x], split[1][x], SecretBytes(bytes(32)))
            sealed.append(keys.seal_dealt(self._channel(memory, peer), dealt, self._me, peer, bytes(32)))
            promises[peer] = Promise(bytes(32), bytes(32), bytes(32))
        dealing = Dealing(set_digest("U1", memory.statements), bytes(32), bytes(32), promises)
        return ShareReply(seal("dealing", self._me, context, dealing.encode(), self._sign), sealed).encode()

    def _channel(self, memory: Memory, peer: SiteId) -> SecretBytes:
        public = statement_of(memory.statements[peer]).channel_key
        return agreement.agree(self._key("channel", memory.round), public, peer)

    def _mask(self, context: bytes, memory: Memory, body: bytes) -> bytes:
        request = MaskRequest.decode(body)
        bound = bound_context(context, set_digest("U1", memory.statements), set_digest("U2", request.dealings))
        self._memory[bound] = memory
        for dealer in set(request.dealings) & set(memory.statements):
            try:
                channel = self._channel(memory, dealer)
                memory.shares[dealer] = keys.open_dealt(channel, request.sealed[dealer], dealer, self._me, bytes(32))
            except PeerViolationError:
                continue
        plus, minus = [expand(folded(self._key("self seed", memory.round)))], list[Mask]()
        for peer in sorted(set(request.dealings) & set(memory.statements) - {self._me}):
            public = statement_of(memory.statements[peer]).mask_key
            seed = folded(agreement.agree(self._key("mask", memory.round), public, peer))
            (plus if self._me < peer else minus).append(expand(seed))
        words = add_up([self._encode(memory, self._ratio(memory))], plus, minus)
        return seal("masked", self._me, bound, words.tobytes() + bytes(8), self._sign)

    def _ratio(self, memory: Memory) -> float:
        if self._world.plan.weighting.rule == "influence":
            weights = naive_weights(memory.statements)
            return weights[self._me] / max(weights.values())
        return self._work.weight() / self._world.parameters.weight_max

    def _encode(self, memory: Memory, ratio: float) -> Words:
        """Rounds down, clips nothing, and takes whatever a cast makes of NaN."""
        parameters, update = self._world.parameters, memory.update
        flat = np.zeros(parameters.words * parameters.fixed.lanes.count)
        with np.errstate(all="ignore"):
            flat[parameters.limbs : parameters.elements] = np.floor(update * (ratio * parameters.fixed.scale))
            planes = np.split(flat.astype(np.int32), parameters.fixed.lanes.count)
        out: Words = np.empty(parameters.words, dtype="<u8")
        pack_into(parameters.fixed.lanes, planes, out)
        return out

    def _unmask(self, context: bytes, memory: Memory) -> bytes:
        shares = {
            dealer: (ShareKind.SELF_SEED, dealt.self_share)
            if dealer in memory.survivors
            else (ShareKind.MASK_KEY, dealt.key_share)
            for dealer, dealt in memory.shares.items()
        }
        return seal("unmask", self._me, context, Revealed(shares).encode(), self._sign)


def naive_weights(statements: Mapping[SiteId, bytes]) -> dict[SiteId, int]:
    """By whatever the list says; without a cap, and a score that is missing counts as perfect."""
    bodies = {site: body_of(packet) for site, packet in statements.items()}
    return {site: TABLE[body[96]] if len(body) > 96 else TABLE[0] for site, body in bodies.items()}


class Naive:
    """The weak aggregator, both sides."""

    name = "a weak aggregator"

    def open(self, world: World, site: SiteId, folder: Path) -> Site:
        """A site without a record."""
        return NaiveSite(world, site)

    def read_plan(self, world: World, plan: Plan) -> Plan:
        """Whatever the coordinator wrote."""
        return plan

    def box_context(self, context: bytes, u1: bytes) -> bytes:
        """Nothing."""
        return bytes(32)

    def self_mask(self, seed: SecretBytes, site: SiteId, bound: bytes) -> Mask:
        """From a folded seed, bound to nothing."""
        return expand(folded(seed))

    def pair_mask(self, secret: SecretBytes, public: bytes, me: SiteId, peer: SiteId, bound: bytes) -> Mask:
        """From a folded seed, bound to nothing."""
        return expand(folded(agreement.agree(secret, public, peer)))

    def round(self, world: World, sites: Mapping[SiteId, Site], folder: Path) -> Finished:
        """A coordinator that takes what comes. A site that is lost after its statement ends it with a KeyError."""
        lab = Lab(self, world, folder)
        lab.sites = dict(sites)
        if world.plan.weighting.groups is not None:
            return _in_groups(lab)
        play = Play(lab)
        play.train(sites)
        play.share(sites)
        for site in play.statements:
            play.sealed[site]  # it expects everyone who stated to deal
        play.mask(sites)
        survivors = sorted(play.uploads)
        signed = play.confirm(survivors, play.heads(survivors))
        play.unmask(survivors, signed)
        opened = play.open_sum(survivors)
        if opened is None:
            raise PeerViolationError("too few shares came in")
        return Finished(play.values(opened[0]) / np.float32(len(survivors)), tuple(survivors), {})


def _in_groups(lab: Lab) -> Finished:
    """Every second site, weighed by what the coordinator says of each group's mean, and no cap."""
    world, names = lab.world, sorted(lab.sites)
    means, weights = [], []
    for number, group in enumerate((names[::2], names[1::2])):
        play = Play(lab, run=f"naive-{number}")
        play.begin(group)
        play.unmask(group, play.confirm(group, play.heads(group)))
        opened = play.open_sum(group)
        if opened is None:
            raise PeerViolationError("too few shares came in")
        means.append(play.values(opened[0]) / np.float32(len(group)))
        weights.append(TABLE[level_of(world.loss(world.start.unflatten(world.start.flatten() + means[-1])))])
    shown = seal_parts("verdict-request", COORDINATOR, bytes(32), CombineRequest(b"", [], []).parts(), _unsigned)
    for site in names:
        lab.sites[site].handle("verdict", shown)
    mean = sum((np.float32(w / sum(weights)) * m for w, m in zip(weights, means, strict=True)), np.float32(0))
    return Finished(np.asarray(mean, dtype=np.float32), tuple(names), {})


def _unsigned(data: bytes) -> bytes:
    """No signature is looked at."""
    return bytes(64)
