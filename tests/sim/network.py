"""A simulated network for the masked round: honest sites that may crash at any exchange, all through real bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fedsec_secure.errors import FedsecError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.coordinator_collect import Confirmed, Masked, Shared, Stated, UploadFacts
from fedsec_secure.masking.coordinator_unmask import ClosedTotal, Unmasked
from fedsec_secure.masking.keys import rounding_key
from fedsec_secure.masking.parameters import Group, RoundContext, SumParameters, WeightRule
from fedsec_secure.masking.site_confirmed import SiteConfirmed
from fedsec_secure.masking.site_masked import Contribution, SiteMasked
from fedsec_secure.masking.site_revealed import SiteRevealed
from fedsec_secure.masking.site_shared import SiteShared
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.masking.vector import Encoder
from fedsec_secure.numeric.keystream import CHUNK_WORDS, ArraySource
from fedsec_secure.numeric.lanes import FixedPoint, Lanes, Words
from fedsec_secure.secrets import SecretBytes

Tamper = Callable[[str, SiteId, bytes], bytes]
"""(exchange, site, bytes) -> the bytes that arrive."""
EXCHANGES = ("train", "share", "mask", "confirm", "unmask")


@dataclass
class InProcess:
    """Encrypts what it is given, without a worker."""

    cipher: BfvCipher
    hand_on: Callable[[bytes], None]

    def write(self, chunk: Words) -> None:
        self.hand_on(self.cipher.encrypt(chunk))

    def finish(self) -> None:
        """Nothing is under way."""


@dataclass
class SimSite:
    """One honest site. ``drops_at`` names the exchange that it no longer answers."""

    me: SiteId
    key: SigningKey
    update: np.ndarray
    weight: int = 1
    """Hidden, where the network's parameters say so."""
    score: int | None = None
    drops_at: str | None = None
    coins: SecretBytes = field(default_factory=SecretBytes.random)
    cipher: BfvCipher | None = None
    """Under the key that sites share, where uploads are encrypted."""
    state: object = None
    sent: dict[str, bytes] = field(default_factory=dict)

    def answer(
        self, name: str, request: bytes, group: Group, parameters: SumParameters, context: bytes
    ) -> bytes | None:
        if self.drops_at is not None and EXCHANGES.index(name) >= EXCHANGES.index(self.drops_at):
            return None
        reply = getattr(self, f"_{name}")(request, group, parameters, context)
        self.sent[name] = reply
        return reply

    def _train(self, request, group, parameters, context):
        digest = hashlib.sha256(self.update.tobytes()).digest()
        self.state = SiteStated.begin(self.me, context, digest, self.key.sign, self.score)
        self.state = SiteStated.restore(self.state.record())
        return self.state.statement

    def _share(self, request, group, parameters, context):
        self.state, reply = SiteShared.enter(self.state, request, group, self.key.sign)
        self.state = SiteShared.restore(self.state.record())
        return reply

    def contribution(self) -> Contribution:
        return Contribution(self.update, self.weight, rounding_key(self.coins, b"round"))

    def _mask(self, request, group, parameters, context):
        out = bytearray()
        if group.rule is not None:
            self.weight = self.state.weights(group)[self.me]
        self.state, head = SiteMasked.enter(
            self.state,
            request,
            group,
            parameters,
            self.contribution(),
            self.key.sign,
            lambda part: out.extend(bytes(part)),
            encrypting=None if self.cipher is None else partial(InProcess, self.cipher),
        )
        self.state = SiteMasked.restore(self.state.record())
        return head + bytes(out)

    def _confirm(self, request, group, parameters, context):
        self.state, reply = SiteConfirmed.enter(self.state, request, group, self.key.sign)
        self.state = SiteConfirmed.restore(self.state.record())
        return reply

    def _unmask(self, request, group, parameters, context):
        self.state, reply = SiteRevealed.enter(self.state, request, group, self.key.sign)
        self.state = SiteRevealed.restore(self.state.record())
        return reply

    def encoded(self, parameters: SumParameters) -> Words:
        """The words that this site adds to the sum, before any mask."""
        encoder = Encoder(parameters, self.update, self.weight, self.contribution().coins)
        out = np.empty(parameters.words, dtype=np.uint64)
        for start in range(0, len(out), CHUNK_WORDS):
            encoder.read_into(out[start : start + CHUNK_WORDS])
        return out


@dataclass
class SimRound:
    """The result: the decoded words, who survived, and everything that was sent."""

    total: Words
    tag: int
    survivors: tuple[SiteId, ...]
    stages: dict[str, object]


class SimNetwork:
    """Drives one round over simulated sites with the real coordinator core."""

    def __init__(
        self,
        updates: Mapping[str, np.ndarray],
        parameters: SumParameters,
        threshold: int,
        minimum: int = 3,
        make_key: Callable[[str], SigningKey] = lambda party: SigningKey.generate(),
        rule: WeightRule | None = None,
    ):
        self.coordinator = make_key("coordinator")
        keys = {SiteId(s): make_key(s) for s in updates}
        self.sites = {s: SimSite(s, keys[s], updates[s]) for s in keys}
        roster = Roster(self.coordinator.public, {s: k.public for s, k in keys.items()})
        self.group = Group(roster, minimum, threshold, rule=rule)
        self.parameters = parameters
        self.context = RoundContext(bytes(32), "run-1", 1, 1, roster.digest(), bytes(32)).digest()
        self.tamper_request: Tamper = lambda name, site, data: data
        self.tamper_reply: Tamper = lambda name, site, data: data
        self.lenient = False
        """A site that refuses an untouched request is lost, rather than an error of the test."""
        self.asked: dict[tuple[str, SiteId], bytes] = {}
        """(exchange, site) -> the request that it got."""
        self.refused: dict[tuple[str, SiteId], str] = {}
        """(exchange, site) -> why the coordinator set the reply aside, or why the site gave none."""

    def exchange(self, name: str, requests: Mapping[SiteId, bytes]) -> dict[SiteId, bytes]:
        replies = {}
        for site, request in requests.items():
            tampered = self.tamper_request(name, site, request)
            self.asked[name, site] = tampered
            try:
                reply = self.sites[site].answer(name, tampered, self.group, self.parameters, self.context)
            except FedsecError as e:
                if tampered == request and not self.lenient:
                    raise
                self.refused[name, site] = f"{type(e).__name__}: {e}"
                continue
            if reply is not None:
                replies[site] = self.tamper_reply(name, site, reply)
        return replies

    def note(self, name: str, refused: Mapping[SiteId, str]) -> None:
        self.refused |= {(name, site): why for site, why in refused.items()}

    def run(self) -> SimRound:
        done, unmasked, sources = self.run_to_sum()
        total = unmasked.total(sources)
        return SimRound(total.words, total.tag, tuple(done["masked"].heads), done)

    def run_closed(self) -> tuple[ClosedTotal, dict[str, object]]:
        """Where uploads are encrypted: what the coordinator then has."""
        done, unmasked, sources = self.run_to_sum()
        return unmasked.closed_total(sources, self.parameters.encryption), done

    def run_to_sum(self) -> tuple[dict[str, object], Unmasked, dict[SiteId, ArraySource]]:
        sign = self.coordinator.sign
        replies = self.exchange("train", dict.fromkeys(self.sites, b""))
        stated, refused = Stated.collect(self.group, self.parameters, self.context, sign, replies)
        self.note("train", refused)
        shared, refused = Shared.gather(stated, self.exchange("share", stated.share_requests()))
        self.note("share", refused)
        uploads = self.exchange("mask", shared.mask_requests())
        masked, refused = Masked.gather(shared, {s: measure(u, self.parameters) for s, u in uploads.items()})
        self.note("mask", refused)
        confirmed, refused = Confirmed.gather(masked, self.exchange("confirm", masked.confirm_requests()))
        self.note("confirm", refused)
        unmasked, refused = Unmasked.gather(confirmed, self.exchange("unmask", confirmed.unmask_requests()))
        self.note("unmask", refused)
        sources = {s: ArraySource(body_of(uploads[s], self.parameters)) for s in masked.heads}
        stages = {"stated": stated, "shared": shared, "masked": masked, "confirmed": confirmed, "unmasked": unmasked}
        return stages, unmasked, sources


def body_of(upload: bytes, parameters: SumParameters) -> Words:
    """The vector's words, then the tag."""
    return np.frombuffer(upload[len(upload) - parameters.masked_bytes :], dtype="<u8")


def words_of(upload: bytes, parameters: SumParameters) -> Words:
    return body_of(upload, parameters)[:-1]


def measure(upload: bytes, parameters: SumParameters) -> UploadFacts:
    cut = len(upload) - parameters.masked_bytes
    return UploadFacts(upload[:cut], len(upload) - cut, hashlib.sha256(upload[cut:]).digest())


def parameters_for(
    sites: int, length: int, *, ring: str = "3x21", clip: float = 0.5, weight_max: int = 1, hidden: bool = False
) -> SumParameters:
    return SumParameters(FixedPoint.choose(Lanes.named(ring), sites, clip), length, weight_max, hidden)
