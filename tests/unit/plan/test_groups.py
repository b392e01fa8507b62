"""What a plan may ask of groups, what officers' policies make of it, and what a log has to have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedsec.plan.attestation import floors_of
from fedsec.plan.explain import explain
from fedsec.plan.explain_secure import colluders_needed
from fedsec.plan.group_checks import group_floors
from fedsec.plan.policy import draft_policy
from fedsec.plan.policy_checks import check_plan
from fedsec.plan.specs import WeightingSpec
from fedsec.study.evidence import _groups, survivors_of
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.record.entries import DrawEntry, SurvivorsEntry
from tests.e2e.federation import VALIDATION, Keys, make_plan
from tests.unit.plan.conftest import END, NOW

HASH = "5a" * 32


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(8)


def plan_of(keys, **weighting):
    return make_plan(keys, rounds=1, rule="group-influence", weighting={"cap": 0.4} | weighting)


@pytest.mark.parametrize(
    ("rule", "weighting", "why"),
    [
        ("uniform", {"groups": 2}, "weighting.groups is set: nothing would use it"),
        ("influence", {"groups": 2}, "weighting.groups is set: nothing would use it"),
        ("group-influence", {"groups": None}, "without weighting.groups"),
        ("group-influence", {"size_bins": {"site-a": 2}}, "weighting.size_bins is set: nothing would use it"),
        ("group-influence", {"groups": 3}, "8 sites in 3 groups"),
        ("group-influence", {"validation": None}, r"without \[weighting.validation\]"),
    ],
)
def test_groups_that_mean_nothing_or_cannot_be(keys, rule, weighting, why):
    with pytest.raises((ConfigError, ValueError), match=why):
        make_plan(keys, rule=rule, weighting=weighting)


def test_six_sites_make_two_groups_and_five_none():
    assert plan_of(Keys.generate(6)).fewest_in_a_sum == 3
    with pytest.raises((ConfigError, ValueError), match="so 6 sites at least"):
        plan_of(Keys.generate(5))


def test_what_a_lie_gains_is_told_against_the_smallest_round_that_can_be():
    """Of six in two groups none may be missing, though the quorum of such a roster is five; of eight two may."""
    for sites, fewest in ((6, 6), (8, 6)):
        plan = plan_of(Keys.generate(sites))
        (lie,) = (s.text for s in explain(plan) if "lies about a group's loss" in s.text)
        assert f"weighs up to 40% of a round, not 1/{fewest};" in lie


def test_a_policys_minimum_counts_for_sums_of_groups(keys):
    """A round of eight is no excuse: each group's sum is opened by itself."""
    plan = plan_of(keys)
    policy = draft_policy(plan, END)
    assert policy.minimum_cohort == plan.fewest_in_a_sum == 3
    assert plan.secure.quorum == 6
    stricter = policy.model_copy(update={"minimum_cohort": 4})
    (violation,) = [v for v in check_plan(stricter, plan, NOW) if v.number == 4]
    assert "found 3, for the sums of 2 groups are opened one by one" in str(violation)
    assert floors_of(plan, policy).minimum_cohort == 3


def test_a_minimum_cohort_that_no_group_reaches(keys):
    draft = plan_of(keys)
    secure = draft.secure.model_copy(update={"minimum_cohort": 5})
    with pytest.raises(ValueError, match="leave 4 in the smallest"):
        type(draft).model_validate(draft.model_copy(update={"secure": secure}).model_dump())


GROUPS = (("site-a", "site-c", "site-e", "site-g"), ("site-b", "site-d", "site-f", "site-h"))


def evidence(keys, *, groups=GROUPS, sets=None, plan=None):
    sets = [(0, g[:3]) for g in groups] if sets is None else sets
    drawn = [] if groups is None else [DrawEntry(run="r", groups=groups, commitments_sha256=HASH, reveals_sha256=HASH)]
    entries = [*drawn, *(SurvivorsEntry(run="r", round=n, sites=s, uploads_sha256=HASH) for n, s in sets)]
    return SimpleNamespace(plan=plan or plan_of(keys), book=SimpleNamespace(entries=tuple(entries)), attestations={})


class TestLog:
    def test_one_set_of_survivors_for_each_group(self, keys):
        good = evidence(keys)
        _groups(good)
        assert survivors_of(good.book.entries)[0] == ("site-a", "site-b", "site-c", "site-d", "site-e", "site-f")

    def test_what_no_run_could_have_made_is_refused(self, keys):
        strangers = (("site-a", "site-c", "site-e", "site-x"), GROUPS[1])
        cases = [
            (evidence(keys, groups=None, sets=[(0, GROUPS[0])]), "0 draws of groups"),
            (evidence(keys, groups=strangers), "are not the plan's roster, each site once"),
            (evidence(keys, sets=[(0, GROUPS[0])]), "has 1 sets of survivors; expected 2"),
            (evidence(keys, sets=[(0, GROUPS[0]), (0, GROUPS[1][:2])]), "2 survivors of one group; expected 3"),
            (evidence(keys, sets=[(0, GROUPS[1]), (0, GROUPS[0])]), "survivors of one group"),
            (evidence(keys, plan=make_plan(keys, rounds=1)), "1 draws of groups; the plan's rule is uniform"),
        ]
        for case, why in cases:
            with pytest.raises(VerificationError, match=why):
                _groups(case)

    def test_without_groups_a_round_has_one_set(self, keys):
        plan = make_plan(keys, rounds=1)
        _groups(evidence(keys, groups=None, sets=[(0, GROUPS[0])], plan=plan))
        with pytest.raises(VerificationError, match="2 sets of survivors; expected 1"):
            _groups(evidence(keys, groups=None, sets=[(0, GROUPS[0]), (0, GROUPS[1])], plan=plan))


def test_the_field_says_what_it_needs():
    assert WeightingSpec(rule="group-influence", validation=VALIDATION, groups=2).groups == 2
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        WeightingSpec(rule="group-influence", validation=VALIDATION, groups=1)


def test_how_many_open_an_update_is_said_of_a_group_not_of_the_round(keys):
    plan = plan_of(keys)
    assert colluders_needed(plan, 8) == 2
    assert colluders_needed(make_plan(keys), 8) == 4
    assert [group_floors(plan, n) for n in (6, 7, 12)] == [{3: 3}, {3: 3, 4: 3}, {6: 5}]
