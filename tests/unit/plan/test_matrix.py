"""Every cell of what goes with what. The expectation is written out here on purpose, not taken from the table."""

import pytest

from fedsec.plan.matrix import FIELDS, Combination, all_combinations, combination_of, refusals, verify_supported
from fedsec.plan.specs import SecureSpec, WeightingSpec
from fedsec_secure.errors import ConfigError
from tests.e2e.federation import VALIDATION

SCORED = (("influence", "none"), ("influence", "local"))
STRATEGIES = ("fedit", "ffa", "rolora", "fedsa", "fedsvd", "fed-sb")
SUPPORTED = {
    Combination(mode, rule, strategy, dp, optimiser)
    for mode in ("mask", "he-mask", "he", "none")
    for rule, dp in (("uniform", "none"), ("size", "none"), ("uniform", "local"), *SCORED)
    for strategy in STRATEGIES
    for optimiser in ("average", "adam")
    if (strategy, optimiser) != ("fedsvd", "adam")
}
SUPPORTED |= {Combination("mask", "uniform", strategy, "distributed") for strategy in ("fedit", "ffa", "fed-sb")}
SUPPORTED |= {
    Combination("mask", "group-influence", strategy, dp)
    for strategy in STRATEGIES
    if strategy != "fedsa"
    for dp in ("none", "local")
}


@pytest.mark.parametrize("cell", all_combinations(), ids="/".join)
def test_cell(cell):
    reasons = refusals(cell)
    assert (reasons == []) == (cell in SUPPORTED)


def test_the_table_spans_every_choice_that_a_plan_can_make():
    assert len(all_combinations()) == 4 * 4 * 6 * 3 * 2
    assert FIELDS["secure.mode"] == ("mask", "he-mask", "he", "none")
    assert FIELDS["lora.strategy"] == STRATEGIES
    assert len(set(all_combinations())) == len(all_combinations())


def test_a_value_that_the_table_does_not_know_is_refused():
    assert refusals(Combination("mask", "uniform", "brand-new", "none"))


def test_every_contradiction_is_named():
    reasons = refusals(Combination("none", "size", "fedit", "distributed"))
    assert any("inside a masked sum" in r for r in reasons)
    assert any("uniform weights" in r for r in reasons)


def test_counts_and_local_privacy_do_not_go_together():
    (reason,) = refusals(Combination("mask", "size", "ffa", "local"))
    assert "a weight by a count tells about the count" in reason


@pytest.mark.parametrize(
    ("strategy", "dp", "optimiser", "why"),
    [
        ("rolora", "distributed", "average", "different numbers of coordinates"),
        ("fedsa", "distributed", "average", "its share of the noise alone"),
        ("fedsvd", "distributed", "average", "basis changes with every round"),
        ("fedsvd", "none", "adam", "basis changes with every round"),
        ("ffa", "distributed", "adam", "AdamW takes a step with it already"),
    ],
)
def test_a_strategy_is_refused_with_its_reason(strategy, dp, optimiser, why):
    (reason,) = refusals(Combination("mask", "uniform", strategy, dp, optimiser))
    assert why in reason


def test_a_plan_is_looked_up_by_its_own_fields(world):
    assert combination_of(world.draft) == Combination("mask", "uniform", "fedit", "none")
    verify_supported(world.draft)
    weighting = WeightingSpec(rule="group-influence", groups=2, validation=VALIDATION)
    with pytest.raises(ConfigError, match="scores group sums, and with he it never holds one"):
        verify_supported(world.draft.model_copy(update={"secure": SecureSpec(mode="he"), "weighting": weighting}))
