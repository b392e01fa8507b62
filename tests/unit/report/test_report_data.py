"""What the report's numbers and answers are, before anything is drawn."""

import dataclasses
import json
import re

import pytest

from fedsec.plan.explain import explain
from fedsec.plan.explain_secure import colluders_needed
from fedsec.plan.specs import DpSpec, EvaluationSpec, TrainingSpec
from fedsec.plan.statement import count_in_words
from fedsec.report.protection import protection
from fedsec.report.rounds import Aborted, Refusal, ending, refusals, rounds, total_bytes
from fedsec.report.scoring import kind_report, learning_curve
from fedsec.report.words import summary
from fedsec.study.results import FEDERATED, Results
from fedsec_secure.errors import ConfigError
from fedsec_secure.record.entries import RefusalEntry, RoundStartedEntry, SurvivorsEntry
from tests.e2e.federation import RUN, Keys, make_plan
from tests.unit.report.report_pages import real, results, scores

PLAN = make_plan(Keys.generate(5))
ZERO = "0" * 64


def column(plan, what: str) -> list[str]:
    """The answers of one row of the table, from left to right."""
    (row,) = (row for row in protection(plan).rows if what in row.what)
    return [cell.level for cell in row.cells]


@pytest.mark.parametrize("sites", range(3, 11))
def test_the_number_of_colluders_is_the_one_that_officers_read_before_signing(sites):
    plan = make_plan(Keys.generate(sites))
    (sentence,) = (s.text for s in explain(plan) if s.topic == "collusion" and "threshold" in s.text)
    assert f"together with {count_in_words(colluders_needed(plan, len(plan.roster.sites)))} of them" in sentence
    assert (
        f"up to {count_in_words(colluders_needed(plan, len(plan.roster.sites)) - 1)} site"
        in protection(plan).columns[1]
    )


def test_masks_hide_an_update_and_open_sums_do_not():
    assert column(PLAN, "update of a round")[:3] == ["part", "part", "no"]  # two sums may differ by one site here
    masked = make_plan(Keys.generate(5), change=2)
    assert column(masked, "update of a round") == ["no"] * 5
    in_the_open = make_plan(Keys.generate(5), mode="none", change=2)
    assert column(in_the_open, "update of a round") == ["yes", "yes", "no", "no", "part"]
    assert "rebuilt" in protection(in_the_open).rows[0].cells[0].text


@pytest.mark.parametrize("mode", ["none", "he"])
def test_noise_bounds_what_an_update_that_is_seen_tells(mode):
    dp = DpSpec(mode="local", target_epsilon=8.0, target_delta=1e-5, noise_multiplier=1.0, unit="record")
    plan = make_plan(Keys.generate(5), mode=mode, dp=dp)
    few = {row.what: row.cells[1].text for row in protection(plan).rows}
    bound = ", within ε ≤ 8 for one record"
    assert f"rebuilt from the updates{bound}" in few["A site’s notes and labels"]
    assert few["One site’s update of a round"].endswith(f"reconstructed from it{bound}.")
    assert f"rebuild notes from it{bound}." in summary(dataclasses.replace(real(), plan=plan))[1]


@pytest.mark.parametrize(("ahead", "when"), [(1, "round"), (8, "batch of rounds")])
def test_uploads_stay_until_the_keys_of_their_rounds_are_used_up(ahead, when):
    dp = {"target_epsilon": 8.0, "target_delta": 1e-5, "noise_multiplier": 1.0, "dimension": 64, "keys_ahead": ahead}
    plan = make_plan(Keys.generate(5), dp=DpSpec(mode="distributed", **dp))
    (row,) = (row for row in protection(plan).rows if row.what == "One site’s update of a round")
    assert row.cells[-1].text == f"Masked uploads are deleted after each {when}."


def test_notes_are_never_said_to_be_safe_from_who_has_the_adapter():
    assert set(column(PLAN, "notes")) == {"part"}
    pooled = make_plan(Keys.generate(5), evaluation=EvaluationSpec(baselines=("central",)))
    assert column(pooled, "notes") == ["yes", "yes", "part", "part", "part"]


def test_counts_and_scores_follow_the_plan():
    assert column(PLAN, "How many examples") == ["no"] * 5
    assert column(make_plan(Keys.generate(5), rule="size"), "How many examples") == ["no"] * 5
    every = TrainingSpec(epochs=1, learning_rate=1e-3, threads=1)
    timed = make_plan(Keys.generate(5), rule="size", training=every)
    assert column(timed, "How many examples") == ["part", "part", "no", "no", "part"]
    in_the_open = make_plan(Keys.generate(5), rule="size", mode="none")
    assert column(in_the_open, "How many examples")[:2] == ["yes", "yes"]
    assert column(PLAN, "own model") == ["no"] * 5
    single = make_plan(Keys.generate(5), evaluation=EvaluationSpec(baselines=("single",)))
    assert column(single, "own model") == ["known", "known", "no", "no", "known"]


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_private_training_takes_the_longer_the_more_examples_there_are(mode):
    dp = DpSpec(mode=mode, target_epsilon=8.0, dimension=64 if mode == "distributed" else None)
    plan = make_plan(Keys.generate(5), strategy="ffa", dp=dp)
    assert plan.training.examples_per_round is not None  # which private steps do not heed
    assert column(plan, "How many examples") == ["part", "part", "no", "no", "part"]


def test_what_epsilon_bounds_is_said_by_mode():
    def said(dp) -> str:
        return summary(dataclasses.replace(real(), plan=make_plan(Keys.generate(5), strategy="ffa", dp=dp)))[2]

    assert "at every site bounds what its releases tell" in said(DpSpec(mode="local", target_epsilon=8.0))
    shared = said(DpSpec(mode="distributed", target_epsilon=8.0, dimension=64, colluders=2))
    assert "its releases" not in shared, "one site's upload has a share of the noise only"
    assert "of the sums bounds what they" in shared
    assert "to two sites in league" in shared


def test_encrypted_sums_are_not_the_coordinators_to_read_until_a_site_helps():
    plan = make_plan(Keys.generate(5), rule="size", mode="he-mask", change=2)
    assert column(plan, "sum of all")[:3] == ["no", "known", "known"]
    assert column(plan, "finished adapter")[:3] == ["no", "known", "known"]
    assert column(plan, "notes and labels")[:2] == ["no", "part"]
    assert column(plan, "update of a round") == ["no"] * 5
    assert column(plan, "How many examples")[:2] == ["no", "no"]
    (row,) = (r for r in protection(plan).rows if "How many examples" in r.what)
    assert "not even the total" in row.cells[0].text


def test_under_a_shared_key_one_site_is_enough():
    plan = make_plan(Keys.generate(5), rule="size", mode="he", change=2)
    assert protection(plan).columns[1] == "the coordinator with one site"
    assert column(plan, "update of a round")[:3] == ["no", "yes", "part"]
    assert column(plan, "sum of all")[:3] == ["no", "known", "known"]
    assert column(plan, "finished adapter")[:2] == ["no", "known"]
    assert column(plan, "How many examples")[:2] == ["no", "yes"]
    assert column(plan, "notes and labels")[:2] == ["no", "part"]


# ---- rounds


def exchange(number: int, name: str, seconds: float, up: int, down: int, site: str = "site-a"):
    size = {"bytes_up": {site: up}, "bytes_down": {site: down}}
    return {
        "event": "exchange",
        "round": number,
        "exchange": name,
        "seconds": seconds,
        "lost": {},
        "attempt": 0,
        **size,
    }


def over(number: int, survivors: list[str]):
    return {"event": "round", "round": number, "survivors": survivors, "adapter": ZERO, "seconds": 9.0}


def started(number: int, attempt: int = 0):
    return RoundStartedEntry(run=RUN, round=number, attempt=attempt, context_sha256=ZERO)


def test_a_round_adds_up_what_its_exchanges_took():
    events = [
        exchange(0, "train", 5.0, 10, 1000),
        exchange(0, "mask", 1.0, 500, 20),
        exchange(0, "mask", 0.0, 400, 20, "site-b"),
        exchange(0, "witness", 0.5, 7, 3),
        over(0, ["site-a", "site-b", "site-c", "site-d"]),
        exchange(2, "baseline", 2.0, 60, 1),
    ]
    logged = SurvivorsEntry(run=RUN, round=0, sites=("site-a", "site-b", "site-c"), uploads_sha256=ZERO)
    (found,) = rounds(PLAN, [started(0), started(0, 1), logged], events, {0: ("site-a",)})
    assert (found.number, found.attempts, found.verified_by) == (1, 2, ("site-a",))
    assert found.sites == ("site-a", "site-b", "site-c")  # the signed log, not what the coordinator noted beside it
    assert found.away == ("site-d", "site-e")
    t = found.traffic
    assert (t.sent, t.received, t.training, t.summing, t.log, t.seconds) == (517, 1023, 5.0, 1.0, 0.5, 6.5)
    end = ending(PLAN, events)
    assert end is not None
    assert (end.sent, end.seconds) == (60, 2.0)
    assert ending(PLAN, events[:4]) is None
    assert total_bytes(events) == (577, 1024)


def test_every_refusal_is_there_once_in_its_round():
    entries = [
        started(0),
        RefusalEntry(site="site-b", exchange="train", reason="no approval"),
        started(1),
        RefusalEntry(site="site-b", exchange="train", reason="no approval"),
    ]

    def lost(number: int, name: str, site: str, why: str, event: str = "lost"):
        return {"event": event, "round": number, "exchange": name, "sites": {site: why}}

    events = [
        lost(0, "train", "site-b", "no approval"),
        lost(1, "train", "site-b", "no approval", "refused"),
        lost(0, "witness", "site-d", "not now"),
        lost(2, "witness", "site-c", "another\nhistory"),
        lost(2, "witness", "site-c", "another\nhistory"),  # a resumed run notes it again
        {"event": "attempt-aborted", "round": 1, "attempt": 0, "reason": "too few"},
    ]
    found, given_up = refusals(PLAN, entries, events)
    assert found == (
        Refusal(1, "site-b", "training", "no approval", True),
        Refusal(1, "site-d", "signing the log", "not now", False),
        Refusal(2, "site-b", "training", "no approval", True),
        Refusal(3, "site-c", "signing the log", "another history", False),
    )
    assert given_up == (Aborted(2, 1, "too few"),)
    unsigned, _ = refusals(PLAN, (), events)
    assert [r.in_log for r in unsigned] == [False] * 4


def test_metrics_that_are_not_as_written_are_refused():
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: a line of exchange .*\(seconds\)"):
        total_bytes([{**exchange(0, "train", 1.0, 1, 1), "seconds": "<b>"}])
    with pytest.raises(ConfigError, match="scores between rounds"):
        learning_curve([{"event": "scored", "round": 0, "f1": {"harbour": {"losses": 0.5}}}], "entities")


# ---- scores


def test_the_weakest_site_is_marked_and_compared_on_the_same_examples():
    report = kind_report(results(), "entities")
    assert report is not None
    by_test = {row.test: row for row in report.fair}
    assert [row.test for row in report.fair if row.weakest] == ["harbour"]
    clifton = by_test["clifton"]
    assert clifton.federated == pytest.approx(12 / 16)
    assert clifton.alone == 1.0
    assert clifton.gain is not None
    assert clifton.gain.high < 0
    assert report.best_alone == "clifton"


def test_alone_on_fewer_examples_is_compared_on_those():
    together, alone = scores(5), scores(10, first=5)  # alone answers the five that together gets wrong
    report = kind_report(
        Results(scores={FEDERATED: {"harbour": together}, "single:harbour": {"harbour": alone}}), "entities"
    )
    assert report is not None
    (row,) = report.fair
    assert (row.examples, row.alone_examples) == (10, 5)
    assert row.gain is not None
    assert row.gain.difference == -1.0


def test_equal_scores_have_no_weakest_and_a_test_set_without_a_site_has_no_alone():
    report = kind_report(Results(scores={FEDERATED: {"harbour": scores(5), "public": scores(5)}}), "entities")
    assert report is not None
    assert not any(row.weakest for row in report.fair)
    assert [row.gain for row in report.fair] == [None, None]
    assert kind_report(results(), "relations") is None


def test_the_curve_keeps_the_newest_score_of_a_round():
    def scored(number, value):
        return {"event": "scored", "round": number, "f1": {"harbour": {"entities": value}}}

    events = [scored(1, 0.4), scored(0, 0.1), {"event": "finished"}, scored(1, 0.5)]
    assert learning_curve(events, "entities") == {"harbour": [(1, 0.1), (2, 0.5)]}
    assert learning_curve(events, "relations") == {}


def test_a_real_run_is_gathered_from_its_folder_alone():
    data = real()
    sites = set(data.plan.roster.sites)
    assert data.certified is not None
    assert {row.site for row in data.allowed} == {row.site for row in data.budgets} == sites
    assert all(len(words.split()) == 12 for row in data.allowed for words in row.words)
    assert [r.number for r in data.rounds] == [1, 2]
    assert all(set(r.sites) == set(r.verified_by) == sites for r in data.rounds)
    assert data.refusals == data.aborted == ()
    assert all(row.attested and row.releases > 0 and row.after == float("inf") for row in data.budgets)
    assert re.fullmatch(r"[0-9a-f]{64}", data.certified.digest)
    assert json.dumps(list(data.curves)) == "[]"


def test_shares_of_a_round_follow_from_its_public_weights():
    plan = make_plan(Keys.generate(5), rule="influence")
    weights = {"site-a": 6, "site-b": 2, "site-c": 2}
    said = {"event": "round", "round": 0, "survivors": list(weights), "seconds": 1.0, "weights": weights}
    (row,) = rounds(plan, [], [said], {})
    assert row.shares == {"site-a": 0.6, "site-b": 0.2, "site-c": 0.2}
    assert row.worth == pytest.approx(1 / (0.36 + 0.04 + 0.04))
    (plain,) = rounds(PLAN, [], [said], {})
    assert plain.shares == {}
    (older,) = rounds(plan, [], [{k: v for k, v in said.items() if k != "weights"}], {})
    assert older.shares == {}
