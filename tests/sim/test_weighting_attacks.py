"""The attack table of weights by scores: each row is held by this build, and succeeds on a weak aggregator."""

from __future__ import annotations

import pytest

from fedsec.attacks.build import ThisBuild
from fedsec.attacks.naive import Naive
from fedsec.attacks.weighting import ATTACKS

NAMES = [a.name for a in ATTACKS]
WHY = {
    "flattering score": "refuses `share`: the signature does not hold",
    "score of another run": "refuses `share`: the 'statement' packet from site-b belongs to another",
    "weight isolation by dropouts": "refuses `confirm`: U3: one site would weigh 0.56",
    "weight isolation by one score": "site-b is 40% of a sum",
    "other weights in the sum": "its tag does not fit",
    "lying about a score": "site-b is 40% of a sum",
    "two liars": "worth 3.00 equal sites",
    "score left out": "expected at offset 96",
    "score that nobody asked for": "1 bytes too many",
    "groups drawn until they suit": "groups are drawn once a run",
    "run ids drawn until they suit": "2 of 12 run ids were drawn: site-a refuses `commit`: the policy here has",
    "sham groups": "is signed for another plan, run, round, roster or adapter",
    "sum that no group verified": "another one than its members verified",
    "lying about a group's loss": "site-b is 17% of a round",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_this_build_holds_by_the_intended_check(attack, tmp_path):
    got = attack.run(ThisBuild(), tmp_path)
    assert got.held, got.what
    assert WHY[attack.name] in got.what


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_the_same_attack_succeeds_where_nothing_is_checked(attack, tmp_path):
    got = attack.run(Naive(), tmp_path)
    assert not got.held, got.what


def test_every_row_is_named_once_and_says_where_it_comes_from():
    assert set(NAMES) == set(WHY)
    assert all(a.expected and a.source and a.attacker for a in ATTACKS)
