"""Attacks that take two sums, or two uploads, and look at their difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsec.attacks.isolate import OTHERS, judge
from fedsec.attacks.lab import SITES, VICTIM, Lab, Target, make_world
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import Play, is_near
from fedsec_secure.numeric.lanes import Floats


def _difference(first: Play, second: Play) -> Floats | None:
    """The sum over all sites without the sum over the others."""
    whole, rest = first.open_sum(SITES), second.open_sum(OTHERS)
    return None if whole is None or rest is None else first.values(whole[0]) - second.values(rest[0])


def second_attempt(target: Target, folder: Path) -> Got:
    """After the sum is open the coordinator calls the attempt failed, and asks for another one without the victim."""
    with Lab(target, make_world(), folder) as lab:
        first, second = Play(lab), Play(lab, attempt=1)
        first.begin(SITES)
        if first.reveal(SITES) != len(SITES):
            return broken(f"an honest attempt was refused: {lab.why}")
        second.begin(OTHERS)
        second.reveal(OTHERS)
        return judge(lab, _difference(first, second), "as the difference of two attempts")


def replayed_attempt(target: Target, folder: Path) -> Got:
    """An attempt is given up before `confirm`; after the next one, without the victim, its messages come again."""
    with Lab(target, make_world(), folder) as lab:
        first, second = Play(lab), Play(lab, attempt=1)
        first.begin(SITES)
        second.begin(OTHERS)
        if second.reveal(OTHERS) != len(OTHERS):
            return broken(f"an honest attempt was refused: {lab.why}")
        first.reveal(SITES)
        return judge(lab, _difference(first, second), "as the difference of two attempts")


def next_round(target: Target, folder: Path) -> Got:
    """The next round has everyone but the victim; what the sites learn hardly changes from round to round."""
    with Lab(target, make_world(), folder) as lab:
        first = Play(lab)
        first.begin(SITES)
        second = first.next_round(SITES)
        if second is None:
            return broken(f"an honest round was refused: {lab.why}")
        second.share(SITES)
        second.mask(SITES)
        second.reveal(OTHERS)
        return judge(lab, _difference(first, second), "as the difference of two rounds", tolerance=10)


def crash_and_repeat(target: Target, folder: Path) -> Got:
    """Every site is restarted and asked the same again; training never gives the same twice."""
    world = make_world()
    drift = np.random.default_rng(7).uniform(-0.1, 0.1, world.start.size).astype(np.float32)
    drifting = replace(world, learn=lambda site, usual, adapter, times: usual + np.float32(times) * drift)
    with Lab(target, drifting, folder) as lab:
        first, second = Play(lab), Play(lab)
        first.begin(SITES)
        for site in lab.sites.values():
            site.restart()
        second.begin(SITES)
        if VICTIM not in second.uploads:
            return held(lab.why)
        if is_near(second.values(second.words(VICTIM) - first.words(VICTIM)), drift, 2 * world.step):
            return broken("two uploads under one mask: their difference is that of two updates")
        same = first.uploads == second.uploads
        return held("the same bytes again") if same else broken("other bytes for the same request")
