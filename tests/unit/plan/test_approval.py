"""Approvals: each numbered check stops the attack that it is for."""

import datetime
import json

import pytest
import rfc8785

from fedsec.plan.approval import APPROVAL_TYPE, Approval, approve, verify_approval
from fedsec.plan.document import canonical, compile_plan
from fedsec.plan.model import Roster
from fedsec.plan.policy import draft_policy
from fedsec.plan.withdrawal import Notices
from fedsec_secure.errors import ConfigError, LocalMisuseError, VerificationError
from fedsec_secure.identity.envelope import sign_envelope
from fedsec_secure.identity.keys import SigningKey

from .conftest import END, NOW

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def approved(world):
    return approve(world.plan(), world.policy(), "ash", world.officers["ash"], END, NOW)


def verify(world, data, *, plan=None, policy=None, site="ash", now=NOW, history=()):
    where = (site, {world.officers[site].public}, now, history)
    return verify_approval(data, plan or world.plan(), policy or world.policy(), *where, notices=Notices())


def signed(world, by=None, **changes):
    """An approval by the officer's key that `approve` would not make."""
    fields = {
        "plan_sha256": world.plan().digest().hex(),
        "policy_sha256": world.policy().digest().hex(),
        "site": "ash",
        "expires": END,
        "nonce": "00" * 16,
        **changes,
    }
    return sign_envelope(APPROVAL_TYPE, canonical(Approval(**fields)), by or world.officers["ash"])


def test_a_good_approval_holds(world, approved):
    approval = verify(world, approved)
    assert approval.plan_sha256 == world.plan().digest().hex()
    assert approval.policy_sha256 == world.policy().digest().hex()
    assert (approval.site, approval.expires) == ("ash", END)
    assert verify(world, signed(world)).nonce == "00" * 16
    again = approve(world.plan(), world.policy(), "ash", world.officers["ash"], END, NOW)
    assert verify(world, again).nonce != approval.nonce


def test_1_forged_or_changed(world, approved):
    stranger = SigningKey.generate()
    fields = json.loads(approved)
    for data in (
        b"",
        signed(world, stranger),
        signed(world, world.sites["ash"]),
        signed(world, world.coordinator),
        rfc8785.dumps({**fields, "signatures": []}),
        sign_envelope("application/vnd.fedsec.certificate.v1+json", b"{}", world.officers["ash"]),
    ):
        with pytest.raises(VerificationError, match="approval check 1"):
            verify(world, data)


def test_1_every_flipped_byte(world, approved):
    for i in range(0, len(approved), 3):
        bad = bytearray(approved)
        bad[i] ^= 1
        with pytest.raises(VerificationError, match="approval check 1"):
            verify(world, bytes(bad))


@pytest.mark.parametrize("payload", [b"{}", b"not json", b'{"format":1}'])
def test_2_another_document_of_the_officer(world, payload):
    with pytest.raises(VerificationError, match="approval check 2"):
        verify(world, sign_envelope(APPROVAL_TYPE, payload, world.officers["ash"]))


def test_2_an_unknown_field_is_not_ignored(world):
    payload = rfc8785.dumps({**json.loads(canonical(verify(world, signed(world)))), "unless": "forged"})
    with pytest.raises(VerificationError, match=r"approval check 2.*unless"):
        verify(world, sign_envelope(APPROVAL_TYPE, payload, world.officers["ash"]))


def test_3_another_hospitals_approval(world):
    with pytest.raises(VerificationError, match="approval check 3"):
        verify(world, signed(world, site="birch"))


def test_4_a_roster_that_swaps_the_officer(world, approved):
    sites = dict(world.roster.sites)
    sites["ash"] = sites["ash"].model_copy(update={"officer": SigningKey.generate().public.hex})
    swapped = compile_plan(world.draft, Roster(coordinator=world.roster.coordinator, sites=sites))
    with pytest.raises(VerificationError, match="approval check 4"):
        verify(world, approved, plan=swapped)


@pytest.mark.parametrize("what", ["rounds", "coordinator", "site"])
def test_5_another_plan(world, approved, what):
    sites = dict(world.roster.sites)
    coordinator = world.roster.coordinator
    plan = world.plan(rounds=1)
    if what == "coordinator":
        coordinator = SigningKey.generate().public.hex
    if what == "site":
        sites["fir"] = sites["fir"].model_copy(update={"key": SigningKey.generate().public.hex})
    if what != "rounds":
        plan = compile_plan(world.draft, Roster(coordinator=coordinator, sites=sites))
    with pytest.raises(VerificationError, match="approval check 5"):
        verify(world, approved, plan=plan)


def test_6_a_rolled_back_or_edited_policy(world, approved):
    with pytest.raises(VerificationError, match="approval check 6"):
        verify(world, approved, policy=world.policy(max_runs=2))


def test_7_expired(world, approved):
    verify(world, approved, now=END - datetime.timedelta(seconds=1))
    with pytest.raises(VerificationError, match="approval check 7"):
        verify(world, approved, now=END)
    with pytest.raises(VerificationError, match="approval check 7"):
        verify(world, signed(world, expires=END + DAY))


def test_8_an_officers_signature_under_a_policy_that_refuses(world):
    policy = world.policy(max_rounds=1)
    with pytest.raises(VerificationError, match=r"approval check 8.*\n?.*policy check 11"):
        verify(world, signed(world, policy_sha256=policy.digest().hex()), policy=policy)
    earlier = frozenset(s.key for s in world.roster.sites.values()) - {world.sites["fir"].public.hex}
    with pytest.raises(VerificationError, match="policy check 15"):
        verify(world, signed(world), history=[earlier])


def test_a_moment_without_a_zone_is_misuse(world, approved):
    with pytest.raises(LocalMisuseError):
        verify(world, approved, now=NOW.replace(tzinfo=None))


def test_approve_refuses_what_the_policy_does_not_allow(world):
    officer = world.officers["ash"]
    with pytest.raises(ConfigError, match=r"(?s)policy check 10.*policy check 11"):
        approve(world.plan(), world.policy(max_rounds=1, max_rank=8), "ash", officer, END, NOW)


def test_approve_refuses_strangers_and_impossible_ends(world):
    plan, policy, officer = world.plan(), world.policy(), world.officers["ash"]
    with pytest.raises(ConfigError, match="no site oak"):
        approve(plan, policy, "oak", officer, END, NOW)
    with pytest.raises(ConfigError, match="another officer"):
        approve(plan, policy, "birch", officer, END, NOW)
    for end in (NOW, NOW - DAY, END + DAY):
        with pytest.raises(ConfigError, match="would end"):
            approve(plan, policy, "ash", officer, end, NOW)
    with pytest.raises(ConfigError, match="policy check 2"):
        approve(plan, draft_policy(plan, NOW), "ash", officer, END, NOW)
