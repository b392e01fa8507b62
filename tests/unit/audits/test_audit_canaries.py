"""One run with canaries: what holds on this build, what leaks where nothing hides it, and whose numbers are used.

On a correct build a bound above epsilon is impossible here: the most that so few canaries show is below it, or the
confidence is 1 - 10^-7.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from fedsec.audits import canaries
from fedsec.audits.canaries import Run, audit, of_plan, text_canaries
from fedsec.audits.one_run import ceiling
from fedsec.audits.setting import Setting
from fedsec.plan.cost import cost, with_noise
from fedsec.plan.model import Draft
from fedsec.plan.specs import DpSpec, EvaluationSpec, ModelSpec, PrivateScore, TaskSpec, WeightingSpec
from fedsec.training.private.mechanism import MATES, NoisySum
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.discrete_gaussian import DiscreteGaussian

SHORT = Run(steps=10, canaries=200, noise_multiplier=1.0)


def test_this_build_holds_and_the_controls_leak():
    told = set()
    rows = audit(SHORT, lambda what, done, total: told.add((what, done == total)))
    assert ceiling(200, 1e-5, 0.05) < SHORT.theory
    assert [row.held for row in rows] == [True] * 4
    for row in rows[:2]:
        assert 0 <= row.numbers["lower_bound"] <= row.numbers["most"] < row.numbers["theory"] == SHORT.theory
    for row in rows[2:]:
        assert row.numbers["lower_bound"] >= row.numbers["most"] / 2
    assert len({what for what, ended in told if ended}) == 4


def test_an_audit_that_sees_nothing_is_betrayed_by_its_controls(monkeypatch):
    """An auditor whose scores are the same for all canaries: the rows that promise hold, as anything would."""
    tossed = []

    def blind(base, run, coins, *_, **kind):
        tossed.append(coins.tobytes())
        return np.zeros(len(coins))

    monkeypatch.setattr(canaries, "_gradient_scores", blind)
    monkeypatch.setattr(canaries, "_text_scores", blind)
    assert [row.held for row in audit(SHORT)] == [True, True, False, False]
    assert [row.held for row in audit(replace(SHORT, sharing=(3, 1)))] == [True, False]
    assert len(set(tossed)) == len(tossed) == 6, "200 coins, of the operating system, for each training"


def test_a_row_that_no_number_of_right_guesses_could_refute_shows_nothing():
    """An epsilon of 8 and 40 canaries, which show 2.1 at most, however much leaks."""
    found = canaries.from_scores(np.arange(40.0), np.arange(40) >= 20, 1e-5, 0.05)
    for theory, shows in ((8.0, False), (found.epsilon, False), (1.0, True)):
        row = canaries._private("", found, theory, found.epsilon)
        assert (row.shows, row.held) == (shows, theory >= found.epsilon)
    assert [row.shows for row in audit(replace(SHORT, canaries=40, steps=2))] == [False, False, True, True]


@pytest.mark.parametrize("delta", [0.003, 0.05])
def test_a_delta_at_which_no_guess_proves_anything_is_refused(delta):
    """With a ceiling of 0 a control "leaks ε ≥ 0.00" whatever it does."""
    assert ceiling(256, delta, 0.05) == 0
    with pytest.raises(ConfigError, match="audit at a smaller --delta"):
        audit(replace(SHORT, delta=delta))


def test_a_run_without_noise_is_refuted(monkeypatch):
    monkeypatch.setattr(NoisySum, "release", lambda self, total: dict(total))
    run = Run(steps=10, canaries=400, noise_multiplier=4.0)
    assert run.theory < ceiling(400, 1e-5, 0.05)
    coins = np.arange(400) % 2 == 1
    scores = canaries._gradient_scores(canaries.tiny_base(), run, coins, "", canaries.unseen)
    found = canaries.from_scores(scores, coins, 1e-5, 0.05)
    assert found.epsilon > run.theory
    assert not canaries._private("", found, run.theory, 9.0).held


@pytest.mark.parametrize("records", [1, 3])
def test_the_scores_of_gradient_canaries_are_the_sums_of_their_coordinates(monkeypatch, records):
    """Of a patient's records as many are used as the plan says, though there are twice as many."""
    monkeypatch.setattr(NoisySum, "release", lambda self, total: dict(total))
    coins = np.array([True, False, True, True, False])
    run = Run(sampling_rate=1.0, steps=3, records=records)
    scores = canaries._gradient_scores(canaries.tiny_base(), run, coins, "", canaries.unseen)
    assert scores == pytest.approx(3.0 * records * coins, abs=1e-4)


@pytest.mark.parametrize("records", [1, 3])
def test_the_same_where_sites_share_the_noise(monkeypatch, records):
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, size: np.zeros(size, np.int64))
    coins = np.array([True, False, True, True, False])
    run = Run(sampling_rate=1.0, steps=3, records=records, sharing=(3, 1))
    scores = canaries._gradient_scores(canaries.tiny_base(), run, coins, "", canaries.unseen)
    assert scores == pytest.approx(3.0 * records * coins, abs=1e-4)


def test_shared_noise_holds_and_its_control_leaks():
    private, control = audit(replace(SHORT, sharing=(3, 1)))
    assert private.held
    assert private.numbers["most"] < private.numbers["theory"] == SHORT.theory
    assert control.held


def test_shared_steps_without_noise_are_refuted(monkeypatch):
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, size: np.zeros(size, np.int64))
    run = Run(steps=10, canaries=400, noise_multiplier=4.0, sharing=(3, 1))
    assert run.theory < ceiling(400, 1e-5, 0.05)
    assert not audit(run)[0].held


def test_sampled_records_hold():
    rows = audit(replace(SHORT, records=2, sampling_rate=0.25, canaries=100))
    assert [row.held for row in rows] == [True] * 4
    assert max(row.numbers["most"] for row in rows[:2]) < rows[0].numbers["theory"]


def draft(**changes) -> Draft:
    dp = changes.pop("dp")
    return Draft(
        name="audited", rounds=3, model=ModelSpec(base="tiny-random", dtype="float32"),
        task=TaskSpec(kind="entities", entity_types=("Drug",)), dp=DpSpec(**dp), **changes,
    )  # fmt: skip


LOCAL = {"mode": "local", "target_epsilon": 6.0, "target_delta": 1e-6, "sampling_rate": 0.1, "steps": 7}
ELS = LOCAL | {"sampling": "record", "max_records": 5, "target_epsilon": 3.0}
SHARED = LOCAL | {"mode": "distributed"}
SCORED = WeightingSpec(rule="influence", private=PrivateScore(noise_multiplier=20.0, expected_units=40))


@pytest.mark.parametrize(
    ("changes", "steps", "records"),
    [
        ({"dp": LOCAL}, 21, 1),
        ({"dp": ELS}, 21, 5),
        ({"dp": LOCAL | {"unit": "record"}}, 21, 1),
        ({"dp": LOCAL, "evaluation": EvaluationSpec(baselines=("single",))}, 35, 1),
        ({"dp": ELS, "weighting": SCORED}, 21, 5),
        ({"dp": SHARED}, 3, 1),
        ({"dp": SHARED | {"sampling": "record", "max_records": 3}}, 3, 3),
    ],
)
def test_a_plan_s_run_has_its_numbers_and_the_epsilon_that_it_reports(changes, steps, records):
    plan = with_noise(draft(**changes))
    run = of_plan(plan)
    assert (run.steps, run.sampling_rate, run.delta, run.records) == (steps, 0.1, 1e-6, records)
    assert run.noise_multiplier == plan.dp.noise_multiplier
    assert run.theory == pytest.approx(cost(plan).epsilon, abs=1e-6)
    assert run.sharing == ((3, 1) if plan.dp.mode == "distributed" else None)


def test_a_patient_s_records_cost_more_than_one():
    """What the audit of a plan with sampled records said once: the epsilon of one record."""
    run = of_plan(with_noise(draft(dp=ELS)))
    assert run.theory > 3 * replace(run, records=1).theory


@pytest.mark.parametrize("dp", [{}, {"mode": "local", "target_epsilon": 2.0}])
def test_a_plan_without_noise_is_refused(dp):
    with pytest.raises(ConfigError, match=r"expected a plan with noise"):
        of_plan(draft(dp=dp))


@pytest.mark.parametrize(
    "wrong",
    [
        {"canaries": 39},
        {"canaries": 2001},
        {"steps": 0},
        {"noise_multiplier": 0.0},
        {"delta": 1.0},
        {"confidence": 1.0},
        {"records": 0},
        {"records": 257, "sampling_rate": 0.001},
        {"records": 30},
    ],
)
def test_runs_that_cannot_be_audited_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        Run(**wrong)


def test_text_canaries_differ_and_are_always_the_same():
    found = text_canaries(256)
    assert found == text_canaries(256)
    assert len({(c.prompt, c.answer) for c in found}) == 256
    assert len({c.patient_id for c in found}) == 256


def test_a_step_never_draws_more_units_than_its_bounds_hold_for():
    """Without this, a high rate would be refused by the loop in some runs."""
    for rate, records in ((0.01, 1), (0.5, 1), (0.9, 1), (1.0, 1), (0.05, 100), (1.0, 12)):
        included = Run(canaries=2000, sampling_rate=rate, records=records).count / 2
        assert included >= 20
        assert (included + 5 * math.sqrt(included / 2)) * rate * records <= MATES / 2
    assert Setting().confidence > Run().confidence
