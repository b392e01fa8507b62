"""Attacks on what opens ciphertexts: weights past what decrypts, and bytes that nobody would send."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedsec.attacks.isolate import OTHERS
from fedsec.attacks.lab import SITES, VICTIM, Lab, make_world
from fedsec.attacks.one_key import key_of
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.sealed import Mode, SealedPlay, SealedTarget, opened
from fedsec.attacks.wrong_sum import ONE_MESSAGE
from fedsec.encryption.messages import DONE, FAILED, SIZES
from fedsec.plan.model import Plan, Roster, RosterSite
from fedsec.wire import CatchUp
from fedsec_secure.errors import FedsecError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import Ring
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.numeric.lanes import Words

_BLOBS = 300
_FACTOR = STANDARD.capacity // 3
"""Of each of four sites: a third more, all together, than is proved to decrypt."""


@dataclass(frozen=True)
class TooManySites:
    """The coordinator's plan has more sites than a sum is proved to decrypt for."""

    mode: Mode
    rule: Literal["uniform", "influence"]
    most: int

    def __call__(self, target: SealedTarget, folder: Path) -> Got:
        """Perform it."""
        world = make_world(rounds=1, rule=self.rule, mode=target.mode(self.mode))
        count = self.most + 1
        try:
            plan = target.read_plan(world, _crowded(world.plan, count))
        except FedsecError as e:
            return held(f"a plan for {count} sites is refused: {str(e).rpartition('Value error, ')[2]}")
        return broken(f"a plan for {len(plan.roster.sites)} sites is taken: its sums may decrypt to something else")


def _crowded(plan: Plan, count: int) -> Plan:
    names = (f"site-{number:03}" for number in range(count))
    make = SigningKey.generate
    sites = {name: RosterSite(key=make().public.hex, officer=make().public.hex) for name in names}
    roster = Roster(coordinator=plan.roster.coordinator, sites=sites)
    secure = plan.secure.model_copy(update={"threshold": 2 * count // 3 + 1})
    return plan.model_copy(update={"roster": roster, "secure": secure})


def too_heavy(target: SealedTarget, folder: Path) -> Got:
    """A site was away, and is sent the sum that it missed with weights past the bound of what decrypts."""
    with Lab(target, make_world(mode=target.mode("he")), folder) as lab:
        first = SealedPlay(lab)
        first.share_key()
        first.upload(OTHERS)
        signed = first.show(OTHERS, first.request(OTHERS, first.right(OTHERS)))
        if len(signed) != len(OTHERS):
            return broken(f"an honest round was refused: {lab.why}")
        frames = first.right(OTHERS).frames
        parts = b"".join(bytes(part) for part in frames.parts())
        light = CatchUp((1,) * len(OTHERS), 1, len(OTHERS), parts)
        c0: Words = np.zeros_like(frames.c0)
        Ring(STANDARD).add_weighted(c0.reshape(-1), frames.c0.reshape(-1), _FACTOR)
        heavy = parts[: len(parts) - c0.nbytes] + c0.tobytes()
        sent = CatchUp((_FACTOR,) * len(OTHERS), _FACTOR, _FACTOR * len(OTHERS), heavy)
        total = _FACTOR * len(OTHERS)
        after = first.after(signed)
        after.missed = {0: sent}
        if after.train([VICTIM]):
            return broken(f"{VICTIM} opened a sum with weights of {total}, {STANDARD.capacity} are proved to decrypt")
        after.missed = {0: light}
        if after.train([VICTIM]):
            return broken(f"{VICTIM} refused, and opens sums of this run as before")
        if ONE_MESSAGE not in lab.why:
            return broken(f"another refusal than of any sum that does not open: {lab.why}")
        return held(f"weights of {total} in all, where {STANDARD.capacity} are proved: refused, and the key destroyed")


def hostile_bytes(target: SealedTarget, folder: Path) -> Got:
    """Hundreds of malformed ciphertexts, sizes and weights, straight to what parses them at a site."""
    with target.uploaded("he", folder) as play:
        key, words = key_of(play.lab), play.lab.world.parameters.words
        total = play.right(SITES)
        right = opened(key, total.frames, words)
        good = SIZES.pack(total.frames.c0.size, len(SITES), 0) + b"".join(bytes(part) for part in total.frames.parts())
        try:
            with target.parser(key) as ask:
                replies = [ask(blob) for blob in _mutated(good)]
                after = ask(good)
        except (EOFError, OSError) as e:
            return broken(f"what parses ciphertexts ended: {type(e).__name__}")
    refused = [reply for reply in replies if reply[:1] == FAILED]
    said = sorted({reply[1:].decode(errors="replace") for reply in refused} - {""})
    if said:
        return broken(f"{len(said)} different refusals, with reasons: {'; '.join(said[:3])}; …")
    if any(len(reply) != 1 + total.frames.c0.nbytes for reply in replies if reply != FAILED):
        return broken("a reply that is neither a sum nor the refusal")
    if after[:1] != DONE or not np.array_equal(np.frombuffer(after[1:], dtype="<u8")[:words], right):
        return broken("what parses ciphertexts decrypts wrongly afterwards")
    words = len(replies) - len(refused)
    return held(f"{len(replies)} blobs: {len(refused)} empty refusals, {words} decrypt to words; the worker goes on")


def _mutated(good: bytes) -> list[bytes]:
    """Bits flipped, bytes cut out, put in and repeated, numbers at their edges: a third of the time in the
    sizes, and a third with the length that is due.
    """
    rng, head, out = random.Random(1), SIZES.size, list[bytes]()  # noqa: S311 - which bytes are sent is no secret
    for case in range(_BLOBS):
        data = bytearray(good)
        last = head if case % 3 == 0 else len(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(last, len(data)))
            kind = rng.choice([0, 3] if case % 3 == 2 else range(5))
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at : at + rng.randint(1, 64)]
            elif kind == 2:
                data[at:at] = rng.randbytes(rng.randint(1, 64))
            elif kind == 3:
                data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, STANDARD.modulus, 1 << 63, (1 << 64) - 1]))
            else:
                data[at:at] = data[at : at + 4096]
            last = max(1, min(last, len(data)))
        out.append(bytes(data))
    return out
