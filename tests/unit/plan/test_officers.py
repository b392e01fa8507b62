"""Several officers: how many must sign, who may, and that nobody counts twice."""

import json

import pytest
import rfc8785

from fedsec.plan.approval import add_officer, approve, read_approval, verify_approval, verify_to_sign
from fedsec.plan.document import compile_plan
from fedsec.plan.model import Roster
from fedsec.plan.policy import draft_policy
from fedsec.plan.withdrawal import Notices
from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError, VerificationError
from fedsec_secure.identity.envelope import add_signature
from fedsec_secure.identity.keys import SigningKey

from .conftest import END, NOW

NOTHING = Notices()
SECOND, THIRD = SigningKey.generate(), SigningKey.generate()


@pytest.fixture(scope="module")
def plan(world):
    """At ash two more officers may sign."""
    more = tuple(key.public.hex for key in (SECOND, THIRD))
    ash = world.roster.sites["ash"].model_copy(update={"co_officers": tuple(sorted(more))})
    return compile_plan(
        world.draft, Roster(coordinator=world.roster.coordinator, sites={**world.roster.sites, "ash": ash})
    )


def policy_of(plan, required):
    return draft_policy(plan, END).model_copy(update={"approvals_required": required})


@pytest.fixture(scope="module")
def first(world):
    return world.officers["ash"]


@pytest.fixture
def verify(plan, first):
    pinned = {first.public, SECOND.public, THIRD.public}

    def call(data, required=2, officers=pinned, now=NOW):
        return verify_approval(data, plan, policy_of(plan, required), "ash", officers, now, notices=NOTHING)

    return call


@pytest.fixture
def signed(plan):
    """``signed(2, a, b)``: an approval under a policy that asks for two, by a, then b."""

    def call(required, one, *others, now=NOW):
        policy = policy_of(plan, required)
        data = approve(plan, policy, "ash", one, END, NOW)
        for key in others:
            data = add_officer(data, plan, policy, "ash", key, now, NOTHING)
        return data

    return call


def test_one_signature_where_two_are_asked_for_says_what_is_missing(verify, signed, first):
    with pytest.raises(VerificationError) as e:
        verify(signed(2, first))
    assert str(e.value) == (
        "approval check 11: policy check 18: expected the signatures of 2 officers under an approval; found 1; have "
        "another officer of this site sign the same one: `fedsec plan approve --add`"
    )


def test_any_two_of_three_are_enough_in_either_order(verify, signed, first):
    for pair in ((first, SECOND), (SECOND, first), (THIRD, SECOND)):
        verify(signed(2, *pair))
    verify(signed(2, first, SECOND, THIRD))
    with pytest.raises(VerificationError, match="found 2"):
        verify(signed(3, first, SECOND), required=3)
    verify(signed(3, THIRD, first, SECOND), required=3)


def test_a_co_officer_alone_is_enough_where_one_is(verify, signed, plan, first):
    data = signed(1, SECOND)
    verify(data, required=1)
    approval, signers = verify_to_sign(data, plan, policy_of(plan, 1), "ash", NOW, NOTHING)
    assert signers == {SECOND.public}
    assert read_approval(data, "ash", [first.public, SECOND.public]) == approval


def test_one_officer_counts_once(verify, signed, first):
    """However the second signature gets in."""
    once = signed(2, first)
    with pytest.raises(ConfigError, match="has signed this approval"):
        signed(2, first, first)
    with pytest.raises(LocalMisuseError):
        add_signature(once, first)
    fields = json.loads(once)
    doubled = rfc8785.dumps({**fields, "signatures": fields["signatures"] * 2})
    renamed = [{**fields["signatures"][0], "keyid": SECOND.public.hex}, *fields["signatures"]]
    renamed = rfc8785.dumps({**fields, "signatures": sorted(renamed, key=lambda s: s["keyid"])})
    for forged in (doubled, renamed):
        with pytest.raises(VerificationError, match="approval check 1"):
            verify(forged)


def test_a_strangers_signature_beside_enough_others_is_refused(verify, signed, first):
    stranger = SigningKey.generate()
    with pytest.raises(ConfigError, match="another officer"):
        signed(2, first, stranger)
    with pytest.raises(VerificationError, match=r"approval check 1.*not trusted"):
        verify(add_signature(signed(2, first, SECOND), stranger))


def test_signatures_of_two_approvals_do_not_add_up(verify, signed, first):
    one, other = (json.loads(signed(2, key)) for key in (first, SECOND))
    both = sorted(one["signatures"] + other["signatures"], key=lambda s: s["keyid"])
    with pytest.raises(VerificationError, match="approval check 1"):
        verify(rfc8785.dumps({**one, "signatures": both}))


def test_nothing_is_added_to_what_would_not_hold(plan, signed, first, world):
    data, policy = signed(2, first), policy_of(plan, 2)

    def add(data=data, plan=plan, policy=policy, site="ash", now=NOW):
        return add_officer(data, plan, policy, site, SECOND, now, NOTHING)

    with pytest.raises(VerificationError, match="approval check 7"):
        add(now=END)
    with pytest.raises(VerificationError, match="approval check 6"):
        add(policy=policy_of(plan, 3))
    other = compile_plan(world.draft.model_copy(update={"rounds": 1}), plan.roster)
    with pytest.raises(VerificationError, match="approval check 5"):
        add(plan=other)
    with pytest.raises(VerificationError, match="approval check 1"):
        add(site="birch")
    with pytest.raises(ConfigError, match="no site oak"):
        add(site="oak")
    with pytest.raises(VerificationError, match="approval check 1"):
        add(data=data[:-1])
    tight = policy_of(plan, 2).model_copy(update={"max_rounds": 1})
    with pytest.raises(ConfigError, match="policy check 11"):
        approve(plan, tight, "ash", first, END, NOW)


def test_pins_and_roster_name_the_same_officers(verify, signed, first):
    data = signed(2, first, SECOND)
    for pinned in ({first.public, SECOND.public}, {first.public, SECOND.public, SigningKey.generate().public}):
        with pytest.raises(VerificationError, match="approval check 4"):
            verify(data, officers=pinned)


def test_a_roster_with_too_few_officers_is_said_before_anyone_signs(plan, world):
    with pytest.raises(ConfigError, match=r"signatures of 2 officers; the roster names 1 for birch"):
        approve(plan, policy_of(plan, 2), "birch", world.officers["birch"], END, NOW)


def test_junk_takes_no_signature():
    with pytest.raises(CodecError):
        add_signature(b"{}", SECOND)
