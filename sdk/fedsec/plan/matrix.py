"""What goes with what: one table over secure mode, weight rule, LoRA strategy, DP mode and server optimiser.

A combination is supported when every entry that speaks of it says so. Nothing is supported by silence: a value that
the table does not know is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from types import MappingProxyType
from typing import Final, NamedTuple, get_args

from fedsec.plan.model import Draft
from fedsec.plan.specs import DpSpec, LoraSpec, SecureSpec, ServerSpec, WeightingSpec
from fedsec_secure.errors import ConfigError


class Combination(NamedTuple):
    """One cell: what a plan asks for."""

    mode: str
    rule: str
    strategy: str
    dp: str
    optimiser: str = "average"


SINGLE: Final[Mapping[tuple[str, str], str | None]] = MappingProxyType(
    {
        ("secure.mode", "mask"): None,
        ("secure.mode", "none"): None,
        ("secure.mode", "he-mask"): None,
        ("secure.mode", "he"): None,
        ("weighting.rule", "uniform"): None,
        ("weighting.rule", "size"): None,
        ("weighting.rule", "influence"): None,
        ("weighting.rule", "group-influence"): None,
        ("lora.strategy", "fedit"): None,
        ("lora.strategy", "ffa"): None,
        ("lora.strategy", "rolora"): None,
        ("lora.strategy", "fedsa"): None,
        ("lora.strategy", "fedsvd"): None,
        ("lora.strategy", "fed-sb"): None,
        ("dp.mode", "none"): None,
        ("dp.mode", "local"): None,
        ("dp.mode", "distributed"): None,
        ("server.optimiser", "average"): None,
        ("server.optimiser", "adam"): None,
    }
)
"""A value by itself: None when it is supported, else the reason why not."""

PAIRS: Final[Mapping[tuple[tuple[str, str], tuple[str, str]], str]] = MappingProxyType(
    {
        (("secure.mode", "he-mask"), ("weighting.rule", "group-influence")): (
            "the coordinator scores group sums, and with he-mask it never holds one"
        ),
        (("secure.mode", "he"), ("weighting.rule", "group-influence")): (
            "the coordinator scores group sums, and with he it never holds one"
        ),
        (("secure.mode", "he"), ("dp.mode", "distributed")): (
            "the noise of one site is a share that protects only inside a masked sum"
        ),
        (("secure.mode", "he-mask"), ("dp.mode", "distributed")): (
            "an encrypted word has lanes of 23 bits, too narrow for noise on a fine grid, and every step would be a "
            "round of encryption; use mask"
        ),
        (("weighting.rule", "size"), ("dp.mode", "local")): (
            "a weight by a count tells about the count, and no noise is added to it; use uniform"
        ),
        (("secure.mode", "none"), ("dp.mode", "distributed")): (
            "the noise of one site is a share that protects only inside a masked sum"
        ),
        (("weighting.rule", "size"), ("dp.mode", "distributed")): (
            "distributed noise is calibrated for uniform weights and a fixed denominator"
        ),
        (("weighting.rule", "influence"), ("dp.mode", "distributed")): (
            "distributed noise is calibrated for uniform weights and a fixed denominator"
        ),
        (("weighting.rule", "group-influence"), ("dp.mode", "distributed")): (
            "distributed noise is calibrated for uniform weights and a fixed denominator"
        ),
        (("lora.strategy", "rolora"), ("dp.mode", "distributed")): (
            "A and B have different numbers of coordinates, and noise and grid are sized for one number, dp.dimension; "
            "use ffa"
        ),
        (("lora.strategy", "fedsa"), ("dp.mode", "distributed")): (
            "a site would train its own B with its share of the noise alone, which protects nobody; use ffa"
        ),
        (("lora.strategy", "fedsvd"), ("dp.mode", "distributed")): (
            "the public AdamW keeps moments of B's coordinates, and their basis changes with every round; use ffa"
        ),
        (("lora.strategy", "fedsvd"), ("server.optimiser", "adam")): (
            "moments of B's coordinates are kept, and their basis changes with every round; use average"
        ),
        (("secure.mode", "none"), ("weighting.rule", "group-influence")): (
            "groups are there so that only their sums are seen, and without masks every update is; use influence"
        ),
        (("weighting.rule", "group-influence"), ("lora.strategy", "fedsa")): (
            "a group's sum has no B in it, and without one it answers as the base model does: there is nothing to score"
        ),
        (("weighting.rule", "group-influence"), ("server.optimiser", "adam")): (
            "the server's step is chosen by its loss, and adam's step has a size of its own; use average"
        ),
        (("dp.mode", "distributed"), ("server.optimiser", "adam")): (
            "the sum is a gradient, and AdamW takes a step with it already; use average"
        ),
    }
)
"""Pairs that contradict each other for good, with the reason."""

FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "secure.mode": get_args(SecureSpec.model_fields["mode"].annotation),
        "weighting.rule": get_args(WeightingSpec.model_fields["rule"].annotation),
        "lora.strategy": get_args(LoraSpec.model_fields["strategy"].annotation),
        "dp.mode": get_args(DpSpec.model_fields["mode"].annotation),
        "server.optimiser": get_args(ServerSpec.model_fields["optimiser"].annotation),
    }
)


def all_combinations() -> list[Combination]:
    """Every cell of the table."""
    return [Combination(*cell) for cell in product(*FIELDS.values())]


def combination_of(draft: Draft) -> Combination:
    """The cell that a draft or plan asks for."""
    dp, optimiser = draft.dp.mode, draft.server.optimiser
    return Combination(draft.secure.mode, draft.weighting.rule, draft.lora.strategy, dp, optimiser)


def refusals(cell: Combination) -> list[str]:
    """Why a combination is refused, one sentence a reason; empty when it is supported."""
    values = list(zip(FIELDS, cell, strict=True))
    reasons = []
    for field, value in values:
        reason = SINGLE.get((field, value), f"this version does not know {value}")
        if reason is not None:
            reasons.append(f'{field} = "{value}": {reason}')
    for (first, second), reason in PAIRS.items():
        if first in values and second in values:
            reasons.append(f'{first[0]} = "{first[1]}" with {second[0]} = "{second[1]}": {reason}')
    return reasons


def verify_supported(draft: Draft) -> None:
    """ConfigError with every reason, unless this version can run what the draft asks for."""
    reasons = refusals(combination_of(draft))
    if reasons:
        raise ConfigError(f"plan {draft.name} asks for what this version refuses:\n" + "\n".join(reasons))
