"""The hostile coordinator's hands where uploads are encrypted: it adds ciphertexts as it likes, and in some attacks has
one site's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from fedsec.attacks.lab import SITES, Lab, Site, Target, make_world, roster_of
from fedsec.attacks.play import Packets, Play, body_of
from fedsec.plan.model import Plan
from fedsec.wire import CatchUp, EncryptedStart, TrainRequest, VerdictRequest, weight_rule
from fedsec_secure.codec import Writer
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames, add_masks, sum_frames
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.ceremony import ceremony_context
from fedsec_secure.masking.coordinator_unmask import ClosedTotal
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.masking.parameters import RoundContext
from fedsec_secure.masking.tag import PRIME, TAG_BYTES
from fedsec_secure.numeric.keystream import ArraySource, MaskStreams
from fedsec_secure.numeric.lanes import Floats, Words
from fedsec_secure.secrets import SecretBytes

Mode = Literal["he-mask", "he"]
SCORE_AT = 96
"""In a statement: after two keys and a commitment."""


@runtime_checkable
class KeyHolder(Site, Protocol):
    """A site that has the encryption key of a run."""

    def hand_over(self, run: str) -> SecretBytes:
        """The key."""
        ...


class SealedTarget(Target, Protocol):
    """An aggregator of encrypted updates."""

    @property
    def scheme(self) -> Literal["BFV", "CKKS"]:
        """What its sums are encrypted by."""
        ...

    def mode(self, asked: Mode) -> Mode:
        """What it does where a plan asks for ``asked``."""
        ...

    def uploaded(self, mode: Mode, folder: Path) -> AbstractContextManager[SealedPlay]:
        """Five sites of a plan of two rounds have the key, and have uploaded in the first."""
        ...

    def warning(self, plan: Plan) -> str:
        """What an officer is told, before approving, about who can open an upload; empty where nobody says."""
        ...

    def parser(self, key: SecretBytes) -> AbstractContextManager[Callable[[bytes], bytes]]:
        """What parses ciphertexts at a site with this key: a request's bytes in, one byte and what follows it out.
        EOFError where it ended.
        """
        ...


@dataclass
class SealedPlay(Play):
    """One attempt whose uploads are encrypted.

    ``digest``: of what a later round starts from, which ``verdicts`` attest; ``missed``: sums for sites that were away.
    """

    digest: bytes | None = None
    verdicts: Packets = field(default_factory=dict)
    missed: Mapping[int, CatchUp] = field(default_factory=dict)
    opened: dict[SiteId, Words] = field(default_factory=dict)
    """Words of uploads that a key has opened."""

    @property
    def masked(self) -> bool:
        """Whether there are masks under the encryption."""
        return self.lab.world.plan.secure.is_masked

    def context(self, site: SiteId | None = None) -> bytes:
        """Of this attempt, from a digest alone after round 0."""
        world = self.lab.world
        plan, digest = world.plan.digest(), self.digest or world.start.digest()
        return RoundContext(plan, self.run, self.round, self.attempt, roster_of(world), digest).digest()

    def bound(self, site: SiteId | None = None) -> bytes:
        """Without masks every exchange has the context of the attempt."""
        return super().bound(site) if self.masked else self.context(site)

    # ---- the key

    def offers(self) -> dict[SiteId, bytes]:
        """`key-offer`, to everyone."""
        return self._ceremony("key-offer", self.lab.sites, Writer().text(self.run).done())

    def deal_key(self, offers: Packets) -> bytes | None:
        """`key-deal`: what the dealer made of these offers."""
        dealer = min(self.lab.sites)
        return self._ceremony("key-deal", [dealer], encode_packets(offers)).get(dealer)

    def take_key(self, offers: Packets, dealt: bytes) -> dict[SiteId, bytes]:
        """`key-take`, to everyone."""
        return self._ceremony("key-take", self.lab.sites, encode_packets(offers) + Writer().blob(dealt).done())

    def share_key(self) -> None:
        """The whole ceremony, as an honest coordinator carries it."""
        offers = self.offers()
        self.take_key(offers, self.deal_key(offers) or b"")

    def _ceremony(self, name: str, to: Iterable[SiteId], body: bytes) -> dict[SiteId, bytes]:
        world = self.lab.world
        context = ceremony_context(world.plan.digest(), self.run, roster_of(world))
        got = {site: self._ask(name, site, context, body) for site in to}
        return {site: reply for site, reply in got.items() if reply is not None}

    # ---- a round

    def train(self, to: Iterable[SiteId], verdicts: Packets | None = None) -> dict[SiteId, bytes]:
        """Show a digest after round 0; collect statements."""
        if self.digest is None:
            return super().train(to, verdicts)
        start = EncryptedStart(self.digest, self.missed).encode()
        body = TrainRequest(self.run, self.round, self.attempt, start, self.verdicts).encode()
        got = {site: self._ask("train", site, self.context(), body) for site in to}
        fresh = {site: reply for site, reply in got.items() if reply is not None}
        self.statements |= fresh
        return fresh

    def encrypt(self, to: Iterable[SiteId]) -> None:
        """`encrypt`: uploads without masks."""
        got = {site: self._ask("encrypt", site, self.context(), encode_packets(self.statements)) for site in to}
        self.uploads |= {site: reply for site, reply in got.items() if reply is not None}

    def upload(self, sites: Sequence[SiteId]) -> None:
        """Up to the uploads, with the same sites."""
        if self.masked:
            self.begin(sites)
        else:
            self.train(sites)
            self.encrypt(sites)

    def close(self, sites: Sequence[SiteId]) -> None:
        """What has to be revealed for a sum over these sites; without masks nothing."""
        if self.masked:
            self.reveal(sites)

    def weights(self, sites: Iterable[SiteId]) -> dict[SiteId, int]:
        """What the ciphertexts of these sites are multiplied by."""
        rule, names = weight_rule(self.lab.world.plan), sorted(sites)
        if self.masked or rule is None:
            return dict.fromkeys(names, 1)
        weights = rule.weigh({site: body_of(packet)[SCORE_AT] for site, packet in self.statements.items()})
        return {site: weights[site] for site in names}

    def total(self, sources: Sequence[SiteId], factors: Sequence[int], over: Sequence[SiteId]) -> ClosedTotal:
        """The sum of these uploads, each so often, without the masks that are left in a sum ``over`` these sites."""
        words = self.lab.world.parameters.words
        frames = sum_frames([ArraySource(self.frames(site)) for site in sources], STANDARD, words, factors)
        tag = sum(factor * self.tag(site) for site, factor in zip(sources, factors, strict=True))
        if self.masked:
            masks = self.masks_over(sorted(over))
            if masks is None:
                raise LocalMisuseError(f"the masks of a sum of {len(over)} were not revealed: {self.lab.why}")
            plus, minus = masks
            with MaskStreams([m.vector for m in plus], [m.vector for m in minus]) as streams:
                add_masks(frames, STANDARD, words, streams)
            tag += sum(m.tag for m in plus) - sum(m.tag for m in minus)
        return ClosedTotal(frames, tag % PRIME)

    def right(self, sites: Sequence[SiteId]) -> ClosedTotal:
        """The sum that an honest coordinator hands out."""
        weights = self.weights(sites)
        return self.total(list(weights), list(weights.values()), sites)

    def request(self, sites: Iterable[SiteId], total: ClosedTotal) -> bytes:
        """A `verdict` request over these sites."""
        head = VerdictRequest(self.heads(sorted(sites)), total.tag, b"").parts()
        return b"".join([*head, *total.frames.parts()])

    def show(self, to: Iterable[SiteId], request: bytes) -> dict[SiteId, bytes]:
        """`verdict`: who signs what follows from a sum."""
        got = {site: self._ask("verdict", site, self.bound(), request) for site in to}
        return {site: reply for site, reply in got.items() if reply is not None}

    def after(self, verdicts: Packets) -> SealedPlay:
        """The next round, from what these sites signed."""
        (digest,) = {bytes(body_of(packet)) for packet in verdicts.values()}
        return SealedPlay(self.lab, self.round + 1, digest=digest, verdicts=verdicts)

    # ---- with a key

    def frames(self, site: SiteId) -> Words:
        """The ciphertexts of an upload."""
        return np.frombuffer(body_of(self.uploads[site])[:-TAG_BYTES], dtype="<u8")

    def open(self, key: SecretBytes, sites: Iterable[SiteId]) -> None:
        """Decrypt uploads, each by itself."""
        words = self.lab.world.parameters.words
        for site in sites:
            self.opened[site] = opened(key, sum_frames([ArraySource(self.frames(site))], STANDARD, words), words)

    def words(self, site: SiteId) -> Words:
        """What is under the encryption of an upload that was opened."""
        return self.opened[site]

    def values(self, words: Words) -> Floats:
        """Of words modulo t."""
        unused = np.int64(64 - STANDARD.plain_bits)
        signed = (words.view(np.int64) << unused) >> unused
        return super().values(signed.view(np.uint64))


@contextmanager
def uploading(target: SealedTarget, mode: Mode, folder: Path) -> Iterator[SealedPlay]:
    """New sites, up to their uploads."""
    with Lab(target, make_world(mode=target.mode(mode)), folder) as lab:
        play = SealedPlay(lab)
        play.share_key()
        play.upload(SITES)
        yield play


def opened(key: SecretBytes, total: SumFrames, words: int) -> Words:
    """What a sum comes to under a key, whether it is the right one or not."""
    cipher = BfvCipher(key)
    try:
        return cipher.decrypt(total)[:words]
    finally:
        cipher.close()
