"""Attacks on sites that open encrypted sums: another sum than theirs, an old one, bytes that were changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsec.attacks.lab import SITES, VICTIM, Lab, make_world
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import RUN
from fedsec.attacks.sealed import Mode, SealedPlay, SealedTarget
from fedsec.encryption.workers import UNOPENED
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import Ring
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.coordinator_unmask import ClosedTotal
from fedsec_secure.masking.tag import PRIME

_WITNESS = SITES[-1]
"""Shown nothing but the right sum: it has to be accepted, or nothing was tried."""
ASKED = SITES[:-1]
_LEVELS = {SITES[0]: 0, VICTIM: 20, SITES[2]: 10, SITES[3]: 10, SITES[4]: 10}
"""Scores by which the first site weighs most, and the victim least."""
ONE_MESSAGE = f"{UNOPENED}: the encryption key of run {RUN} is destroyed here"
"""Whatever is wrong with a sum, nobody is told more."""
Forgeries = Mapping[SiteId, tuple[str, bytes]]
"""Site -> (what it is shown as the sum, in words; the request)."""


@contextmanager
def gathered(target: SealedTarget, folder: Path, mode: Mode) -> Iterator[SealedPlay]:
    """All sites have uploaded, and revealed what opens the sum's masks."""
    with target.uploaded(mode, folder) as play:
        play.close(SITES)
        yield play


def judge(play: SealedPlay, forgeries: Forgeries, right: bytes) -> Got:
    """Held where nobody goes on from a forgery, all say the same of it, and nobody has a key afterwards."""
    said = play.lab.said
    said.clear()
    for site, (name, request) in forgeries.items():
        if play.show([site], request):
            return broken(f"{site} took for the sum: {name}")
    words = {line.split(": ", 1)[1] for line in said}
    if words != {ONE_MESSAGE}:
        return broken(f"refusals that tell something: {'; '.join(sorted(words))}")
    said.clear()
    again = play.show(forgeries, right)
    if again or not all("destroyed its encryption key" in line for line in said):
        return broken(f"{len(again)} sites open sums after a forged one: they can be asked again and again")
    if not play.show([_WITNESS], right):
        return broken(f"the right sum is refused as well: {said[-1]}")
    count = f"{len(forgeries)} of {len(forgeries)}"
    return held(f"{count} sites refuse, all in the same words, and destroy the key: nothing is opened there again")


@dataclass(frozen=True)
class OneUpload:
    """The victim's upload in the place of the sum: by itself, then once for each site."""

    mode: Mode

    def __call__(self, target: SealedTarget, folder: Path) -> Got:
        """Perform it."""
        with gathered(target, folder, self.mode) as play:
            alone = play.request([VICTIM], play.total([VICTIM], [1], SITES))
            if signed := play.show(SITES, alone):
                return broken(f"{len(signed)} sites opened {VICTIM}'s update alone, and went on from it")
            each = play.request(SITES, play.total([VICTIM] * len(SITES), [1] * len(SITES), SITES))
            forgeries = dict.fromkeys(ASKED[:2], (f"{VICTIM}'s upload, once for each site", each))
            return judge(play, forgeries, play.request(SITES, play.right(SITES)))


def _one_left_out(play: SealedPlay) -> ClosedTotal:
    first, *others = [site for site in SITES if site != VICTIM]
    return play.total([first, first, *others], [1] * len(SITES), SITES)


def _a_number_added(play: SealedPlay) -> ClosedTotal:
    total, plain = play.right(SITES), np.zeros(STANDARD.degree, dtype="<u8")
    plain[3] = 1
    Ring(STANDARD).add_plain(total.frames.c0[0], plain)
    return total


def _doubled(play: SealedPlay) -> ClosedTotal:
    total = play.right(SITES)
    Ring(STANDARD).add(total.frames.c0.reshape(-1), total.frames.c0.reshape(-1).copy())
    return ClosedTotal(total.frames, 2 * total.tag % PRIME)


def _another_tag(play: SealedPlay) -> ClosedTotal:
    total = play.right(SITES)
    return ClosedTotal(total.frames, (total.tag + 1) % PRIME)


_OTHER_SUMS: Mapping[str, Callable[[SealedPlay], ClosedTotal]] = {
    f"four of five, {VICTIM} left out": _one_left_out,
    "the sum with a number added, which needs no key": _a_number_added,
    "the sum doubled, its tag as well": _doubled,
    "the sum with another tag": _another_tag,
}


@dataclass(frozen=True)
class AnotherSum:
    """A part of the sum, or the sum changed; a different one for each site."""

    mode: Mode

    def __call__(self, target: SealedTarget, folder: Path) -> Got:
        """Perform it."""
        with gathered(target, folder, self.mode) as play:
            made = [(name, play.request(SITES, forge(play))) for name, forge in _OTHER_SUMS.items()]
            return judge(play, dict(zip(ASKED, made, strict=True)), play.request(SITES, play.right(SITES)))


def other_weights(target: SealedTarget, folder: Path) -> Got:
    """The coordinator multiplies by other weights than the scores give: two sites' exchanged, and one site's alone."""
    world = make_world(rounds=1, rule="influence", mode=target.mode("he"), levels=_LEVELS)
    with Lab(target, world, folder) as lab:
        play = SealedPlay(lab)
        play.share_key()
        play.upload(SITES)
        weights = play.weights(SITES)
        factors, exchanged = list(weights.values()), {SITES[0]: VICTIM, VICTIM: SITES[0]}
        swapped = play.total([exchanged.get(site, site) for site in weights], factors, SITES)
        alone = play.total([VICTIM] * len(SITES), factors, SITES)
        forgeries = {
            SITES[0]: (f"a sum where {SITES[0]} and {VICTIM} weigh as the other", play.request(SITES, swapped)),
            SITES[2]: (f"a sum where all the weight is {VICTIM}'s", play.request(SITES, alone)),
        }
        return judge(play, forgeries, play.request(SITES, play.right(SITES)))


@dataclass(frozen=True)
class Replay:
    """The sum of the round before, in the place of this round's, and its whole request once more."""

    mode: Mode

    def __call__(self, target: SealedTarget, folder: Path) -> Got:
        """Perform it."""
        with gathered(target, folder, self.mode) as first:
            old = first.right(SITES)
            signed = first.show(SITES, first.request(SITES, old))
            if len(signed) != len(SITES):
                return broken(f"an honest round was refused: {first.lab.why}")
            now = first.after(signed)
            now.upload(SITES)
            now.close(SITES)
            if first.show([VICTIM], first.request(SITES, ClosedTotal(old.frames, old.tag + 1))):
                return broken(f"{VICTIM} opened another sum of a round that is over")
            forgeries = {site: ("the sum of the round before", now.request(SITES, old)) for site in ASKED[:2]}
            return judge(now, forgeries, now.request(SITES, now.right(SITES)))


@dataclass(frozen=True)
class Changed:
    """The right sum with bytes changed or left out: in a ciphertext, in a seed, past the modulus, at the end."""

    mode: Mode

    def __call__(self, target: SealedTarget, folder: Path) -> Got:
        """Perform it."""
        with gathered(target, folder, self.mode) as play:
            right = play.request(SITES, play.right(SITES))
            c0 = STANDARD.blocks(play.lab.world.parameters.words) * STANDARD.c0_bytes
            made = [
                ("a changed bit of a ciphertext, above its noise", _flipped(right, len(right) - 2)),
                ("a changed bit of a seed", _flipped(right, len(right) - c0 - 1)),
                ("a number that is no residue", right[:-8] + bytes([255] * 8)),
                ("a sum that is cut short", right[:-8]),
            ]
            return judge(play, dict(zip(ASKED, made, strict=True)), right)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
