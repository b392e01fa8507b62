"""`fedsec policy`: a draft that allows one plan, in words and rule by rule."""

import datetime
from pathlib import Path

import pytest

from fedsec.plan.document import load_plan
from fedsec.plan.policy import Policy
from fedsec.plan.policy_checks import check_plan
from fedsec.plan.toml import read_toml
from fedsec_secure.identity.keys import SigningKey

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def plan(fedsec, tmp_path):
    options = ("--sites", 3, "--base", "tiny-random", "--entity", "Drug", "--set", "model.weights_sha256=" + "ab" * 32)
    fedsec("plan", "new", "plan.toml", *options)
    lines = [f'coordinator = "{SigningKey.generate().public.hex}"']
    for name in ("ash", "birch", "cedar"):
        key, officer = (SigningKey.generate().public.hex for _ in range(2))
        lines += [f"[sites.{name}]", f'key = "{key}"', f'officer = "{officer}"']
    (tmp_path / "roster.toml").write_text("\n".join(lines))
    assert fedsec("plan", "compile", "plan.toml", "--roster", "roster.toml", "--out", "plan.json").code == 0
    return load_plan(tmp_path / "plan.json")


def test_a_new_policy_allows_its_plan_and_says_what_it_allows(fedsec, tmp_path, plan):
    assert fedsec("policy", "new", "policy.toml", "--plan", "plan.json", "--days", 30).code == 0
    policy = read_toml(tmp_path / "policy.toml", Policy)
    now = datetime.datetime.now(datetime.UTC)
    assert check_plan(policy, plan, now) == []
    assert 29 <= (policy.expires - now).days <= 30
    assert fedsec("policy", "new", "policy.toml", "--plan", "plan.json").code == 2
    checked = fedsec("policy", "check", "policy.toml")
    assert checked.code == 0
    assert "Updates leave only under protection" in " ".join(checked.out.split())
    assert policy.digest().hex() in checked.out.replace("\n", "")
    assert max(len(line) for line in checked.out.splitlines() if "sha256" not in line) <= 100


def test_an_expired_policy_ends_with_1(fedsec, tmp_path, plan):
    fedsec("policy", "new", "policy.toml", "--plan", "plan.json")
    text = (tmp_path / "policy.toml").read_text()
    year = str(read_toml(tmp_path / "policy.toml", Policy).expires.year)
    (tmp_path / "policy.toml").write_text(text.replace(f"expires = {year}", "expires = 2020"))
    result = fedsec("policy", "check", "policy.toml", "--json")
    assert result.code == 1
    assert not result.json["ok"]


def test_every_rule_is_explained_and_a_plan_that_breaks_one_is_named(fedsec, tmp_path, plan):
    fedsec("policy", "new", "policy.toml", "--plan", "plan.json")
    alone = fedsec("policy", "explain", "policy.toml", "--json")
    assert alone.code == 0
    assert len(alone.json["rules"]) == 22
    assert f"the {len(alone.json['rules'])} rules" in (ROOT / "docs" / "cli.md").read_text()
    text = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text.replace("max_rank = 16", "max_rank = 4"))
    broken = fedsec("policy", "explain", "policy.toml", "--plan", "plan.json")
    assert broken.code == 1
    assert "found 16" in broken.out
    assert max(len(line) for line in broken.out.splitlines()) <= 100


def test_an_unknown_field_is_refused(fedsec, tmp_path, plan):
    fedsec("policy", "new", "policy.toml", "--plan", "plan.json")
    path = tmp_path / "policy.toml"
    path.write_text(path.read_text() + "\nmax_rnak = 3\n")
    result = fedsec("policy", "check", "policy.toml")
    assert result.code == 2
    assert "did you mean max_rank?" in result.err
