"""The policy's numbered checks: each refuses its own kind of excess, and only that."""

import datetime
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.plan.policy import Policy, PrivacyBudget, draft_policy, worst_effective_cohort
from fedsec.plan.policy_checks import check_plan, check_signatures
from fedsec.plan.specs import (
    DpSpec,
    EvaluationSpec,
    LoraSpec,
    ModelSpec,
    PrivateScore,
    SecureSpec,
    TrainingSpec,
    ValidationSet,
    WeightingSpec,
)
from fedsec_secure.errors import ConfigError, LocalMisuseError

from .conftest import END, NOW

SIZE = WeightingSpec(rule="size", count_min=100, count_max=250)
DP = DpSpec(mode="local", unit="patient", target_epsilon=2.0, target_delta=1e-5)
BUDGET = PrivacyBudget(unit="patient", max_epsilon=2.0, max_delta=1e-5)
WARD = PrivacyBudget(unit="patient", max_epsilon=2.0, max_delta=1e-5, population="ward")
ALONE = TrainingSpec(batch_size=1)


def numbers(policy, plan, now=NOW, history=()):
    return [v.number for v in check_plan(policy, plan, now, history)]


def test_the_tightest_policy_allows_its_plan(world):
    for changes in ({}, {"weighting": SIZE}, {"evaluation": EvaluationSpec(baselines=("single", "central"))}):
        plan = world.plan(**changes)
        assert numbers(draft_policy(plan, END), plan) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"secure": SecureSpec(mode="none", threshold=4, minimum_cohort=4)}, [3]),
        ({"secure": SecureSpec(mode="he", minimum_cohort=4)}, [3]),
        ({"weighting": SIZE}, [5, 7]),
        ({"weighting": WeightingSpec(cap=0.6)}, [6]),
        ({"model": ModelSpec(base="tiny-random", weights_sha256="cd" * 32)}, [8]),
        ({"lora": LoraSpec(targets=("q_proj", "gate_proj"))}, [9]),
        ({"lora": LoraSpec(rank=17)}, [10]),
        ({"rounds": 3}, [11]),
        ({"dp": DP, "training": ALONE}, [12, 13]),
        ({"evaluation": EvaluationSpec(baselines=("single",))}, [14]),
    ],
)
def test_a_plan_beyond_the_tightest_policy_breaks_exactly_these_checks(world, changes, expected):
    violations = check_plan(world.policy(), world.plan(**changes), NOW)
    assert [v.number for v in violations] == expected
    for v in violations:
        assert v.expected
        assert v.found
        assert v.fix
        assert f"policy check {v.number}: expected " in str(v)


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 1},
        {"lora": LoraSpec(rank=8)},
        {"lora": LoraSpec(targets=("q_proj",))},
        {"secure": SecureSpec(threshold=5)},
        {"weighting": WeightingSpec(cap=0.3)},
    ],
)
def test_a_tighter_plan_passes(world, changes):
    assert numbers(world.policy(), world.plan(**changes)) == []


def test_cohort_and_effective_cohort_are_floors(world):
    assert numbers(world.policy(minimum_cohort=5), world.plan()) == [4]
    assert numbers(world.policy(minimum_effective_cohort=4.001), world.plan()) == [7]


def test_expiry_is_a_hard_end(world):
    policy, second = world.policy(), datetime.timedelta(seconds=1)
    assert numbers(policy, world.plan(), END - second) == []
    assert numbers(policy, world.plan(), END) == [2]
    with pytest.raises(LocalMisuseError):
        check_plan(policy, world.plan(), datetime.datetime(2026, 3, 1))


@pytest.mark.parametrize(
    ("dp", "policy", "expected"),
    [
        (DP, {"dp_modes": ("local",), "budgets": (BUDGET,)}, []),
        (DP, {"dp_modes": ("local",)}, [13]),
        (DP, {"dp_modes": ("local",), "budgets": (BUDGET.model_copy(update={"max_epsilon": 1.9}),)}, [13]),
        (DP, {"dp_modes": ("local",), "budgets": (BUDGET.model_copy(update={"max_delta": 1e-6}),)}, [13]),
        (DP, {"dp_modes": ("local",), "budgets": (BUDGET.model_copy(update={"unit": "record"}),)}, [13]),
        (DP, {"dp_modes": ("local",), "budgets": (WARD,)}, []),  # which line counts is the ledger's to say
        (DpSpec(), {"dp_modes": ("local",), "budgets": (BUDGET,)}, [12]),
    ],
)
def test_privacy_demands(world, dp, policy, expected):
    assert numbers(world.policy(**policy), world.plan(dp=dp, training=ALONE)) == expected


def test_noise_that_does_not_keep_the_promise_is_refused(world):
    plan = world.plan(dp=DP, training=ALONE)
    assert plan.dp.noise_multiplier is not None
    assert plan.dp.target_delta == 1e-5
    policy = world.policy(dp_modes=("local",), budgets=(BUDGET,))
    for less in (0.999 * plan.dp.noise_multiplier, 0.125):
        quiet = plan.model_copy(update={"dp": plan.dp.model_copy(update={"noise_multiplier": less})})
        assert numbers(policy, quiet) == [19]
    louder = plan.model_copy(update={"dp": plan.dp.model_copy(update={"noise_multiplier": 9.0})})
    assert numbers(policy, louder) == []
    with pytest.raises(ConfigError, match=r"expected noise that keeps epsilon 2, found noise multiplier 0\.5"):
        world.plan(dp=DP.model_copy(update={"noise_multiplier": 0.5}), training=ALONE)


def test_all_studies_together_may_charge_no_less_than_one():
    assert BUDGET.total == 2.0
    assert PrivacyBudget(unit="patient", max_epsilon=2.0, max_delta=1e-5, total_epsilon=6.0).total == 6.0
    with pytest.raises(ValueError, match="below max_epsilon 2"):
        PrivacyBudget(unit="patient", max_epsilon=2.0, max_delta=1e-5, total_epsilon=1.0)


def test_a_data_set_has_one_line_a_unit(world):
    policy = world.policy(budgets=(BUDGET, WARD))
    assert policy.budget("patient", "ward") == WARD
    assert policy.budget("patient", "clinic") == BUDGET
    assert policy.budget("record", "ward") is None
    with pytest.raises(ValueError, match="two lines for one unit of one population"):
        world.policy(budgets=(WARD, WARD))


def test_rosters_that_differ_by_one_site_are_refused(world):
    now = frozenset(s.key for s in world.roster.sites.values())
    one_less, two_less = now - {min(now)}, now - set(sorted(now)[:2])
    assert numbers(world.policy(), world.plan(), history=[now]) == []
    assert numbers(world.policy(), world.plan(), history=[two_less]) == []
    assert numbers(world.policy(), world.plan(), history=[now, one_less]) == [15]
    assert numbers(world.policy(min_cohort_change=3), world.plan(), history=[two_less]) == [15, 16]


def test_a_plan_that_lets_sums_differ_by_fewer_sites_is_refused(world):
    assert numbers(world.policy(min_cohort_change=3), world.plan()) == [16]
    wider = world.plan(secure=world.draft.secure.model_copy(update={"min_cohort_change": 3}))
    assert numbers(world.policy(min_cohort_change=3), wider) == []
    assert draft_policy(wider, END).min_cohort_change == 3


@pytest.mark.parametrize(("required", "signed", "enough"), [(1, 1, True), (2, 1, False), (2, 2, True), (2, 3, True)])
def test_signatures_are_counted(world, required, signed, enough):
    violation = check_signatures(world.policy(approvals_required=required), signed)
    assert (violation is None) == enough
    assert violation is None or (violation.number, violation.found) == (18, "1")


@given(
    low=st.integers(1, 50), spread=st.integers(0, 200), quorum=st.integers(3, 5), more=st.integers(0, 2), data=st.data()
)
def test_no_counts_within_the_bounds_go_below_the_worst_effective_cohort(world, low, spread, quorum, more, data):
    weighting = WeightingSpec(rule="size", count_min=low, count_max=low + spread, cap=1.0)
    draft = world.draft.model_copy(update={"secure": SecureSpec(threshold=quorum), "weighting": weighting})
    counts = data.draw(st.lists(st.integers(low, low + spread), min_size=quorum + more, max_size=quorum + more))
    assert sum(counts) ** 2 >= worst_effective_cohort(draft) * sum(c * c for c in counts)


def test_the_worst_effective_cohort_is_reached_at_the_corners(world):
    draft = world.draft.model_copy(update={"weighting": SIZE})
    corners = (sum(c) ** 2 / sum(x * x for x in c) for c in product((100, 250), repeat=4))
    assert float(worst_effective_cohort(draft)) == pytest.approx(min(corners))
    assert worst_effective_cohort(world.draft) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"modes": ()},
        {"modes": ("mask", "mask")},
        {"modes": ("plain",)},
        {"unknown": 1},
        {"budgets": (BUDGET, BUDGET)},
        {"expires": datetime.datetime(2026, 6, 1)},
        {"expires": datetime.datetime(2026, 6, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))},
        {"expires": datetime.datetime(2026, 6, 1, 0, 0, 0, 1, tzinfo=datetime.UTC)},
        {"minimum_effective_cohort": float("nan")},
        {"approvals_required": 0},
        {"approvals_required": 65},
    ],
)
def test_a_policy_is_strict(world, changes):
    with pytest.raises(ValueError):
        Policy(**{**dict(world.policy()), **changes})


def test_weights_are_drawn_from_enough_examples(world):
    shared = ValidationSet(name="shared", sha256="ab" * 32, examples=7, entity_types=("Drug",))
    plan = world.plan(weighting=WeightingSpec(rule="influence", validation=shared))
    policy = world.policy(weight_rules=("influence",), minimum_effective_cohort=2.0)
    assert numbers(policy, plan) == []
    assert numbers(policy.model_copy(update={"minimum_validation": 8}), plan) == [22]
    assert draft_policy(plan, END).minimum_validation == 7


def test_what_the_plan_refuses_bounds_the_effective_cohort_of_scores(world):
    shared = ValidationSet(name="shared", sha256="ab" * 32, examples=7, entity_types=("Drug",))
    loose = world.plan(weighting=WeightingSpec(rule="influence", validation=shared, cap=0.4))
    assert worst_effective_cohort(loose) == Fraction(5, 2)
    tight = world.plan(weighting=WeightingSpec(rule="influence", validation=shared, cap=0.4, effective_cohort=3.5))
    assert worst_effective_cohort(tight) == Fraction(7, 2)
    policy = world.policy(weight_rules=("influence",), minimum_effective_cohort=3.0)
    assert numbers(policy, loose) == [7]
    assert numbers(policy, tight) == []


def test_held_out_notes_have_to_be_enough_as_well(world):
    private = PrivateScore(noise_multiplier=20.0, expected_units=7)
    plan = world.plan(weighting=WeightingSpec(rule="influence", private=private), dp=DP, training=ALONE)
    policy = world.policy(weight_rules=("influence",), minimum_effective_cohort=2.0, dp_modes=("local",))
    policy = policy.model_copy(update={"budgets": (BUDGET,)})
    assert numbers(policy, plan) == []
    assert numbers(policy.model_copy(update={"minimum_validation": 8}), plan) == [22]
    assert draft_policy(plan, END).minimum_validation == 7
