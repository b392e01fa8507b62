"""Attacks that open one site's update by choosing who masks what, and for whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsec.attacks.lab import SITES, VICTIM, Lab, Target, make_world
from fedsec.attacks.naive import SEED_BITS
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import Play, add_up, is_near, statement_of
from fedsec_secure.codec import seal
from fedsec_secure.identity import agreement
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR, Roster
from fedsec_secure.masking import keys
from fedsec_secure.masking.messages import ShareKind, encode_packets, set_digest
from fedsec_secure.masking.parameters import Group
from fedsec_secure.masking.site_shared import SiteShared
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.numeric.keystream import Keystream
from fedsec_secure.numeric.lanes import Floats, Words, unpack
from fedsec_secure.secrets import SecretBytes

OTHERS = tuple(s for s in SITES if s != VICTIM)
_PROBE = 8
"""Words that tell a right mask from a wrong one: 24 lanes, of which a wrong one leaves each in range with 1 in 5."""


def judge(lab: Lab, found: Floats | None, how: str, tolerance: float = 2) -> Got:
    """Whether ``found`` is the victim's update, within ``tolerance`` steps of the encoding."""
    if is_near(found, lab.world.updates[VICTIM], tolerance * lab.world.step):
        return broken(f"read every coordinate of {VICTIM}'s update, {how}")
    return held(lab.why)


def without_seed(play: Play, words: Words, seed: SecretBytes | None) -> Floats | None:
    """The victim's coordinates behind its self mask."""
    if seed is None:
        return None
    return play.values(add_up([words], [], [play.lab.target.self_mask(seed, VICTIM, play.bound(VICTIM))]))


def key_substitution(target: Target, folder: Path) -> Got:
    """The coordinator stands in for all of the victim's peers, with keys of its own."""
    with Lab(target, make_world(), folder) as lab:
        play, fakes = Play(lab), {s: SigningKey.generate() for s in OTHERS}
        stated = {s: SiteStated.begin(s, play.context(), bytes(32), k.sign) for s, k in fakes.items()}
        play.train([VICTIM])
        play.statements |= {s: state.statement for s, state in stated.items()}
        boxes = play.share([VICTIM])
        public = {s: k.public for s, k in fakes.items()} | {VICTIM: lab.world.keys[VICTIM].public}
        group = Group(Roster(lab.world.coordinator.public, public), 3, lab.world.plan.secure.threshold)
        sign, packets = lab.world.coordinator.sign, encode_packets(play.statements)
        for site in OTHERS:
            request = seal("share-request", COORDINATOR, play.context(), packets, sign)
            play.deal(site, SiteShared.enter(stated[site], request, group, fakes[site].sign)[1], play.statements)
        play.mask([VICTIM])
        if not boxes or VICTIM not in play.uploads:
            return held(lab.why)
        context = target.box_context(play.context(), set_digest("U1", play.statements))
        channel = statement_of(play.statements[VICTIM]).channel_key
        for site in OTHERS:
            shared = agreement.agree(stated[site].channel_secret, channel, VICTIM)
            dealt = keys.open_dealt(shared, play.sealed[VICTIM][site], VICTIM, site, context)
            play.shares.setdefault((VICTIM, ShareKind.SELF_SEED), {})[site] = dealt.self_share
        words = play.without_pairs(VICTIM, {s: state.mask_secret for s, state in stated.items()})
        found = without_seed(play, words, play.secret(VICTIM, ShareKind.SELF_SEED))
        return judge(lab, found, "masked for peers that were none")


def replayed_statement(target: Target, folder: Path) -> Got:
    """A site's signed statement of an earlier round stands for it, after the sum of that round opened its mask key."""
    old_site = SITES[-1]
    rest = SITES[:-1]
    with Lab(target, make_world(), folder) as lab:
        before = Play(lab)
        before.begin(SITES)
        after = before.next_round(rest)
        if after is None:
            return broken(f"an honest round was refused: {lab.why}")
        after.statements[old_site] = before.statements[old_site]
        after.share(rest)
        after.dealings[old_site], after.sealed[old_site] = before.dealings[old_site], before.sealed[old_site]
        masked = after.mask(rest)
        if masked and before.secret(old_site, ShareKind.MASK_KEY) is not None:
            return broken(f"{len(masked)} sites masked against a key that the coordinator has")
        return held(lab.why)


def split_survivors(target: Target, folder: Path) -> Got:
    """Some are told that the victim survived, others that it dropped: both of its secrets together open its upload."""
    with Lab(target, make_world(), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        whole, without = play.heads(SITES), play.heads(OTHERS)
        for first, second in ((whole, without), (without, whole)):
            signed = play.confirm(SITES[:2], first) | play.confirm(SITES[2:], second)
            play.unmask(SITES, signed)
        return judge(lab, _both_kinds(play), "with both kinds of shares of its secrets")


def _both_kinds(play: Play) -> Floats | None:
    key = play.secret(VICTIM, ShareKind.MASK_KEY)
    seed = play.secret(VICTIM, ShareKind.SELF_SEED)
    return None if key is None else without_seed(play, play.without_pairs(VICTIM, key), seed)


def second_survivor_set(target: Target, folder: Path) -> Got:
    """After the reveal the coordinator says that the victim dropped after all."""
    with Lab(target, make_world(), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        first = play.reveal(SITES)
        second = play.reveal(OTHERS)
        if first != len(SITES):
            return broken(f"only {first} sites answered an honest request")
        found = _both_kinds(play)
        return judge(lab, found, "with both kinds of shares") if found is not None or not second else broken("a reveal")


def small_cohort(target: Target, folder: Path) -> Got:
    """A survivor set so small that its sum says enough: the victim alone, or one site fewer than the floor."""
    with Lab(target, make_world(), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        revealed: list[int] = []
        for members in ((VICTIM, *OTHERS[:2]), (VICTIM,)):
            if play.reveal(members, to=SITES):
                revealed.append(len(members))
        opened = play.open_sum([VICTIM])
        got = judge(lab, play.values(opened[0]) if opened else None, "as the only survivor of its round")
        return broken(f"shares for sums over {revealed} sites") if got.held and revealed else got


def floor_below_the_officers(target: Target, folder: Path) -> Got:
    """The plan's floor is four sites, the officers' is five: the coordinator shows four survivors."""
    with Lab(target, replace(make_world(), policy_cohort=5), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        if play.reveal(SITES[:4]):
            return broken("a sum over 4 sites where the officers want 5")
        return held(lab.why)


def trap_adapter(target: Target, folder: Path) -> Got:
    """Everyone but the victim gets an adapter on which gradients vanish: the sum is the victim's update."""
    world = make_world()
    dead = world.start.unflatten(np.full(world.start.size, 9, np.float32))
    trapped = replace(world, learn=lambda site, usual, adapter, _: usual * np.float32(adapter.flatten()[0] != 9))
    with Lab(target, trapped, folder) as lab:
        play = Play(lab, shown=dict.fromkeys(OTHERS, dead))
        play.begin(SITES)
        play.reveal(SITES)
        opened = play.open_sum(SITES)
        return judge(lab, play.values(opened[0]) if opened else None, "as the sum of one live and four dead updates", 6)


def searched_seed(target: Target, folder: Path) -> Got:
    """The victim counts as dropped, so its mask key is revealed; its self mask is searched for among small seeds."""
    with Lab(target, make_world(), folder) as lab:
        play = Play(lab)
        play.begin(SITES)
        play.reveal(OTHERS)
        key = play.secret(VICTIM, ShareKind.MASK_KEY)
        if key is None:
            return broken(f"no honest sum over the other four: {lab.why}")
        words, bound = play.without_pairs(VICTIM, key), play.bound(VICTIM)
        found = None
        for number in range(1 << SEED_BITS):
            seed = SecretBytes(number.to_bytes(32, "big"))
            if _fits(lab, words, target.self_mask(seed, VICTIM, bound)):
                found = without_seed(play, words, seed)
        if found is None:
            lab.said.insert(0, f"none of 2^{SEED_BITS} seeds unmasks it: a self mask comes from 256 bits")
        return judge(lab, found, f"after a search through 2^{SEED_BITS} seeds")


def _fits(lab: Lab, words: Words, mask: keys.Mask) -> bool:
    """Whether what is under ``mask`` looks like an update."""
    fixed = lab.world.parameters.fixed
    stream: Words = np.empty(_PROBE, dtype="<u8")
    Keystream(mask.vector).read_into(stream)
    return all(abs(lane).max() <= fixed.largest for lane in unpack(fixed.lanes, words[:_PROBE] - stream))
