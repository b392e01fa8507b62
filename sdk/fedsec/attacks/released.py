"""Attacks on the encryption key by way of sums that were opened: on the scheme that is used, and on CKKS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsec.attacks.lab import SITES
from fedsec.attacks.one_key import COLLUDER, key_of
from fedsec.attacks.opened_sums import Bfv, Ckks, key_from
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.sealed import SealedTarget, opened
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import sum_frames
from fedsec_secure.numeric.keystream import ArraySource

_UPDATES = 3


def key_from_sums(target: SealedTarget, folder: Path) -> Got:
    """What the sites show as a sum, and what one site knows of its own upload, are put beside the ciphertexts."""
    if target.scheme == "CKKS":
        return broken(f"its scheme is CKKS: {_ckks(folder)[1]}")
    with target.uploaded("he", folder) as play:
        key, words, attack = key_of(play.lab), play.lab.world.parameters.words, Bfv(folder)
        own = sum_frames([ArraySource(play.frames(COLLUDER))], STANDARD, words)
        known = [(frames, opened(key, frames, words)) for frames in (play.right(SITES).frames, own)]
        first, second = (attack.equation(*one) for one in known)
        if attack.is_key(key_from(first, second, attack.prime)):
            return broken("the key, from two opened ciphertexts")
        return held("two opened ciphertexts give no key: BFV keeps its noise to itself, and the equations are wrong")


def ckks_control(target: SealedTarget, folder: Path) -> Got:
    """The same on CKKS, where it has to succeed: why CKKS is not offered, and that the attack is one."""
    found, what = _ckks(folder)
    return held(what) if found else broken(what)


def _ckks(folder: Path) -> tuple[bool, str]:
    """Whether the key was had, and it opens one site's upload."""
    attack, rng = Ckks(folder), np.random.default_rng(0)
    rounds = []
    for _ in range(2):
        updates = rng.standard_normal((_UPDATES, attack.degree // 2)) * 0.01
        uploads = [attack.encrypt(update) for update in updates]
        rounds.append(attack.equations(uploads[0] + uploads[1] + uploads[2]))
    key = np.array([key_from(a, b, q) for a, b, q in zip(rounds[0], rounds[1], attack.primes, strict=True)])
    error = float(np.abs(attack.open(uploads[1], key) - updates[1]).max())
    if not np.array_equal(key, attack.true_key()) or error > 1e-6:
        return False, f"the key was not found: with what was, a site's update is read wrong by {error:.2g}"
    return True, f"two opened sums give the whole key, and it reads one site's update to within {error:.0e}"
