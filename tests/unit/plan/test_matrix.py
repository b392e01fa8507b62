"""Every cell of what goes with what. The expectation is written out here on purpose, not taken from the table."""

import pytest

from fedsec.plan.matrix import FIELDS, Combination, all_combinations, combination_of, refusals, verify_supported
from fedsec_secure.errors import ConfigError

SCORED = (("influence", "none"), ("influence", "local"))
STRATEGIES = ("fedit", "ffa", "rolora", "fedsa", "fedsvd", "fed-sb")
SUPPORTED = {
    Combination(mode, rule, strategy, dp, optimiser)
    for mode in ("mask", "he-mask", "none")
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
UNBUILT = {"he"}


@pytest.mark.parametrize("cell", all_combinations(), ids="/".join)
def test_cell(cell):
    reasons = refusals(cell)
    assert (reasons == []) == (cell in SUPPORTED)
    for value in UNBUILT & set(cell):
        assert any(f'"{value}"' in reason for reason in reasons)


def test_the_table_spans_every_choice_that_a_plan_can_make():
    assert len(all_combinations()) == 4 * 4 * 6 * 3 * 2
    assert FIELDS["secure.mode"] == ("mask", "he-mask", "he", "none")
    assert FIELDS["lora.strategy"] == STRATEGIES
    assert len(set(all_combinations())) == len(all_combinations())


def test_a_value_that_the_table_does_not_know_is_refused():
    assert refusals(Combination("mask", "uniform", "brand-new", "none"))


def test_contradictions_are_named_beside_what_is_not_built():
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
    with pytest.raises(ConfigError, match="not built"):
        verify_supported(
            world.draft.model_copy(update={"secure": world.draft.secure.model_copy(update={"mode": "he"})})
        )
