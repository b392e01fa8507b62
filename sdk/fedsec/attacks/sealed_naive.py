"""A deliberately weak aggregator of encrypted updates, for the attacks to succeed on. It can serve no run.

Its faults are those of homomorphic encryption as it is usually put around federated averaging: one key for all sites
and nothing under it, no tag on the sum, no bound on weights, a key that is kept whatever came, the encryption library
in the site's own process, and refusals that say what was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from fedsec.attacks.lab import Site, World
from fedsec.attacks.naive import Memory, Naive, NaiveSite
from fedsec.attacks.play import body_of, header_of
from fedsec.attacks.sealed import SCORE_AT, Mode, SealedPlay, uploading
from fedsec.encryption.messages import DONE, FAILED, SIZES
from fedsec.plan.model import Plan
from fedsec.wire import EncryptedStart, TrainRequest, VerdictRequest, weight_rule
from fedsec_secure.codec import Buffer, seal
from fedsec_secure.errors import FedsecError, PeerViolationError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.messages import decode_packets
from fedsec_secure.numeric.lanes import Floats, unpack
from fedsec_secure.secrets import SecretBytes


class SealedNaiveSite(NaiveSite):
    """Decrypts what it is handed, and goes on from there."""

    def __init__(self, world: World, me: SiteId) -> None:
        super().__init__(world, me)
        self._shared = world.keys[min(world.keys)].derive_secret("naive encryption")
        self._adapter, self._next = world.start, 0

    def hand_over(self, run: str) -> SecretBytes:
        """The same for every run."""
        return self._shared

    def handle(self, name: str, body: bytes) -> bytes:
        """Answers anything, in any order, as often as asked."""
        context = header_of(body).context
        if name.startswith("key-"):
            return seal(name, self._me, context, self._shared.reveal(), self._sign)
        if name in {"encrypt", "verdict"} and context not in self._memory:
            raise PeerViolationError("nothing of this round is in memory")
        if name == "encrypt":
            return self._encrypt(context, self._memory[context], body_of(body))
        if name == "verdict":
            return self._verdict(context, self._memory[context], body_of(body))
        return super().handle(name, body)

    def _train(self, context: bytes, body: bytes) -> bytes:
        request = TrainRequest.decode(body)
        if request.round:
            for number, missed in sorted(EncryptedStart.decode(request.adapter).missed.items()):
                if number >= self._next:
                    self._step(number, self._mean(missed.frames, missed.factors))
        return self._state(context, request.round, self._adapter)

    def _encrypt(self, context: bytes, memory: Memory, body: bytes) -> bytes:
        memory.statements = decode_packets(body, "naive")
        cipher = BfvCipher(self._shared)
        frames = cipher.encrypt(self._encode(memory, 1.0))
        cipher.close()
        return seal("encrypt", self._me, context, frames + bytes(8), self._sign)

    def _verdict(self, context: bytes, memory: Memory, body: bytes) -> bytes:
        request = VerdictRequest.decode(body)
        weights = _weights(self._world.plan, memory.statements)
        self._step(memory.round, self._mean(request.words, [weights[site] for site in sorted(request.heads)]))
        return seal("verdict", self._me, context, self._adapter.digest(), self._sign)

    def _mean(self, frames: Buffer, factors: Sequence[int]) -> Floats:
        """What they decrypt to, without a check on what it is."""
        parameters = self._world.parameters
        total = SumFrames.decode(frames, STANDARD, parameters.words, len(factors))
        cipher = BfvCipher(self._shared)
        words = cipher.decrypt(total, factors)[: parameters.words]
        cipher.close()
        flat = np.concatenate(unpack(parameters.fixed.lanes, words))[: parameters.elements]
        mean: Floats = (flat * (parameters.fixed.step / sum(factors))).astype(np.float32)
        return mean

    def _step(self, number: int, mean: Floats) -> None:
        self._adapter, self._next = self._adapter.unflatten(self._adapter.flatten() + mean), number + 1


def _weights(plan: Plan, statements: Mapping[SiteId, bytes]) -> dict[SiteId, int]:
    rule = weight_rule(plan)
    if rule is None:
        return dict.fromkeys(statements, 1)
    return rule.weigh({site: body_of(packet)[SCORE_AT] for site, packet in statements.items()})


class SealedNaive(Naive):
    """The weak aggregator, both sides. It speaks this build's messages; where the scheme is attacked, it has CKKS."""

    scheme: Final = "CKKS"

    def open(self, world: World, site: SiteId, folder: Path) -> Site:
        """A site without a record."""
        return SealedNaiveSite(world, site)

    def mode(self, asked: Mode) -> Mode:
        """It has no masks."""
        return "he"

    def uploaded(self, mode: Mode, folder: Path) -> AbstractContextManager[SealedPlay]:
        """New sites: they write nothing down."""
        return uploading(self, mode, folder)

    def warning(self, plan: Plan) -> str:
        """It calls this encrypted, and says no more."""
        return ""

    @contextmanager
    def parser(self, key: SecretBytes) -> Iterator[Callable[[bytes], bytes]]:
        """In the site's own process."""
        cipher = BfvCipher(key)

        def ask(request: bytes) -> bytes:
            try:
                words, addends, _ = SIZES.unpack_from(request)
                total = SumFrames.decode(request[SIZES.size :], STANDARD, words, addends)
                found = cipher.decrypt(total).tobytes()
            except (FedsecError, RuntimeError, ValueError, OverflowError, MemoryError) as e:
                return FAILED + str(e).encode()
            return DONE + found

        yield ask
        cipher.close()
