"""Whole runs weighted by published scores: masked and plain, with dropouts, retries, kills and a real model."""

from __future__ import annotations

import numpy as np
import pytest

from fedsec.plan.specs import DpSpec, PrivateScore, TrainingSpec
from fedsec.site.work import LocalWork
from fedsec.training.adapter import AdapterState
from fedsec.training.replicas import Replicas
from fedsec.training.strategies import local_update
from fedsec.wire import sum_parameters, weight_rule
from fedsec_secure.errors import AbortError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.score_levels import NO_SCORE, WORST_LEVEL
from tests.e2e.federation import (
    RUN,
    ArithmeticWork,
    Federation,
    Keys,
    make_plan,
    run_once,
    tiny_base,
    tiny_examples,
    tiny_work,
)
from tests.e2e.test_dropout import Flaky, flaky

LEVELS = {"site-a": 4, "site-b": 25, "site-c": 61, "site-d": NO_SCORE, "site-e": 12}


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(len(LEVELS))


def work(name, plan) -> ArithmeticWork:
    return ArithmeticWork(name, plan, level=LEVELS[name])


def rounds(federation: Federation) -> list[dict]:
    return [e for e in federation.events if e["event"] == "round"]


def influence_plan(keys, **options):
    options = {"rule": "influence", "weighting": {"cap": 0.6}} | options
    return make_plan(keys, **options)


@pytest.mark.parametrize("mode", ["mask", "none"])
@pytest.mark.parametrize("lost", [None, "site-c"])
def test_the_adapter_is_the_weighted_average_within_the_stated_bound(tmp_path, keys, mode, lost):
    plan = influence_plan(keys, mode=mode, rounds=1)
    upload = "mask" if mode == "mask" else "plain"
    wrap = flaky({lost: Flaky(None, upload)}) if lost else lambda site, agent: agent
    with Federation(tmp_path, keys, plan, work=work, wrap=wrap) as federation:
        adapter = federation.run()
        (said,) = rounds(federation)
    weights = weight_rule(plan).weigh({SiteId(s): level for s, level in LEVELS.items()})
    assert said["weights"] == {s: w for s, w in weights.items() if s != lost}
    works = [ArithmeticWork(s, plan) for s in said["weights"]]
    initial = works[0].initial_adapter()
    updates = [local_update("fedit", initial, w.train(initial, RUN, 0, None), 0).astype(np.float64) for w in works]
    shares = list(said["weights"].values())
    mean = np.average(np.clip(updates, -0.5, 0.5), axis=0, weights=shares)
    bound = sum_parameters(plan, len(mean)).weighted(weights).error_bound(len(works), sum(shares))
    start = initial.flatten()
    ulp = np.spacing(np.abs(start) + np.abs(mean).astype(np.float32))
    assert (np.abs(adapter.flatten() - (start + mean)) <= bound + ulp).all()


def test_masked_and_plain_runs_agree_within_rounding(tmp_path, keys):
    plans = {mode: influence_plan(keys, mode=mode, rounds=1) for mode in ("mask", "none")}
    both = {mode: run_once(tmp_path / mode, keys, plan, work=work) for mode, plan in plans.items()}
    weights = weight_rule(plans["mask"]).weigh({SiteId(s): level for s, level in LEVELS.items()})
    bound = sum_parameters(plans["mask"], 1).weighted(weights).error_bound(len(LEVELS), sum(weights.values()))
    assert np.abs(both["mask"].flatten() - both["none"].flatten()).max() <= 2 * bound


def test_another_attempt_states_the_same_score_and_scores_nothing_anew(tmp_path, keys):
    lost = {s: Flaky(None, "mask", after_work=True) for s in ("site-b", "site-c")}
    plan = influence_plan(keys)
    expected = run_once(tmp_path / "calm", keys, plan, work=work)
    with Federation(tmp_path / "stormy", keys, plan, work=work, wrap=flaky(lost)) as federation:
        adapter = federation.run()
        assert [e["round"] for e in federation.events if e["event"] == "attempt-aborted"] == [0]
        assert all(len(w.scored) == plan.rounds for w in federation.works.values())
    assert adapter == expected


def test_a_site_that_comes_back_from_a_crash_states_what_it_stated(tmp_path, keys):
    """Its score was stored with its update: a work that would score otherwise is not asked again."""
    plan = influence_plan(keys, rounds=1)
    expected = run_once(tmp_path / "calm", keys, plan, work=work)
    stopped = flaky({s: Flaky(None, "share", times=99) for s in LEVELS})
    with (
        Federation(tmp_path / "killed", keys, plan, work=work, wrap=stopped) as federation,
        pytest.raises(AbortError),
    ):
        federation.run()
    (tmp_path / "killed" / "run").rename(tmp_path / "killed" / "gone")  # so does the coordinator, from nothing
    otherwise = {"work": lambda n, p: ArithmeticWork(n, p, level=0)}
    with Federation(tmp_path / "killed", keys, plan, **otherwise) as federation:
        assert federation.run() == expected
        assert all(not w.scored and not w.trained for w in federation.works.values())
    assert run_once(tmp_path / "unlike", keys, plan, **otherwise) != expected


def test_dropouts_that_make_one_site_too_heavy_end_the_attempt(tmp_path, keys):
    levels = dict(zip(LEVELS, [0, 0, 60, 60, 60], strict=True))
    plan = influence_plan(keys, rounds=1, weighting={"cap": 0.5})
    one = flaky({"site-b": Flaky(None, "mask", times=1)})
    with Federation(tmp_path, keys, plan, work=lambda n, p: ArithmeticWork(n, p, level=levels[n]), wrap=one) as f:
        f.run()
        aborted = [e for e in f.events if e["event"] == "attempt-aborted"]
        assert "one site would weigh" in aborted[0]["reason"]
        assert len(rounds(f)[0]["survivors"]) == len(levels)


def test_a_site_without_a_score_takes_part_with_the_worst_weight(tmp_path, keys):
    plan = influence_plan(keys, rounds=1, weighting={"cap": 1.0})
    with Federation(tmp_path, keys, plan, work=work) as federation:
        federation.run()
        weights = rounds(federation)[0]["weights"]
    assert weights["site-d"] == min(weights.values())


def test_size_bins_multiply(tmp_path, keys):
    weighting = {"cap": 1.0, "size_bins": {"site-c": 30}}
    plan = influence_plan(keys, rounds=1, weighting=weighting)
    with Federation(tmp_path, keys, plan, work=work) as federation:
        federation.run()
        weights = rounds(federation)[0]["weights"]
    plain = weight_rule(influence_plan(keys, weighting={"cap": 1.0})).weigh({"site-c": LEVELS["site-c"]})
    assert weights["site-c"] == 30 * plain["site-c"]


def test_scores_on_held_out_notes_are_charged_before_they_leave_and_once(tmp_path, keys):
    private = PrivateScore(noise_multiplier=8.0, expected_units=20)
    dp = DpSpec(mode="local", unit="record", target_epsilon=8.0, sampling_rate=0.5, steps=2)
    plan = influence_plan(keys, dp=dp, weighting={"validation": None, "private": private, "cap": 0.6})
    lost = {s: Flaky(None, "mask", after_work=True) for s in ("site-b", "site-c")}
    with Federation(tmp_path, keys, plan, work=work, wrap=flaky(lost)) as federation:
        federation.run()
        for ledger in federation.ledgers.values():
            charged = [(r.charge.purpose, r.charge.round) for r in ledger.history()]
            assert sorted(charged) == [("score", 0), ("score", 1), ("update", 0), ("update", 1)]
        assert all(len(w.scored) == plan.rounds for w in federation.works.values())


class TestRealLearning:
    """The tiny model, trained and scored for real."""

    TRAINING = TrainingSpec(epochs=1, examples_per_round=4, learning_rate=5e-2, threads=1)

    def plan(self, keys, **options):
        return influence_plan(keys, rounds=1, weights_sha256=tiny_base().weights_sha256, **options)

    def test_the_level_is_of_the_sites_own_adapted_model(self, keys):
        plan = self.plan(keys, training=self.TRAINING)
        shared = tiny_examples("shared", 5)
        one = LocalWork("site-a", plan, Replicas(tiny_base()), tiny_examples("site-a", 6), validation=shared)
        first = one.initial_adapter()
        moved = AdapterState({n: t + np.float32(0.5) for n, t in first.items()})
        assert one.score(first) == WORST_LEVEL  # 49152 tokens by chance: some eleven nats
        assert one.score(moved) in (*range(WORST_LEVEL + 1), NO_SCORE)
        uniform = LocalWork("site-a", make_plan(keys), Replicas(tiny_base()), tiny_examples("site-a", 6))
        assert uniform.score(first) is None

    @pytest.mark.parametrize("private", [False, True])
    def test_a_run(self, tmp_path, keys, private):
        dp = DpSpec(mode="local", unit="record", target_epsilon=8.0, sampling_rate=0.5, steps=2) if private else None
        plan = self.plan(keys, training=self.TRAINING, dp=dp)

        def scoring(name, plan):
            made = tiny_work(name, plan)
            made.validation = tiny_examples("shared", 5)
            return made

        with Federation(tmp_path, keys, plan, work=scoring) as federation:
            federation.run()
            assert set(rounds(federation)[0]["weights"]) == set(LEVELS)
