"""The attack table of masked aggregation."""

from __future__ import annotations

from fedsec.attacks import difference, falsify, isolate, leak
from fedsec.attacks.lab import Target
from fedsec.attacks.outcome import Attack

_C = "coordinator"
_S = "one site"
ATTACKS: tuple[Attack[Target], ...] = (
    Attack(
        "key substitution",
        _C,
        "the victim deals and masks for nobody",
        "Bonawitz et al. 2017, §6",
        isolate.key_substitution,
    ),
    Attack(
        "replayed statement",
        _C,
        "no site masks against an old key",
        "Bonawitz et al. 2017, §6",
        isolate.replayed_statement,
    ),
    Attack(
        "split statements",
        _C,
        "no sum opens over different lists of sites",
        "Pasquini et al. 2022",
        falsify.split_statements,
    ),
    Attack(
        "split survivor sets",
        _C,
        "nobody gives both kinds of shares of one site",
        "Bonawitz et al. 2017, §6; Flower SecAgg+",
        isolate.split_survivors,
    ),
    Attack(
        "second survivor set",
        _C,
        "one survivor set a round, for ever",
        "Bonawitz et al. 2017, §6",
        isolate.second_survivor_set,
    ),
    Attack(
        "small cohort",
        _C,
        "nothing is revealed below the floor",
        "Flower SecAgg+ accepts cohorts of one",
        isolate.small_cohort,
    ),
    Attack(
        "floor below the officers'",
        _C,
        "each site's own floor holds",
        "DESIGN: the floors are the site's",
        isolate.floor_below_the_officers,
    ),
    Attack(
        "trap adapter",
        _C,
        "no site trains on an adapter of the coordinator's choice",
        "Pasquini et al. 2022; Boenisch et al. 2023",
        isolate.trap_adapter,
    ),
    Attack(
        "searched mask seed",
        _C,
        "no mask comes from a small seed",
        "Flower SecAgg+ folds seeds to 32 bits",
        isolate.searched_seed,
    ),
    Attack(
        "second attempt after the sum",
        _C,
        "no attempt follows a confirmed one",
        "same-round differencing",
        difference.second_attempt,
    ),
    Attack(
        "replayed attempt",
        _C,
        "an attempt that was given up stays so",
        "same-round differencing",
        difference.replayed_attempt,
    ),
    Attack(
        "next round without one site",
        _C,
        "no two sums that differ by one site",
        "cross-round differencing",
        difference.next_round,
    ),
    Attack(
        "crash and repeat",
        _C,
        "identical bytes, or none",
        "Fed-BioMed: one key and nonce a round",
        difference.crash_and_repeat,
    ),
    Attack("forged sum", _C, "every site refuses every other sum", "DESIGN: the verified sum", falsify.forged_sum),
    Attack("count in the open", _C, "no byte tells a count", "Flower sends num_examples", leak.count_in_the_open),
    Attack("lopsided weights", _C, "no plan lets one site be the sum", "weight isolation", leak.lopsided_weights),
    Attack(
        "not a number",
        _S,
        "the site stays silent, the others' sum is right",
        "Flower SecAgg+: one NaN wrecks the sum",
        falsify.not_a_number,
    ),
    Attack("overflow", _S, "clipped, and no other coordinate moves", "lane overflow", falsify.overflow),
    Attack("bad share", _S, "named, and the sum is right", "Bonawitz et al. 2017, §6", falsify.bad_share),
    Attack("rubbish upload", _S, "no wrong sum is accepted", "Burkhart et al. 2010", falsify.rubbish_upload),
    Attack("drop before share", _S, "the others' sum is right", "Flower SecAgg+: KeyError", falsify.drop_before_share),
    Attack("rounding bias", _S, "the mean moves by chance only", "quantisation bias", falsify.rounding_bias),
)
