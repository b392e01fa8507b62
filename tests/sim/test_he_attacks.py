"""The attack table of encrypted sums: each row is held by this build or happens as stated, and succeeds on a weak
aggregator.
"""

from __future__ import annotations

import pytest

from fedsec.attacks.he import ATTACKS
from fedsec.attacks.isolate import OTHERS, without_seed
from fedsec.attacks.lab import SITES, VICTIM
from fedsec.attacks.one_key import key_of
from fedsec.attacks.play import is_near
from fedsec.attacks.sealed_build import SealedBuild
from fedsec.attacks.sealed_naive import SealedNaive
from fedsec_secure.masking.messages import ShareKind

NAMES = [a.name for a in ATTACKS]
ONE_MESSAGE = "sites refuse, all in the same words, and destroy the key"
WHY = {
    "key on its way": "site-a refuses `key-deal`: the signature does not hold",
    "one upload as the sum (he-mask)": ONE_MESSAGE,
    "one upload as the sum (he)": ONE_MESSAGE,
    "another sum (he-mask)": ONE_MESSAGE,
    "another sum (he)": ONE_MESSAGE,
    "other weights (he)": ONE_MESSAGE,
    "replayed sum (he-mask)": ONE_MESSAGE,
    "replayed sum (he)": ONE_MESSAGE,
    "changed bytes (he-mask)": ONE_MESSAGE,
    "changed bytes (he)": ONE_MESSAGE,
    "one site's key (he-mask)": "0 of site-b's 240 numbers",
    "one site's key (he)": "With he-mask it would need many sites",
    "too many sites (he-mask)": "exact up to weights of 362 in all, found 363",
    "too many sites (he)": "256 units of weight are too few for 129 sites",
    "oversized weights (he)": "weights of 480 in all, where 362 are proved",
    "hostile bytes": "the worker goes on",
    "key from opened sums": "two opened ciphertexts give no key",
    "the same on CKKS (control)": "two opened sums give the whole key",
}


@pytest.fixture(scope="module")
def build():
    with SealedBuild() as made:
        yield made


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_this_build_holds_by_the_intended_check(attack, build, tmp_path):
    got = attack.run(build, tmp_path)
    assert got.held, got.what
    assert WHY[attack.name] in got.what


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.kind != "control"], ids=lambda a: a.name)
def test_the_same_attack_succeeds_where_nothing_is_checked(attack, tmp_path):
    got = attack.run(SealedNaive(), tmp_path)
    assert not got.held, got.what


def test_a_key_with_both_secrets_of_a_site_opens_its_upload(build, tmp_path):
    """What the row of one site's key lacks is one secret, and nothing else: in two copies of one round, of which sites
    see one only, the victim's mask key is recovered here and its self-mask there.
    """
    with build.uploaded("he-mask", tmp_path / "first") as play:
        play.close(OTHERS)
        mask_key = play.secret(VICTIM, ShareKind.MASK_KEY)
    with build.uploaded("he-mask", tmp_path / "second") as play:
        play.close(SITES)
        play.open(key_of(play.lab), [VICTIM])
        found = without_seed(play, play.without_pairs(VICTIM, mask_key), play.secret(VICTIM, ShareKind.SELF_SEED))
        assert is_near(found, play.lab.world.updates[VICTIM], 2 * play.lab.world.step)


class Silent(SealedBuild):
    """Says nothing of what one site's key opens."""

    def warning(self, plan):
        return ""


def test_what_is_stated_fails_where_no_officer_is_told(tmp_path):
    (attack,) = (a for a in ATTACKS if a.kind == "stated")
    with Silent() as silent:
        got = attack.run(silent, tmp_path)
    assert not got.held
    assert "no officer was told" in got.what


def test_every_row_is_named_once_and_says_where_it_comes_from():
    assert list(WHY) == NAMES
    assert all(a.expected and a.source and a.attacker for a in ATTACKS)
    assert {a.kind for a in ATTACKS} == {"defence", "stated", "control"}
