"""`fedsec plan`: from an empty folder to a signed approval, and what is refused on the way."""

import datetime

import pytest

from fedsec.plan.approval import verify_approval
from fedsec.plan.document import load_plan
from fedsec.plan.model import Draft
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.toml import read_toml, write_toml
from fedsec.plan.withdrawal import Notices
from fedsec_secure.identity.keys import SigningKey

NAMES = ("ash", "birch", "cedar")


def new(fedsec, *more):
    return fedsec("plan", "new", "plan.toml", "--sites", 3, "--base", "tiny-random", "--entity", "Drug", *more)


@pytest.fixture
def compiled(fedsec, tmp_path):
    """A compiled three-site plan with keys, and a policy that allows it."""
    new(fedsec, "--set", "model.weights_sha256=" + "ab" * 32)
    lines = [f'coordinator = "{SigningKey.generate().public.hex}"']
    for name in NAMES:
        officer = SigningKey.generate()
        officer.save(tmp_path / f"{name}.key")
        lines += [f"[sites.{name}]", f'key = "{SigningKey.generate().public.hex}"', f'officer = "{officer.public.hex}"']
    (tmp_path / "roster.toml").write_text("\n".join(lines))
    assert fedsec("plan", "compile", "plan.toml", "--roster", "roster.toml", "--out", "plan.json").code == 0
    plan = load_plan(tmp_path / "plan.json")
    end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=60)
    (tmp_path / "policy.toml").write_text(write_toml(draft_policy(plan, end), "Policy"))
    return plan


def approve(fedsec, *more):
    return fedsec("plan", "approve", "plan.json", "--policy", "policy.toml", "--site", "ash", "--out", "a.json", *more)


def test_a_new_draft_holds_together(fedsec, tmp_path):
    result = new(fedsec, "--relation", "treats", "--entity", "Problem", "--preset", "demo", "--set", "rounds=5")
    assert result.code == 0
    draft = read_toml(tmp_path / "plan.toml", Draft)
    assert (draft.rounds, draft.secure.threshold, draft.task.kind) == (5, 3, "both")
    assert draft.training.learning_rate == 1.5e-3
    assert draft.task.entity_types == ("Drug", "Problem")
    again = new(fedsec)
    assert again.code == 2
    assert "not overwritten" in again.err


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("--set", "rounds=none"), "rounds"),
        (("--preset", "best"), "expected a preset of paper, demo"),
        (("--set", "secure.minimum_cohort=2"), "minimum_cohort"),
        (("--entity", "no space please"), "entity_types"),
    ],
)
def test_a_draft_that_does_not_hold_is_not_written(fedsec, tmp_path, more, match):
    result = new(fedsec, *more)
    assert result.code == 2
    assert match in result.err
    assert not (tmp_path / "plan.toml").exists()


def test_two_sites_get_no_masks_and_are_told_so(fedsec, tmp_path):
    result = fedsec("plan", "new", "two.toml", "--sites", 2, "--entity", "Drug")
    assert "masks could not hide anything" in result.err
    assert read_toml(tmp_path / "two.toml", Draft).secure.mode == "none"
    assert "in the clear" in fedsec("plan", "check", "two.toml", "--sites", 2).out


def test_check_explains_and_exits_by_the_verdict(fedsec):
    new(fedsec)
    good = fedsec("plan", "check", "plan.toml", "--sites", 3, "--coordinates", 1000)
    assert good.code == 0
    assert "Three sites, threshold 3" in " ".join(good.out.split())
    assert "--sites N" in fedsec("plan", "check", "plan.toml").out
    bad = fedsec(
        "plan", "check", "plan.toml", "--set", "server.optimiser=adam", "--set", "lora.strategy=fedsvd", "--json"
    )
    assert bad.code == 1
    assert bad.json["ok"] is False
    assert any("their basis changes with every round" in s["text"] for s in bad.json["statements"])


def test_every_line_fits_a_hundred_columns(fedsec):
    new(fedsec)
    for command in ("check", "show"):
        assert max(len(line) for line in fedsec("plan", command, "plan.toml").out.splitlines()) <= 100


def test_show_a_draft_and_a_plan(fedsec, compiled):
    assert "A draft: no roster" in fedsec("plan", "show", "plan.toml").out
    assert fedsec("plan", "show", "plan.toml", "--json").json["sha256"] is None
    page = fedsec("plan", "show", "plan.json").out
    assert compiled.digest().hex() in page
    assert "sites.birch.officer" in page
    assert fedsec("plan", "show", "plan.json", "--json").json["sha256"] == compiled.digest().hex()


def test_a_compiled_plan_cannot_be_changed_on_the_way(fedsec, compiled, tmp_path):
    result = fedsec("plan", "show", "plan.json", "--set", "rounds=9")
    assert result.code == 2
    assert "does not change" in result.err
    (tmp_path / "plan.json").write_bytes(compiled.canonical() + b" ")
    assert fedsec("plan", "check", "plan.json").code == 1


def test_compile_refuses_a_roster_that_is_too_small(fedsec, compiled, tmp_path):
    rows = (tmp_path / "roster.toml").read_text().splitlines()
    (tmp_path / "roster.toml").write_text("\n".join(rows[:7]))
    result = fedsec("plan", "compile", "plan.toml", "--roster", "roster.toml", "--out", "small.json")
    assert result.code == 2
    assert not (tmp_path / "small.json").exists()
    assert fedsec("plan", "compile", "plan.toml", "--roster", "roster.toml", "--out", "plan.json").code == 2


def test_an_officer_checks_and_approves(fedsec, compiled, tmp_path):
    checked = fedsec("plan", "check", "plan.json", "--policy", "policy.toml")
    assert checked.code == 0
    assert "allows this plan" in checked.out
    done = approve(fedsec, "--key", "ash.key", "--days", 90, "--json")
    assert done.code == 0
    policy = read_toml(tmp_path / "policy.toml", Policy)
    officer = SigningKey.load(tmp_path / "ash.key").public
    now = datetime.datetime.now(datetime.UTC)
    data = (tmp_path / "a.json").read_bytes()
    approval = verify_approval(data, compiled, policy, "ash", {officer}, now, notices=Notices())
    assert approval.expires == policy.expires  # never beyond the policy
    assert done.json["plan_sha256"] == compiled.digest().hex()
    assert approve(fedsec, "--key", "ash.key").code == 2  # the old one is not overwritten


def test_what_the_policy_does_not_allow_is_not_signed(fedsec, compiled, tmp_path):
    policy = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(policy.replace("max_rounds = 2", "max_rounds = 1"))
    checked = fedsec("plan", "check", "plan.json", "--policy", "policy.toml", "--json")
    assert checked.code == 1
    assert [v["number"] for v in checked.json["violations"]] == [11]
    refused = approve(fedsec, "--key", "ash.key")
    assert refused.code == 2
    assert "policy check 11" in refused.err
    assert approve(fedsec, "--key", "birch.key").code == 2
    assert not (tmp_path / "a.json").exists()


def test_a_draft_is_not_checked_against_a_policy(fedsec, compiled):
    result = fedsec("plan", "check", "plan.toml", "--policy", "policy.toml")
    assert result.code == 2
    assert "compiled plan" in result.err
