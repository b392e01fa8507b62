"""`fedsec plan approve --add`, `fedsec plan withdraw`, and revocations in `plan check` and `plan approve`."""

import datetime

import pytest

from fedsec.plan.approval import verify_approval
from fedsec.plan.document import load_plan
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.revocation import revoke
from fedsec.plan.spoken import spoken
from fedsec.plan.toml import read_toml, write_toml
from fedsec.plan.withdrawal import Notices, open_withdrawal, read_notices
from fedsec_secure.errors import VerificationError
from fedsec_secure.identity.keys import SigningKey

NAMES = ("ash", "birch", "cedar")


@pytest.fixture
def keys(fedsec, tmp_path):
    """A compiled plan; at ash two officers must sign. Every private key lies there as ROLE-SITE.key."""
    keys = {f"{role}-{name}": SigningKey.generate() for name in NAMES for role in ("site", "officer", "second")}
    for name, key in keys.items():
        key.save(tmp_path / f"{name}.key")
    lines = [f'coordinator = "{SigningKey.generate().public.hex}"']
    for name in NAMES:
        site, officer, second = (keys[f"{role}-{name}"].public.hex for role in ("site", "officer", "second"))
        lines += [f"[sites.{name}]", f'key = "{site}"', f'officer = "{officer}"', f'co_officers = ["{second}"]']
    (tmp_path / "roster.toml").write_text("\n".join(lines))
    options = ("--base", "tiny-random", "--set", "model.weights_sha256=" + "ab" * 32)
    fedsec("plan", "new", "plan.toml", "--sites", 3, "--entity", "Drug", *options)
    assert fedsec("plan", "compile", "plan.toml", "--roster", "roster.toml", "--out", "plan.json").code == 0
    write_policy(tmp_path, 2)
    return keys


def write_policy(tmp_path, required):
    end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=60)
    policy = draft_policy(load_plan(tmp_path / "plan.json"), end).model_copy(update={"approvals_required": required})
    (tmp_path / "policy.toml").write_text(write_toml(policy, "Policy"))


@pytest.fixture
def approve(fedsec):
    def call(who, out, *more):
        key = ("--key", f"{who}.key", "--out", out)
        return fedsec("plan", "approve", "plan.json", "--policy", "policy.toml", "--site", "ash", *key, *more)

    return call


def test_two_officers_sign_one_after_the_other(keys, approve, tmp_path):
    first = approve("officer-ash", "a.json", "--json")
    assert (first.code, first.json["signatures_missing"]) == (0, 1)
    second = approve("second-ash", "b.json", "--add", "a.json")
    assert second.code == 0
    assert second.out.startswith("ash may run plan")
    assert "once" not in second.out
    shown = " ".join(second.err.split())
    assert spoken(keys["officer-ash"].public) in shown
    assert load_plan(tmp_path / "plan.json").digest().hex() in shown
    plan, policy = load_plan(tmp_path / "plan.json"), read_toml(tmp_path / "policy.toml", Policy)
    pinned = {keys["officer-ash"].public, keys["second-ash"].public}
    where = (plan, policy, "ash", pinned, datetime.datetime.now(datetime.UTC))
    verify_approval((tmp_path / "b.json").read_bytes(), *where, notices=Notices())
    with pytest.raises(VerificationError, match="approval check 11"):
        verify_approval((tmp_path / "a.json").read_bytes(), *where, notices=Notices())


def test_the_first_is_told_how_the_second_signs(keys, approve):
    done = approve("officer-ash", "a.json")
    assert "once 1 more of its officers signed" in done.out
    assert "--add a.json --key KEY --out FILE" in done.out


@pytest.mark.parametrize(
    ("who", "more", "said", "code"),
    [
        ("officer-ash", (), "has signed this approval", 2),
        ("officer-birch", (), "names another officer", 2),
        ("second-ash", ("--days", "9"), "--days goes with a new approval", 2),
        ("second-ash", ("--site", "birch"), "approval check 1", 1),
    ],
)
def test_what_is_not_added(keys, approve, tmp_path, who, more, said, code):
    approve("officer-ash", "a.json")
    refused = approve(who, "b.json", "--add", "a.json", *more)
    assert refused.code == code
    assert said in " ".join(refused.err.split())
    assert not (tmp_path / "b.json").exists()


def test_nothing_is_added_under_another_policy_or_to_nothing(keys, approve, tmp_path):
    approve("officer-ash", "a.json")
    write_policy(tmp_path, 1)
    refused = approve("second-ash", "b.json", "--add", "a.json")
    assert (refused.code, refused.out) == (1, "")
    assert "approval check 6" in refused.err
    assert approve("second-ash", "b.json", "--add", "none.json").code == 2


def test_no_key_is_opened_for_an_approval_that_does_not_hold(keys, approve, monkeypatch):
    approve("officer-ash", "a.json")
    opened = []
    monkeypatch.setattr("fedsec.cli.approve.open_key", opened.append)
    assert approve("second-ash", "b.json", "--add", "a.json", "--site", "cedar").code == 1
    assert opened == []


# ---- withdrawal


def test_any_officer_withdraws_and_the_site_will_know(fedsec, keys, approve, tmp_path):
    approve("officer-ash", "a.json")
    done = fedsec("plan", "withdraw", "a.json", "--key", "second-ash.key", "--out", "revocations/stop.json", "--json")
    assert done.code == 0
    officers = [keys["officer-ash"].public, keys["second-ash"].public]
    found = open_withdrawal((tmp_path / "revocations" / "stop.json").read_bytes(), "ash", officers)
    assert (found.nonce, found.site) == (done.json["nonce"], "ash")
    assert list(read_notices(tmp_path / "revocations", "ash", officers).withdrawn) == [found.nonce]
    refused = approve("second-ash", "b.json", "--add", "a.json", "--revocations", "revocations")
    assert refused.code == 1
    assert "approval check 10" in refused.err
    anew = approve("officer-ash", "c.json", "--revocations", "revocations")
    assert anew.code == 0


def test_withdrawing_says_what_it_does_and_overwrites_nothing(fedsec, keys, approve, tmp_path):
    approve("officer-ash", "a.json")
    ask = ("plan", "withdraw", "a.json", "--key", "officer-ash.key", "--out", "stop.json", "--reason", "a complaint")
    done = fedsec(*ask)
    assert "the site stops before its next answer" in " ".join(done.out.split())
    assert done.err == ""
    assert max(len(line) for line in done.out.splitlines()) <= 100
    before = (tmp_path / "stop.json").read_bytes()
    assert fedsec(*ask).code == 2
    assert (tmp_path / "stop.json").read_bytes() == before
    assert fedsec(*ask[:-4], "--out", "no/such/folder.json").code == 2


def test_a_key_that_did_not_sign_is_warned_and_junk_is_refused(fedsec, keys, approve, tmp_path):
    approve("officer-ash", "a.json")
    done = fedsec("plan", "withdraw", "a.json", "--key", "officer-birch.key", "--out", "w.json")
    assert "did not sign the approval" in done.err
    data = (tmp_path / "a.json").read_bytes()
    for name, junk in (("cut", data[:-9]), ("edited", data.replace(b"keyid", b"keyjd")), ("other", b"{}")):
        (tmp_path / name).write_bytes(junk)
        refused = fedsec("plan", "withdraw", name, "--key", "officer-ash.key", "--out", "x.json")
        assert (refused.code, refused.out) == (1, "")
    assert fedsec("plan", "withdraw", "gone", "--key", "officer-ash.key", "--out", "x.json").code == 2
    assert not (tmp_path / "x.json").exists()


# ---- revocations


def put(tmp_path, name, key, *signers):
    (tmp_path / "r").mkdir(exist_ok=True)
    moment = datetime.datetime.now(datetime.UTC)
    (tmp_path / "r" / name).write_bytes(revoke(key.public, signers or (key,), reason="stolen", at=moment))


def test_a_plan_with_a_revoked_key_is_refused_by_check_and_approve(fedsec, keys, approve, tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    assert fedsec("plan", "check", "plan.json", "--revocations", "r").code == 0
    put(tmp_path, "birch.json", keys["site-birch"])
    checked = fedsec("plan", "check", "plan.json", "--revocations", "r", "--json")
    assert (checked.code, checked.json["ok"]) == (1, False)
    (said,) = [s["text"] for s in checked.json["statements"] if s["topic"] == "keys"]
    assert said.startswith("sites.birch.key was revoked on ")
    opened = []
    monkeypatch.setattr("fedsec.cli.approve.open_key", opened.append)
    refused = approve("officer-ash", "a.json", "--revocations", "r")
    assert refused.code == 1
    assert "roster.sites.birch.key" in refused.err
    assert opened == []  # nobody types a passphrase for that
    assert not (tmp_path / "a.json").exists()


def test_an_officers_word_counts_at_the_officers_own_site(fedsec, keys, tmp_path):
    put(tmp_path, "lost.json", keys["site-birch"], keys["officer-ash"])
    ask = ("plan", "check", "plan.json", "--revocations", "r")
    own = fedsec(*ask, "--site", "ash")
    assert own.code == 1
    assert "sites.birch.key was revoked" in " ".join(own.out.split())
    for more in ((), ("--site", "birch")):
        refused = fedsec(*ask, *more)
        assert (refused.code, refused.out) == (1, "")
        assert "lost.json among the revocations does not count" in " ".join(refused.err.replace("│", " ").split())
    assert "--site NAME" in fedsec(*ask).err


def test_a_folder_that_is_not_there_is_a_mistake_and_a_draft_has_no_keys(fedsec, keys, approve, tmp_path):
    for asked in (
        fedsec("plan", "check", "plan.json", "--revocations", "none"),
        approve("officer-ash", "a.json", "--revocations", "none"),
        fedsec("plan", "check", "plan.toml", "--revocations", "."),
        fedsec("plan", "check", "plan.json", "--revocations", ".", "--site", "oak"),
    ):
        assert (asked.code, asked.out) == (2, "")
