"""A policy in words: each rule by number, and sentences that change with the policy."""

import datetime

import pytest

from fedsec.plan.policy import Policy, PrivacyBudget, draft_policy
from fedsec.plan.policy_checks import PLAN_CHECKS, RUNS, check_signatures
from fedsec.plan.policy_words import FIXED, RULES, describe, rules
from fedsec.plan.specs import LoraSpec

from .conftest import END, NOW


@pytest.fixture
def policy(world) -> Policy:
    return draft_policy(world.plan(), END)


def texts(policy: Policy, level: str, now=NOW) -> str:
    return " ".join(s.text for s in describe(policy, now) if s.level == level)


def test_there_is_a_rule_for_every_numbered_check(policy):
    assert {*PLAN_CHECKS, RUNS, check_signatures(policy, 0).number} == set(range(1, len(RULES) + 1))
    assert [RULES[n - 1][0] for n in (RUNS, check_signatures(policy, 0).number)] == ["runs", "officers"]
    assert {field for _, _, field in RULES if field} | {"format"} == set(Policy.model_fields)
    assert [r.number for r in rules(policy)] == list(range(1, len(RULES) + 1))
    assert all(r.says for r in rules(policy))


def test_a_plan_beyond_the_policy_is_named_at_its_rule(world, policy):
    assert not [r for r in rules(policy, world.plan(), NOW) if r.violation]
    (broken,) = (r for r in rules(policy, world.plan(lora=LoraSpec(rank=17)), NOW) if r.violation)
    assert (broken.number, broken.name) == (10, "rank")
    assert "found 17" in broken.violation
    assert [r.number for r in rules(policy, world.plan(), END) if r.violation] == [2]


def test_an_expired_policy_and_one_without_a_budget_let_nothing_run(policy):
    assert "nothing runs under it" in texts(policy, "refused", END)
    private = policy.model_copy(update={"dp_modes": ("local",), "budgets": ()})
    assert "every such plan is refused" in texts(private, "refused")
    paid = private.model_copy(update={"budgets": (PrivacyBudget(unit="patient", max_epsilon=2, max_delta=1e-6),)})
    assert texts(paid, "refused") == ""
    assert "each patient ε ≤ 2 at δ ≤ 1e-06" in texts(paid, "fact")


def test_the_limit_of_all_studies_is_fixed_beforehand_and_a_record_is_no_patient(policy):
    line = PrivacyBudget(unit="patient", max_epsilon=4, max_delta=1e-5, total_epsilon=6)
    paid = policy.model_copy(update={"dp_modes": ("local",), "budgets": (line,)})
    assert f"all studies together ε ≤ 6. {FIXED}" in texts(paid, "fact")
    assert "raised after results were seen" in FIXED
    (budgets,) = (rule for rule in rules(paid) if rule.name == "budgets")
    assert budgets.says == "patient: ε ≤ 4 by one study, ≤ 6 by all, δ ≤ 1e-05"
    assert "per record" not in texts(paid, "risk")
    by_record = paid.model_copy(update={"budgets": (line.model_copy(update={"unit": "record"}),)})
    assert "a patient with several is not bounded by it" in texts(by_record, "risk")


def test_a_bound_on_exposure_is_said_with_the_case_in_which_nobody_measures(policy):
    """A site that is in earlier sums alone is not waited for: see `tests/e2e/test_canaries.py`."""
    said = texts(policy.model_copy(update={"max_exposure": 3.0}), "fact")
    assert "exposed by more than 3 bits in the mean, if the site is in the last sum or its measurement comes" in said


def test_how_many_officers_must_sign_is_said_in_words(policy):
    assert "One officer's signature" in texts(policy, "fact")
    assert "Three different officers must sign" in texts(policy.model_copy(update={"approvals_required": 3}), "fact")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modes": ("mask", "none")}, "the coordinator then sees this site's update"),
        ({"modes": ("he",)}, "the server and one site together open all updates"),
        ({"allowed_baselines": ("single",)}, "publish the scores of this site's own adapter"),
        ({"allowed_baselines": ("central",)}, "pool notes"),
        ({"minimum_cohort": 3}, "two of them together can open the third one's update"),
        ({"min_cohort_change": 1}, "their difference is close to its update"),
        ({"max_runs": 3}, "Two runs from the same notes"),
        ({"minimum_effective_cohort": 20.0}, "larger sums than the minimum are needed"),
        ({"expires": NOW + datetime.timedelta(days=900)}, "For 900 more days"),
        ({"budgets": (PrivacyBudget(unit="record", max_epsilon=50, max_delta=1e-6),)}, "ε ≤ 50"),
        ({"weight_rules": ("influence",), "dp_modes": ("none",)}, "5 public examples: unless the update is"),
        ({"weight_rules": ("influence",), "dp_modes": ("local",)}, "privacy on its held-out notes under noise: unless"),
    ],
)
def test_what_an_officer_should_think_about_is_a_risk(policy, changes, said):
    calm = policy.model_copy(
        update={"minimum_cohort": 4, "max_runs": 1, "modes": ("mask",), "min_cohort_change": 2, "allowed_baselines": ()}
    )
    assert said not in texts(calm, "risk")
    assert said in texts(calm.model_copy(update=changes), "risk")
