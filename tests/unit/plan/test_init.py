"""The working set: real keys and approvals that verify, nothing overwritten."""

import datetime
import stat

import pytest

from fedsec.plan.approval import read_approval, verify_approval
from fedsec.plan.document import load_plan
from fedsec.plan.init import complete_working_set, load_or_make_key
from fedsec.plan.policy import Policy
from fedsec.plan.revocation import revoke
from fedsec.plan.sitefile import DataSection, SiteTemplate, load_sites
from fedsec.plan.specs import DpSpec
from fedsec.plan.toml import read_toml, write_toml
from fedsec.plan.withdrawal import Notices, withdraw
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.keys import SigningKey

from .conftest import NOW

NAMES = ("ash", "birch", "cedar", "elm", "fir")


@pytest.fixture
def folders(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        template = SiteTemplate(name=name, data=DataSection(path="notes.jsonl"))
        (tmp_path / name / "site.toml").write_text(write_toml(template, f"Site {name}, by hand"))
    return {n: tmp_path / n for n in NAMES}


def complete(world, tmp_path, folders, now=NOW, **changes):
    return complete_working_set(world.draft.model_copy(update=changes), folders, tmp_path / "coordinator", now)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_site_can_verify_its_own_approval(world, tmp_path, folders):
    plan = complete(world, tmp_path, folders)
    assert load_plan(tmp_path / "coordinator" / "plan.json") == plan
    assert SigningKey.load(tmp_path / "coordinator" / "coordinator.key").public.hex == plan.roster.coordinator
    sites = load_sites(tmp_path)
    assert tuple(sites) == NAMES
    for name, site in sites.items():
        assert SigningKey.load(site.key_path).public.hex == plan.roster.sites[name].key
        policy = read_toml(site.policy_path, Policy)
        data = site.approval_path.read_bytes()
        verify_approval(data, plan, policy, name, site.officers, NOW, notices=Notices())


def test_modes_of_what_is_made(world, tmp_path, folders):
    complete(world, tmp_path, folders)
    assert stat.S_IMODE((tmp_path / "coordinator").stat().st_mode) == 0o700
    made = [p for p in contents(tmp_path) if p.name != "notes.jsonl"]
    assert len(made) == 5 * 5 + 3
    assert {stat.S_IMODE(p.stat().st_mode) for p in made} == {0o600}


def test_a_second_time_changes_nothing(world, tmp_path, folders):
    plan = complete(world, tmp_path, folders)
    before = contents(tmp_path)
    assert complete(world, tmp_path, folders) == plan
    assert contents(tmp_path) == before


def test_the_site_files_own_text_stays(world, tmp_path, folders):
    file = folders["ash"] / "site.toml"
    file.write_text('# ours\nname = "ash"  # keep me\n\n[data]\n# and me\npath = "n.jsonl"\n')
    plan = complete(world, tmp_path, folders)
    rows = file.read_text().splitlines()
    kept = [r for r in rows if "officer" not in r and r]
    assert kept == ["# ours", 'name = "ash"  # keep me', "[data]", "# and me", 'path = "n.jsonl"']
    assert load_sites(tmp_path)["ash"].officer.hex == plan.roster.sites["ash"].officer


def test_a_changed_plan_gets_new_approvals_under_the_old_policies(world, tmp_path, folders):
    complete(world, tmp_path, folders)
    policies = {n: (f / "policy.toml").read_bytes() for n, f in folders.items()}
    plan = complete(world, tmp_path, folders, rounds=1)
    assert plan.rounds == 1
    assert policies == {n: (f / "policy.toml").read_bytes() for n, f in folders.items()}


def test_a_policy_that_is_there_is_not_widened(world, tmp_path, folders):
    complete(world, tmp_path, folders)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="policy check 11"):
        complete(world, tmp_path, folders, rounds=9)
    assert contents(tmp_path) == before


def test_an_expired_working_set_says_so(world, tmp_path, folders):
    complete(world, tmp_path, folders)
    with pytest.raises(ConfigError, match="policy check 2"):
        complete(world, tmp_path, folders, now=NOW + datetime.timedelta(days=91))


def test_another_officers_site_is_left_alone(world, tmp_path, folders):
    file = folders["elm"] / "site.toml"
    template = read_toml(file, SiteTemplate).model_copy(update={"officer": SigningKey.generate().public.hex})
    file.write_text(write_toml(template, "pinned"))
    with pytest.raises(ConfigError, match="pins another officer"):
        complete(world, tmp_path, folders)


def test_what_an_officer_withdrew_is_not_approved_again_by_a_program(world, tmp_path, folders):
    plan = complete(world, tmp_path, folders)
    site = load_sites(tmp_path)["ash"]
    officer = SigningKey.load(folders["ash"] / "officer.key")
    nonce = read_approval(site.approval_path.read_bytes(), "ash", site.officers).nonce
    site.revocations_path.mkdir()
    stop = withdraw(nonce, plan.digest().hex(), "ash", officer, reason="a complaint", at=NOW)
    (site.revocations_path / "stop.json").write_bytes(stop)
    before = contents(tmp_path)
    for changes in ({}, {"rounds": 1}):
        with pytest.raises(ConfigError, match="was withdrawn"):
            complete(world, tmp_path, folders, **changes)
    assert contents(tmp_path) == before
    site.approval_path.unlink()
    complete(world, tmp_path, folders)
    assert read_approval(site.approval_path.read_bytes(), "ash", site.officers).nonce != nonce


def test_nothing_is_approved_under_a_plan_with_a_revoked_key(world, tmp_path, folders):
    complete(world, tmp_path, folders)
    key = SigningKey.load(tmp_path / "coordinator" / "coordinator.key")
    site = load_sites(tmp_path)["ash"]
    site.revocations_path.mkdir()
    (site.revocations_path / "r.json").write_bytes(revoke(key.public, [key], reason="stolen", at=NOW))
    before = contents(tmp_path)
    with pytest.raises(VerificationError, match=r"approval check 9.*roster\.coordinator"):
        complete(world, tmp_path, folders, rounds=1)
    assert contents(tmp_path) == before


def test_a_policy_that_asks_for_two_officers_is_not_met_by_the_one_that_is_made_here(world, tmp_path, folders):
    second = SigningKey.generate()
    file = folders["ash"] / "site.toml"
    template = read_toml(file, SiteTemplate).model_copy(update={"co_officers": (second.public.hex,)})
    file.write_text(write_toml(template, "Two officers"))
    plan = complete(world, tmp_path, folders)
    assert plan.roster.sites["ash"].co_officers == (second.public.hex,)
    site = load_sites(tmp_path)["ash"]
    policy = read_toml(site.policy_path, Policy).model_copy(update={"approvals_required": 2})
    site.policy_path.write_text(write_toml(policy, "Two"))
    with pytest.raises(ConfigError, match="signatures of 2 officers"):
        complete(world, tmp_path, folders)


def test_wrong_names_and_unsupported_plans_stop_before_any_key(world, tmp_path, folders):
    lonely = world.draft.secure.model_copy(update={"mode": "he-mask"})
    with pytest.raises(ConfigError, match="every step would be a round of encryption"):
        complete(world, tmp_path, folders, secure=lonely, dp=DpSpec(mode="distributed", target_epsilon=8.0))
    assert not list(tmp_path.rglob("*.key"))
    with pytest.raises(ConfigError, match="expected the name oak"):
        complete(world, tmp_path, {**folders, "oak": folders["ash"]})


def test_an_existing_key_is_used(tmp_path):
    key = load_or_make_key(tmp_path / "a" / "k")
    assert load_or_make_key(tmp_path / "a" / "k").public == key.public
