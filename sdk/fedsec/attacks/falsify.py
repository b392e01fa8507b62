"""Attacks on the sum itself: a coordinator that hands out another one, and sites that spoil it for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedsec.attacks.isolate import OTHERS
from fedsec.attacks.lab import SITES, VICTIM, Finished, Lab, Site, Target, World, make_world
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import Play, body_of, header_of, is_near
from fedsec_secure.codec import seal
from fedsec_secure.errors import TransportError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.messages import Revealed
from fedsec_secure.numeric.lanes import Floats, Words, pack_into, unpack

Forgery = Callable[[World, Words, int], tuple[Words, int]]


def _scaled(world: World, words: Words, factor: int) -> Words:
    lanes = world.parameters.fixed.lanes
    out = np.empty_like(words)
    pack_into(lanes, [(plane * factor).astype(np.int32) for plane in unpack(lanes, words)], out)
    return out


def _nudged(words: Words) -> Words:
    out = words.copy()
    out[3] += np.uint64(1)
    return out


_FORGERIES: dict[str, Forgery] = {
    "one coordinate by one step": lambda world, words, tag: (_nudged(words), tag),
    "the sum turned round, its tag as well": lambda world, words, tag: (_scaled(world, words, -1), -tag),
    "nothing": lambda world, words, tag: (np.zeros_like(words), 0),
}


def forged_sum(target: Target, folder: Path) -> Got:
    """The coordinator hands out another sum than it has: altered, turned round with its tag, or empty."""
    with Lab(target, make_world(), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        play.reveal(SITES)
        opened, u3 = play.open_sum(SITES), play.heads(SITES)
        if opened is None:
            return broken(f"an honest sum did not open: {lab.why}")
        for name, forge in _FORGERIES.items():
            signed = play.verdict(SITES, u3, *forge(lab.world, *opened))
            if signed:
                return broken(f"{len(signed)} sites signed: {name}")
        refused = lab.why
        signed = play.verdict(SITES, u3, *opened)
        return held(refused) if len(signed) == len(SITES) else broken("the true sum is refused as well")


def split_statements(target: Target, folder: Path) -> Got:
    """Two sites are kept from seeing each other, and the round goes on as if all had seen the same."""
    last = SITES[-1]
    with Lab(target, make_world(), folder) as lab:
        play = Play(lab)
        play.train(SITES)
        hidden = {VICTIM: last, last: VICTIM}
        for site, other in hidden.items():
            play.views[site] = ({s: p for s, p in play.statements.items() if s != other}, {})
        play.share(SITES)
        for site, other in hidden.items():
            play.views[site] = (play.views[site][0], {s: p for s, p in play.dealings.items() if s != other})
        play.mask(SITES)
        play.reveal(SITES)
        opened = play.open_sum(SITES)
        if opened and is_near(
            play.values(opened[0]) / np.float32(len(SITES)), lab.world.mean(SITES), 2 * lab.world.step
        ):
            return broken("a sum of five, two of whom never heard of each other")
        return held(lab.why)


@dataclass
class Hostile:
    """A site that answers one exchange as ``change`` says: (request's reply) -> what goes out."""

    inner: Site
    exchange: str
    change: Callable[[bytes], bytes]
    folder: Path

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """As the site within, but for one exchange."""
        reply = self.inner.handle(name, body)
        if name != self.exchange:
            return reply
        if isinstance(reply, bytes):
            return self.change(reply)
        path = self.folder / "changed"
        path.write_bytes(self.change(reply.read_bytes()))
        return path

    def restart(self) -> None:
        """Not needed by any attack."""
        self.inner.restart()

    def close(self) -> None:
        """The lab closes the site within."""


def _spoiled(
    target: Target,
    folder: Path,
    world: World,
    exchange: str = "",
    change: Callable[[World, bytes], bytes] | None = None,
) -> tuple[Lab, Finished | None]:
    """A round under an honest coordinator in which one site answers ``exchange`` in its own way."""
    with Lab(target, world, folder) as lab:
        sites = dict(lab.sites)
        if change is not None:
            sites[VICTIM] = Hostile(lab.sites[VICTIM], exchange, lambda reply: change(world, reply), folder)
        return lab, lab.honest_round(sites)


def _verdict_on(lab: Lab, done: Finished | None, truth: Floats | None = None) -> Got:
    """Held where no wrong sum was accepted."""
    if done is None:
        return held(lab.why)
    world = lab.world
    expected = world.mean(done.survivors) if truth is None else truth
    if not is_near(done.mean, expected, 2 * world.step):
        return broken(f"a wrong mean over {len(done.survivors)} sites was taken for theirs, without a word")
    why = done.named.get(VICTIM)
    who = f"the mean over {len(done.survivors)} sites is right"
    return held(f"{who}; {VICTIM}: {why}" if why else who)


def not_a_number(target: Target, folder: Path) -> Got:
    """One site's training diverged: a single NaN in its update."""

    def learn(site: SiteId, usual: Floats, adapter: object, times: int) -> Floats:
        out = usual.copy()
        out[5] = np.nan if site == VICTIM else out[5]
        return out

    lab, done = _spoiled(target, folder, replace(make_world(rounds=1), learn=learn))
    got = _verdict_on(lab, done)
    alone = done is not None and set(done.survivors) == set(OTHERS)
    return got if not got.held or alone else broken("a round of the four others did not come about")


def overflow(target: Target, folder: Path) -> Got:
    """One site's update is a million times too large at one place: it must not reach its neighbours' lanes."""

    def learn(site: SiteId, usual: Floats, adapter: object, times: int) -> Floats:
        out = usual.copy()
        out[5] = 1e6 if site == VICTIM else out[5]
        return out

    world = replace(make_world(rounds=1), learn=learn)
    lab, done = _spoiled(target, folder, world)
    clip = world.plan.secure.clip
    clipped = {s: np.clip(learn(s, u, None, 0), -clip, clip) for s, u in world.updates.items()}
    return _verdict_on(lab, done, np.mean(list(clipped.values()), axis=0, dtype=np.float32))


def bad_share(target: Target, folder: Path) -> Got:
    """One site reveals a share that it was not dealt."""

    def change(world: World, reply: bytes) -> bytes:
        shares = dict(Revealed.decode(body_of(reply)).shares)
        kind, share = shares[OTHERS[0]]
        shares[OTHERS[0]] = (kind, bytes([*share[:-1], share[-1] ^ 1]))
        return seal("unmask", VICTIM, header_of(reply).context, Revealed(shares).encode(), world.keys[VICTIM].sign)

    lab, done = _spoiled(target, folder, make_world(rounds=1), "unmask", change)
    got = _verdict_on(lab, done)
    return got if not got.held or (done and VICTIM in done.named) else broken("the sender was not named")


def rubbish_upload(target: Target, folder: Path) -> Got:
    """One site uploads random words, which is what masks that do not cancel look like."""

    def change(world: World, reply: bytes) -> bytes:
        body = np.random.default_rng(3).bytes(len(body_of(reply)) - 8) + bytes(8)
        return seal("masked", VICTIM, header_of(reply).context, body, world.keys[VICTIM].sign)

    return _verdict_on(*_spoiled(target, folder, make_world(rounds=1), "mask", change))


def drop_before_share(target: Target, folder: Path) -> Got:
    """One site makes its statement and is gone."""

    def change(world: World, reply: bytes) -> bytes:
        raise TransportError("connection refused")

    try:
        lab, done = _spoiled(target, folder, make_world(rounds=1), "share", change)
    except KeyError as e:
        return broken(f"KeyError: {e}")
    return _verdict_on(lab, done) if done else broken(f"no round of the others: {lab.why}")


def rounding_bias(target: Target, folder: Path) -> Got:
    """Every coordinate lies a quarter of a step above a grid point: rounding must not move the mean."""
    world = make_world(rounds=1, hidden=2000)
    value = np.float32((math.floor(0.1 / world.step) + 0.25) * world.step)
    same = replace(world, learn=lambda site, usual, adapter, times: np.full_like(usual, value))
    _, done = _spoiled(target, folder, same)
    if done is None:
        return broken("no honest round")
    drawn = done.mean.size * len(done.survivors)
    error = float(done.mean.mean(dtype=np.float64) - value) / world.step
    limit = 5 * math.sqrt(0.25 * 0.75 / drawn)
    text = f"the mean of {drawn:,} roundings is off by {error:+.4f} steps; five standard errors are {limit:.4f}"
    return held(text) if abs(error) <= limit else broken(text)
