"""Everything that sites send in a run, over all their lives, and whether any mask covered two plaintexts."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from fedsec.site.end import claimed_context
from fedsec.training.adapter import AdapterState
from fedsec.training.strategies import trained_names
from fedsec.wire import decode_bundle
from fedsec_secure.codec import head_length
from fedsec_secure.masking.messages import Dealing, ShareReply, Statement
from tests.e2e.federation import ArithmeticWork

UPLOADS = ("mask", "step", "plain", "encrypt")


class NeverTheSame(ArithmeticWork):
    """Training that does not repeat itself: a second plaintext is another one, and shows."""

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint) -> AdapterState:
        rng = np.random.default_rng()
        tensors = dict(adapter)
        for name in trained_names(self.plan.lora.strategy, adapter, round_index):
            tensors[name] = adapter[name] + rng.normal(0, 0.02, adapter[name].shape).astype(np.float32)
        return AdapterState(tensors)


def _body(packet: bytes) -> bytes:
    return packet[head_length(packet) :]


@dataclass
class Sent:
    """By site and by the context of its statement: keys that it drew, and what left under them."""

    scored: bool = False
    names: list[tuple[str, str]] = field(default_factory=list)
    """(site, exchange) of every answer."""
    _mask_keys: dict = field(default_factory=lambda: defaultdict(set))
    _seeds: dict = field(default_factory=lambda: defaultdict(set))
    _uploads: dict = field(default_factory=lambda: defaultdict(set))
    _reveals: dict = field(default_factory=lambda: defaultdict(set))

    def watch(self, site: str, agent):
        """The agent, listened to."""
        return _Listening(site, agent, self)

    def keep(self, site: str, name: str, body: bytes, reply) -> None:
        """One answer that leaves."""
        self.names.append((site, name))
        data = reply if isinstance(reply, bytes) else reply.read_bytes()
        digest = hashlib.sha256(data).digest()
        if name in ("train", "keys"):
            for packet in decode_bundle(data) if name == "keys" else [data]:
                self._mask_keys[site, claimed_context(packet)].add(
                    Statement.decode(_body(packet), self.scored).mask_key
                )
        elif name in ("share", "deal"):
            for part in decode_bundle(data) if name == "deal" else [data]:
                packet = ShareReply.decode(part).packet
                self._seeds[site, claimed_context(packet)].add(Dealing.decode(_body(packet)).self_seed)
        elif name in UPLOADS:
            self._uploads[site, claimed_context(decode_bundle(body)[1] if name == "step" else body)].add(digest)
        elif name == "unmask":
            self._reveals[site, claimed_context(body)].add(digest)

    def wrong(self) -> list[str]:
        """What must not be: two uploads under one mask key or one self-mask seed, two sets of shares opened."""
        found = []
        for what, drawn in (("mask key", self._mask_keys), ("self-mask seed", self._seeds)):
            covered = defaultdict(set)
            for place, secrets in drawn.items():
                for secret in secrets:
                    covered[secret] |= self._uploads[place]
            found += [f"{what} {s.hex()[:8]} covers {len(u)} uploads" for s, u in covered.items() if len(u) > 1]
            every = [secret for secrets in drawn.values() for secret in secrets]
            found += [f"a {what} stands in two contexts"] * (len(every) - len(set(every)))
        for what, sent in (("upload", self._uploads), ("reveal", self._reveals)):
            found += [f"{site} sent {len(d)} {what}s in one attempt" for (site, _), d in sent.items() if len(d) > 1]
        return found

    @property
    def uploads(self) -> int:
        """How many there were."""
        return sum(map(len, self._uploads.values()))


@dataclass
class _Listening:
    site: str
    agent: object
    sent: Sent

    def handle(self, name: str, body: bytes):
        reply = self.agent.handle(name, body)
        self.sent.keep(self.site, name, body, reply)
        return reply
