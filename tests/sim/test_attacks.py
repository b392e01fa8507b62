"""The attack table, row by row: held by this build, and every row succeeds on a weak aggregator."""

from __future__ import annotations

import pytest

from fedsec.attacks.build import ThisBuild
from fedsec.attacks.masking import ATTACKS
from fedsec.attacks.naive import Naive

NAMES = [a.name for a in ATTACKS]


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_this_build_holds(attack, tmp_path):
    got = attack.run(ThisBuild(), tmp_path)
    assert got.held, got.what
    assert got.what != "no answer was refused", "the attack was not even tried"


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_the_same_attack_succeeds_where_nothing_is_checked(attack, tmp_path):
    got = attack.run(Naive(), tmp_path)
    assert not got.held, got.what


WHY = {
    "key substitution": "refuses `share`: the signature does not hold",
    "replayed statement": "refuses `share`: the 'statement' packet from site-e belongs to another",
    "split statements": "was shown another set of statements",
    "split survivor sets": "confirmed another survivor set",
    "second survivor set": "refuses `confirm`: confirm of round 0, attempt 0: this site is revealed",
    "small cohort": "U3 has 3 sites; this site takes part from 4 on",
    "floor below the officers'": "U3 has 4 sites; this site takes part from 5 on",
    "trap adapter": "does not start from the adapter that the plan fixes",
    "second attempt after the sum": "joins no other attempt from there",
    "replayed attempt": "has moved on from attempt 0",
    "next round without one site": "differs by 1 from a set that this site confirmed before",
    "crash and repeat": "the same bytes again",
    "forged sum": "its tag does not fit",
    "lopsided weights": "above cap 0.5",
    "not a number": "site-b: CodecError",
    "bad share": "site-b revealed a share of site-a's that site-a did not deal",
    "rubbish upload": "outside what the survivors' encodings can add up to",
    "drop before share": "the mean over 4 sites is right",
}


@pytest.mark.parametrize("name", WHY)
def test_it_is_the_intended_check_that_holds(name, tmp_path):
    """Not another one that happens to stand before it."""
    (attack,) = (a for a in ATTACKS if a.name == name)
    assert WHY[name] in attack.run(ThisBuild(), tmp_path).what


def test_every_row_is_named_once_and_says_where_it_comes_from():
    assert len(set(NAMES)) == len(NAMES)
    assert all(a.expected and a.source and a.attacker for a in ATTACKS)
