"""Attacks on the encryption key: a coordinator that would like to have it, and one that has a site's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsec.attacks.isolate import OTHERS
from fedsec.attacks.lab import SITES, VICTIM, Lab, make_world, roster_of
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import RUN, is_near
from fedsec.attacks.sealed import KeyHolder, SealedPlay, SealedTarget, opened
from fedsec_secure.codec import seal
from fedsec_secure.identity.agreement import x25519_public
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.ceremony import ceremony_context
from fedsec_secure.masking.messages import ShareKind
from fedsec_secure.numeric.lanes import Floats
from fedsec_secure.secrets import SecretBytes

COLLUDER = SITES[2]


def key_of(lab: Lab, site: SiteId = COLLUDER) -> SecretBytes:
    """What a site that works for the coordinator hands over."""
    holder = lab.sites[site]
    assert isinstance(holder, KeyHolder)
    return holder.hand_over(RUN)


def key_on_its_way(target: SealedTarget, folder: Path) -> Got:
    """The coordinator puts a key of its own into a site's offer, and then reads everything that it carries."""
    world = make_world(rounds=1, mode=target.mode("he-mask"))
    with Lab(target, world, folder) as lab:
        play = SealedPlay(lab)
        offers = play.offers()
        context = ceremony_context(world.plan.digest(), RUN, roster_of(world))
        own = seal("key-offer", VICTIM, context, x25519_public(SecretBytes.random()), world.coordinator.sign)
        if play.deal_key(offers | {VICTIM: own}) is not None:
            return broken(f"the key was dealt to the coordinator, in the place of {VICTIM}")
        dealt = play.deal_key(offers)
        if dealt is None:
            return broken(f"an honest ceremony was refused: {lab.why}")
        taken = play.take_key(offers, dealt)
        key, seen = key_of(lab).reveal(), b"".join([*offers.values(), dealt, *taken.values()])
        if len(taken) != len(SITES) or key in seen or key.hex().encode() in seen:
            return broken(f"the key was among the {len(seen):,} bytes that the coordinator carried")
        return held(f"no key among {len(seen):,} bytes of an honest ceremony, none for a forged offer: {lab.why}")


def one_key_under_masks(target: SealedTarget, folder: Path) -> Got:
    """With one site's key the coordinator decrypts another's upload; then it calls that site dropped, recovers its mask
    key from the others, and takes its pair masks away.
    """
    with target.uploaded("he-mask", folder) as play:
        key, truth = key_of(play.lab), play.lab.world.updates[VICTIM]
        play.open(key, [VICTIM])
        found = [play.values(play.words(VICTIM))]
        play.close(OTHERS)
        total = play.total(OTHERS, [1] * len(OTHERS), OTHERS)
        among = play.values(opened(key, total.frames, play.lab.world.parameters.words)) / np.float32(len(OTHERS))
        if not is_near(among, play.lab.world.mean(OTHERS), 2 * play.lab.world.step):
            return broken("the key does not even open the sum of the others: nothing was tried")
        secret = play.secret(VICTIM, ShareKind.MASK_KEY)
        if play.masked and secret is None:
            return broken(f"the mask key of a site that dropped out was not recovered: {play.lab.why}")
        if secret is not None:
            found.append(play.values(play.without_pairs(VICTIM, secret)))
        return _compared(play, found, truth)


def _compared(play: SealedPlay, found: list[Floats], truth: Floats) -> Got:
    near = max(int((np.abs(values - truth) <= 2 * play.lab.world.step).sum()) for values in found)
    if near > len(truth) // 20:
        return broken(f"read {near} of the {len(truth)} numbers of {VICTIM}'s update with {COLLUDER}'s key")
    return held(
        f"{COLLUDER}'s key opens the sum, and {near} of {VICTIM}'s {len(truth)} numbers: its self-mask is left on them"
    )


def one_key_alone(target: SealedTarget, folder: Path) -> Got:
    """With one site's key the coordinator decrypts another's upload, which has nothing under the encryption. Held where
    that is what an officer was told.
    """
    with target.uploaded("he", folder) as play:
        play.open(key_of(play.lab), [VICTIM])
        found, world = play.values(play.words(VICTIM)), play.lab.world
        if not is_near(found, world.updates[VICTIM], 2 * world.step):
            return broken("the key did not open the upload, and the warning says that it does")
        read = f"{COLLUDER}'s key opens all of {VICTIM}'s update"
        warning = target.warning(world.plan)
        if not warning:
            return broken(f"{read}, and no officer was told")
        return held(f"{read}, as every officer is told before signing: use he-mask. {warning}")
