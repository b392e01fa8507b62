"""The attacks on approvals, budgets and records: held by this build, and each succeeds where nobody is asked."""

from __future__ import annotations

import pytest

from fedsec.attacks.governance import ATTACKS
from fedsec.attacks.lab import VICTIM, make_world
from fedsec.attacks.office import RUN, Governed, train_request

BY_NAME = {a.name: a for a in ATTACKS}
WHY = {
    "forged approval": "approval check 1",
    "approval of another plan": "approval check 5",
    "approval that has ended": "approval check 7",
    "withdrawn approval put back": "an officer withdrew this approval",
    "rolled-back policy": "approval check 6",
    "downgraded mode": "policy check 3",
    "privacy demanded, none planned": "policy check 12",
    "swapped roster": "approval check 5",
    "swapped officer": "approval check 1",
    "one officer of two": "the signatures of 2 officers",
    "stolen key": "a key of the plan was revoked",
    "ledger set back": "the file was truncated, rolled back or replaced",
    "record set back": "the record was rolled back, truncated or replaced",
    "release after the attestation": "it releases nothing more of it",
    "log fork": "fork check 4",
    "shortened log": "witness check 2",
}


@pytest.mark.parametrize("name", BY_NAME)
def test_this_build_holds_by_the_check_that_is_meant(name, tmp_path):
    got = BY_NAME[name].run(Governed(), tmp_path)
    assert got.held, got.what
    assert WHY[name] in got.what


@pytest.mark.parametrize("name", BY_NAME)
def test_the_same_attack_succeeds_where_nobody_is_asked(name, tmp_path):
    got = BY_NAME[name].run(Governed(careless=True), tmp_path)
    assert not got.held, got.what


def test_a_site_whose_officer_agrees_does_answer(tmp_path):
    """The control: what the attacks are refused, the honest coordinator gets."""
    world = make_world()
    with Governed().offices(world, tmp_path, [VICTIM]) as of:
        of[VICTIM].start(world.plan)
        assert of[VICTIM].handle("train", train_request(world, world.plan, RUN))


def test_every_row_says_where_it_comes_from():
    assert len(BY_NAME) == len(ATTACKS) == len(WHY)
    assert all(a.expected and a.source and a.attacker for a in ATTACKS)
