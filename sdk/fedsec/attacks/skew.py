"""Attacks on weights by published scores: who gets more of a sum than the plan lets anyone have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsec.attacks.falsify import Hostile
from fedsec.attacks.isolate import OTHERS
from fedsec.attacks.lab import CAP, SITES, VICTIM, Finished, Lab, Target, World, make_world
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import Play, body_of, header_of
from fedsec_secure.codec import seal
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.lanes import Floats, pack_into, unpack

_PERFECT, _FAIR = 0, 40
_NOISE = 0.02
"""Of a share that is read off a sum by least squares: rounding is far below."""


def shares_in(world: World, values: Floats) -> dict[SiteId, float]:
    """Each site's share of a sum that is open, float32[d], by least squares over the updates that the judge knows."""
    updates = np.stack(list(world.updates.values()), axis=1).astype(np.float64)
    found, *_ = np.linalg.lstsq(updates, values.astype(np.float64))
    total = found.sum()
    return dict(zip(world.updates, (found / total).tolist(), strict=True))


def share_of(world: World, values: Floats, site: SiteId) -> float:
    """One site's."""
    return shares_in(world, values)[site]


def _judge(lab: Lab, values: Floats | None, site: SiteId = VICTIM) -> Got:
    """Held where nothing opened, or no more of ``site`` is in it than the cap."""
    if values is None:
        return held(lab.why)
    share = shares_in(lab.world, values)[site]
    text = f"{site} is {max(share, 0.0):.0%} of a sum, the cap is {CAP:.0%}"
    return broken(text) if share > CAP + _NOISE else held(text)


def _opened(play: Play, survivors: Iterable[SiteId]) -> Floats | None:
    survivors = list(survivors)
    play.reveal(survivors)
    opened = play.open_sum(survivors)
    return None if opened is None else play.values(opened[0])


def _with_score(world: World, packet: bytes, score: bytes) -> bytes:
    """A statement with another score, under a key that is not its owner's: the coordinator has no other."""
    body = body_of(packet)[:96] + score
    return seal("statement", VICTIM, header_of(packet).context, body, world.coordinator.sign)


def flattering_score(target: Target, folder: Path) -> Got:
    """The coordinator shows the others a perfect score of the victim's, so that the sum is mostly its update."""
    with Lab(target, make_world(rule="influence", levels=dict.fromkeys(SITES, _FAIR)), folder) as lab:
        play = Play(lab)
        play.train(SITES)
        flattered = _with_score(lab.world, play.statements[VICTIM], bytes([_PERFECT]))
        play.statements[VICTIM] = flattered
        play.share(SITES)
        play.mask(SITES)
        return _judge(lab, _opened(play, SITES))


def score_of_another_run(target: Target, folder: Path) -> Got:
    """The victim's signed statement of an earlier run, with a perfect score, stands for it in this one."""

    def level(site: SiteId, times: int) -> int:
        return _PERFECT if site == VICTIM and times == 0 else _FAIR

    with Lab(target, replace(make_world(rule="influence"), level=level), folder) as lab:
        before = Play(lab)
        before.train(SITES)
        play = Play(lab, run="attack-2")
        play.train(SITES)
        play.statements[VICTIM] = before.statements[VICTIM]
        play.share(SITES)
        play.mask(SITES)
        return _judge(lab, _opened(play, SITES))


def isolation_by_dropouts(target: Target, folder: Path) -> Got:
    """With all five no site is above the cap. Then the second best is said to have dropped out."""
    levels = dict.fromkeys(SITES, _FAIR) | {VICTIM: _PERFECT, OTHERS[0]: _FAIR // 2}
    with Lab(target, make_world(rule="influence", levels=levels), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        return _judge(lab, _opened(play, [s for s in SITES if s != OTHERS[0]]))


def isolation_by_one_score(target: Target, folder: Path) -> Got:
    """One good site among bad ones, and nobody drops out."""
    with Lab(target, make_world(rule="influence", levels={VICTIM: _PERFECT}), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        return _judge(lab, _opened(play, SITES))


def other_weights(target: Target, folder: Path) -> Got:
    """The coordinator hands out a sum as if the sites had weighed less together than they did."""
    with Lab(target, make_world(rule="influence", levels=dict.fromkeys(SITES, _FAIR)), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        play.reveal(SITES)
        opened = play.open_sum(SITES)
        if opened is None:
            return broken(f"an honest sum did not open: {lab.why}")
        words, tag = opened
        lanes, doubled = lab.world.parameters.fixed.lanes, np.empty_like(words)
        pack_into(lanes, [(plane * 3 // 2).astype(np.int32) for plane in unpack(lanes, words)], doubled)
        signed = play.verdict(SITES, play.heads(SITES), doubled, tag)
        if signed:
            return broken(f"{len(signed)} sites signed a mean half as large again")
        refused = lab.why
        signed = play.verdict(SITES, play.heads(SITES), *opened)
        return held(refused) if len(signed) == len(SITES) else broken("the true sum is refused as well")


def _round(
    target: Target, folder: Path, world: World, change: Callable[[World, bytes], bytes] | None = None
) -> tuple[Lab, Finished | None]:
    """An honest coordinator's round, in which the victim's statement goes out as ``change`` says."""
    with Lab(target, world, folder) as lab:
        sites = dict(lab.sites)
        if change is not None:
            sites[VICTIM] = Hostile(lab.sites[VICTIM], "train", lambda reply: change(world, reply), folder)
        return lab, lab.honest_round(sites)


def lying_site(target: Target, folder: Path) -> Got:
    """A site claims a perfect score among sites whose models are bad. Honest, it would weigh a fifth."""
    lab, done = _round(target, folder, make_world(rounds=1, rule="influence", levels={VICTIM: _PERFECT}))
    if done is None:
        return broken(f"a lie keeps the others from their sum: {lab.why}")
    return _judge(lab, done.mean)


def two_liars(target: Target, folder: Path) -> Got:
    """Two sites in league claim perfect scores: the rest is hardly in the sum."""
    liars = {VICTIM: _PERFECT, OTHERS[0]: _PERFECT}
    lab, done = _round(target, folder, make_world(rounds=1, rule="influence", levels=liars))
    if done is None:
        return held(lab.why)
    shares = shares_in(lab.world, done.mean)
    together = shares[VICTIM] + shares[OTHERS[0]]
    return broken(f"two of five sites are {together:.0%} of a sum")


def _signed(world: World, reply: bytes, body: bytes) -> bytes:
    return seal("statement", VICTIM, header_of(reply).context, body, world.keys[VICTIM].sign)


def score_left_out(target: Target, folder: Path) -> Got:
    """A site with a bad score leaves it out, and hopes that what is missing counts as good."""
    lab, done = _round(
        target,
        folder,
        make_world(rounds=1, rule="influence"),
        lambda world, reply: _signed(world, reply, body_of(reply)[:96]),
    )
    if done is None:
        return broken(f"a missing score keeps the others from their sum: {lab.why}")
    got = _judge(lab, done.mean)
    return replace(got, what=f"{got.what}; {done.named[VICTIM]}") if VICTIM in done.named else got


def unasked_score(target: Target, folder: Path) -> Got:
    """A site adds a byte about its notes to its statement, in a plan that weighs all sites alike."""
    lab, done = _round(
        target, folder, make_world(rounds=1), lambda world, reply: _signed(world, reply, body_of(reply) + bytes([7]))
    )
    if done is None:
        return broken(f"it keeps the others from their sum: {lab.why}")
    if VICTIM in done.survivors:
        return broken("a byte that the plan does not ask for went through")
    return held(done.named.get(VICTIM, "left out"))
