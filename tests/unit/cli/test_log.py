"""`fedsec log`: what a finished run says of itself, and that an edited one is found out."""

import json
import shutil

import pytest

from fedsec.logfile import CHECKPOINT, ENTRIES
from tests.unit.cli.smoke import finished_run


@pytest.fixture
def run(tmp_path):
    shutil.copytree(finished_run(), tmp_path / "run")
    return tmp_path / "run"


def test_the_log_is_shown_and_verified(fedsec, run):
    shown = fedsec("log", "show", run)
    assert shown.code == 0
    assert max(len(line) for line in shown.out.splitlines()) <= 100
    kinds = [e["kind"] for e in fedsec("log", "show", run, "--json").json["entries"]]
    a_round = ["round-started", "survivors", "aggregate"] + ["ledger-head"] * 6
    assert kinds == ["approval"] * 6 + a_round * 2 + ["attestation"] * 6 + ["model", "run-finished"]
    verified = fedsec("log", "verify", run, "--json")
    assert verified.code == 0
    assert len(verified.json["cosigned"]) == 6
    assert "cosigned by clifton" in fedsec("log", "verify", run).out


def test_where_an_adapter_comes_from(fedsec, run, tmp_path):
    answer = fedsec("log", "who", run / "adapter", run, "--json")
    assert answer.code == 0
    (found,) = answer.json["found"]
    assert (found["run"], len(found["sites"])) == ("one", 6)
    page = fedsec("log", "who", answer.json["adapter"], run).out
    assert "smoke" in page
    assert "clifton" in page
    unknown = fedsec("log", "who", "0" * 64, run)
    assert unknown.code == 1
    assert "No log that was given knows it" in unknown.out
    assert fedsec("log", "who", "adapter-7", run).code == 2


def test_one_entry_is_proved_to_who_has_the_plan_only(fedsec, run, tmp_path):
    assert fedsec("log", "prove", run, 30, "--out", "proof.json").code == 0
    shutil.copy(run / "plan.json", tmp_path / "plan.json")
    good = fedsec("log", "verify", "--proof", "proof.json", "--plan", "plan.json", "--json")
    assert good.code == 0
    assert good.json["entry"]["kind"] == "model"
    proof = json.loads((tmp_path / "proof.json").read_text())
    other = json.loads((tmp_path / "proof.json").read_text())
    assert fedsec("log", "prove", run, 31, "--out", "second.json").code == 0
    for field in ("entry", "inclusion"):
        changed = other | {field: json.loads((tmp_path / "second.json").read_text())[field]}
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        (tmp_path / "bad.json").write_text(text)
        assert fedsec("log", "verify", "--proof", "bad.json", "--plan", "plan.json").code == 1
    assert proof == other
    assert fedsec("log", "prove", run, 30, "--out", "proof.json").code == 2
    assert fedsec("log", "prove", run, 99, "--out", "new.json").code == 2
    assert fedsec("log", "verify", "--proof", "proof.json").code == 2


def drop_last(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def change_one(path):
    path.write_bytes(path.read_bytes().replace(b'"rounds":2', b'"rounds":1'))


def drop_cosignatures(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))


@pytest.mark.parametrize(
    ("file", "change", "why"),
    [
        (ENTRIES, drop_last, "the log is cut"),
        (ENTRIES, change_one, "the log was edited"),
        (CHECKPOINT, drop_cosignatures, "checkpoint check 4"),
        (CHECKPOINT, lambda path: path.write_bytes(path.read_bytes().replace(b"fedsec/", b"fedsec-")), "check 2"),
        (ENTRIES, lambda path: path.write_bytes(b"{}\n" + path.read_bytes()), "line 1"),
    ],
)
def test_an_edited_log_is_refused(fedsec, run, file, change, why):
    change(run / "log" / file)
    result = fedsec("log", "verify", run)
    assert result.code == 1
    assert why in " ".join(result.err.split())


def test_a_run_without_a_finished_round_has_no_log(fedsec, run):
    (run / "log" / CHECKPOINT).unlink()
    result = fedsec("log", "show", run)
    assert result.code == 2
    assert "no cosigned log yet" in " ".join(result.err.replace("│", " ").split())


def test_a_sites_own_log_is_shown_and_checked(fedsec, tmp_path):
    shutil.copytree(finished_run().with_name("run-sites"), tmp_path / "sites")
    site = tmp_path / "sites" / "clifton" / "site.toml"
    entries = fedsec("site", "log", site, "--json").json["entries"]
    assert entries[0]["kind"] == "approval"
    answered = [e["exchange"] for e in entries if e["kind"] == "answered"]
    assert answered[:7] == ["train", "share", "mask", "confirm", "unmask", "verdict", "witness"]
    page = fedsec("site", "log", site).out
    assert "UTC" in page
    assert max(len(line) for line in page.splitlines()) <= 100
    drop_last(site.parent / "state" / "log" / ENTRIES)
    cut = fedsec("site", "log", site)
    assert cut.code == 1
    assert "was edited or cut" in " ".join(cut.err.split())
    shutil.rmtree(site.parent / "state")
    assert fedsec("site", "log", site, "--json").json["entries"] == []
