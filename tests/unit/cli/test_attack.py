"""`fedsec attack`: a row an attack, and an exit code that says whether one got through."""

from dataclasses import replace

import pytest

from fedsec.attacks import he, masking
from fedsec.attacks.masking import ATTACKS
from fedsec.attacks.outcome import broken


@pytest.fixture
def quick(monkeypatch):
    two = tuple(a for a in ATTACKS if a.name in ("drop before share", "small cohort"))
    monkeypatch.setattr(masking, "ATTACKS", two)
    return two


def test_held_attacks_end_with_0(fedsec, quick):
    result = fedsec("attack", "masking", "--json")
    assert result.code == 0
    assert [(r["attack"], r["held"]) for r in result.json["rows"]] == [
        ("small cohort", True),
        ("drop before share", True),
    ]
    assert all({"attack", "expected", "got", "held"} <= set(r) for r in result.json["rows"])


def test_on_the_weak_aggregator_all_get_through(fedsec, quick):
    result = fedsec("attack", "masking", "--against", "naive")
    assert result.code == 1
    assert "0 of 2 attacks held, 2 got through" in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 100


def test_one_that_gets_through_ends_with_1(fedsec, quick, monkeypatch):
    changed = (quick[0], replace(quick[1], run=lambda target, folder: broken("read it")))
    monkeypatch.setattr(masking, "ATTACKS", changed)
    result = fedsec("attack", "masking")
    assert result.code == 1
    assert "1 of 2 attacks held, 1 got through" in result.out


def test_the_attacks_on_governance_are_held(fedsec):
    result = fedsec("attack", "governance", "--json")
    assert result.code == 0
    names = {r["attack"] for r in result.json["rows"]}
    assert {"forged approval", "rolled-back policy", "downgraded mode", "ledger set back", "log fork"} <= names
    assert "swapped roster" in names
    assert fedsec("attack", "governance", "--against", "naive").code == 1


ROWS = {"key on its way", "one site's key (he)", "too many sites (he)", "the same on CKKS (control)"}


@pytest.fixture
def quick_he(monkeypatch):
    monkeypatch.setattr(he, "ATTACKS", tuple(a for a in he.ATTACKS if a.name in ROWS))


def test_what_succeeds_as_stated_is_not_counted_as_held(fedsec, quick_he):
    result = fedsec("attack", "he")
    assert result.code == 0
    last = "2 of 2 attacks held, 1 succeeds as the plan's warning states, 1 succeeds as a control"
    assert last in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 100
    assert [line.split("│")[-2].strip() for line in result.out.splitlines() if "one site's key" in line] == ["stated"]


def test_rows_of_the_attacks_on_encryption(fedsec, quick_he):
    result = fedsec("attack", "he", "--json")
    assert result.code == 0
    assert {r["attack"] for r in result.json["rows"]} == ROWS
    assert all(set(r) == {"attack", "attacker", "source", "expected", "got", "held"} for r in result.json["rows"])
    (stated,) = (r for r in result.json["rows"] if r["attack"] == "one site's key (he)")
    assert stated["expected"] == "it opens every site's update, as the officer is told before approving"
    assert "opens all of site-b's update" in stated["got"]


def test_all_attacks_on_encryption_succeed_on_the_weak_aggregator(fedsec):
    result = fedsec("attack", "he", "--against", "naive")
    assert result.code == 1
    count = sum(a.kind != "control" for a in he.ATTACKS)
    assert f"0 of {count} attacks held, {count} got through" in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 100
