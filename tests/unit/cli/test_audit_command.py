"""`fedsec audit`: rows, exit codes, and what a plan gives it."""

import re

import pytest
import typer

from fedsec.audits import canaries, mechanism, planted, scores
from fedsec.audits.outcome import Row
from fedsec.audits.setting import Setting
from fedsec.cli.audit import app

HELD = Row("noise: law", "a Gaussian's", "p: Kolmogorov-Smirnov 0.5", True, {"p": 0.5})
FALLEN = Row("ε of a step on all units", "no bound above ε 4.377", "ε ≥ inf", False, {"lower_bound": float("inf")})

PLAN = """
name = "audited"
rounds = 3
[model]
base = "tiny-random"
dtype = "float32"
[task]
kind = "entities"
entity_types = ["Drug"]
[dp]
mode = "local"
target_epsilon = 6.0
sampling_rate = 0.1
steps = 7
"""


@pytest.fixture
def asked(monkeypatch):
    """What the audits were called with; each gives one row that holds."""
    found = []

    def answer(setting, watch):
        watch("something", 1, 2)
        found.append(setting)
        return [HELD]

    monkeypatch.setattr(mechanism, "audit", answer)
    monkeypatch.setattr(canaries, "audit", answer)
    monkeypatch.setattr(planted, "find_all", answer)
    monkeypatch.setattr(scores, "audit", answer)
    return found


def test_rows_are_those_of_the_attacks_and_0_says_that_all_held(fedsec, asked):
    result = fedsec("audit", "mechanism", "--json")
    assert result.code == 0
    assert result.json["rows"] == [
        {"attack": HELD.name, "expected": HELD.expected, "got": HELD.got, "held": True, "shows": True, "p": 0.5}
    ]
    assert asked == [Setting()]


def test_one_that_falls_ends_with_1(fedsec, monkeypatch):
    monkeypatch.setattr(mechanism, "audit", lambda setting, watch: [HELD, FALLEN])
    result = fedsec("audit", "mechanism")
    assert result.code == 1
    assert "1 of 2 held, 1 did not" in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 100
    result = fedsec("audit", "mechanism", "--json")
    assert result.code == 1
    assert result.json["rows"][1]["lower_bound"] == "inf"


VAGUE = Row("ε of a step on all units", "no bound above ε 4.377", "ε ≥ 0.000 (0%)", True, {"lower_bound": 0.0}, False)


@pytest.mark.parametrize(("vague", "said"), [(1, "one of these shows nothing"), (3, "3 of these show nothing")])
def test_a_bound_that_shows_nothing_is_no_success_in_silence(fedsec, monkeypatch, vague, said):
    monkeypatch.setattr(mechanism, "audit", lambda setting, watch: [HELD, *[VAGUE] * vague])
    result = fedsec("audit", "mechanism")
    assert result.code == 0, "nothing was refuted either"
    assert f"{vague + 1} of {vague + 1} held; {said}" in result.out
    assert result.out.count("│ shows nothing │") == vague
    assert max(len(line) for line in result.out.splitlines()) <= 100
    shown = [row["shows"] for row in fedsec("audit", "mechanism", "--json").json["rows"]]
    assert shown == [True, *[False] * vague]
    monkeypatch.setattr(mechanism, "audit", lambda setting, watch: [HELD])
    assert "show" not in fedsec("audit", "mechanism").out


def test_options_reach_the_audit(fedsec, asked):
    given = ("--noise-multiplier", "2", "--sampling-rate", "0.25", "--trials", "500", "--confidence", "0.9")
    assert fedsec("audit", "mechanism", *given).code == 0
    assert fedsec("audit", "mechanism", "--self-test").code == 0
    assert asked == [
        Setting(noise_multiplier=2, sampling_rate=0.25, trials=500, confidence=0.9),
        Setting(trials=3000),
    ]


def test_what_help_says_of_scores_left_out_is_what_is_taken():
    numbers = typer.main.get_command(app).commands["scores"].params
    said = {p.name: re.search(r"; ([\d.]*\d)\.$", p.help or "") for p in numbers}
    defaults = scores.Sites()
    given = {name: (float(found[1]), float(getattr(defaults, name))) for name, found in said.items() if found}
    assert len(given) == 6
    assert [name for name, (told, taken) in given.items() if told != taken] == []


def test_options_reach_the_audit_of_scores(fedsec, asked):
    given = ("--trainings", "40", "--held-out", "7", "--score-noise", "20", "--confidence", "0.999")
    assert fedsec("audit", "scores", *given).code == 0
    assert asked == [scores.Sites(trainings=40, held_out=7, score_noise=20.0, confidence=0.999)]


def test_a_plan_s_numbers_are_used_and_options_replace_them(fedsec, asked, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    assert fedsec("audit", "canaries", "plan.toml").code == 0
    assert fedsec("audit", "canaries", "plan.toml", "--steps", "9", "--canaries", "100").code == 0
    assert fedsec("audit", "canaries").code == 0
    first, second, third = asked
    assert (first.steps, first.sampling_rate, first.delta, first.canaries) == (21, 0.1, 1e-5, 1000)
    assert 0.2 < first.noise_multiplier == second.noise_multiplier
    assert (second.steps, second.canaries) == (9, 100)
    assert third == canaries.Run()


def test_records_of_a_plan_and_distributed_noise_reach_the_audit(fedsec, asked, tmp_path):
    (tmp_path / "els.toml").write_text(PLAN + 'sampling = "record"\nmax_records = 3\n')
    (tmp_path / "shared.toml").write_text(PLAN.replace('"local"', '"distributed"'))
    assert fedsec("audit", "canaries", "els.toml").code == 0
    assert fedsec("audit", "canaries", "els.toml", "--max-records", "2").code == 0
    assert fedsec("audit", "canaries", "shared.toml").code == 0
    assert fedsec("audit", "mechanism", "--max-records", "2").code == 0
    assert [asked[0].records, asked[1].records, asked[2].sharing] == [3, 2, (3, 1)]
    assert asked[3] == Setting(records=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mechanism", "--trials", "0"), "expected from 400"),
        (("mechanism", "--confidence", "1"), "expected from 0.5"),
        (("canaries", "--steps", "0"), "expected 40 to 2000"),
        (("scores", "--held-out", "0"), "expected 20 to 10000"),
        (("canaries", "plan.toml"), "expected a plan with noise"),
    ],
)
def test_usage_ends_with_2(fedsec, tmp_path, arguments, said):
    (tmp_path / "plan.toml").write_text(PLAN.partition("[dp]")[0])
    result = fedsec("audit", *arguments)
    assert result.code == 2
    assert said in " ".join(result.err.split())


def test_a_real_audit_fits_100_columns(fedsec):
    """Nothing refutes this build: 1 - 10^-7 sure of the bounds, and four rows that cannot fall by chance."""
    result = fedsec("audit", "mechanism", "--trials", "400", "--confidence", "0.9999999")
    assert result.code == 0, result.out
    assert max(len(line) for line in result.out.splitlines()) <= 100
    assert "24 of 24 held; 6 of these show nothing" in result.out


@pytest.mark.parametrize("confidence", ["0.95", "0.99999999", str(1 - 2**-53)])
@pytest.mark.parametrize("kind", ["mechanism", "canaries"])
def test_no_audit_says_that_it_is_quite_sure(fedsec, asked, kind, confidence):
    title = fedsec("audit", kind, "--confidence", confidence, "--json").json["title"]
    assert f" {confidence} sure" in title
