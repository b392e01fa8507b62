"""The attack table of weights by published scores."""

from __future__ import annotations

from fedsec.attacks import regroup, skew
from fedsec.attacks.lab import Target
from fedsec.attacks.outcome import Attack

_C = "coordinator"
_S = "one site"
_CS = "coordinator and one site"
ATTACKS: tuple[Attack[Target], ...] = (
    Attack(
        "flattering score",
        _C,
        "no site weighs by a score that its owner did not sign",
        "Fed-MedLoRA+: the server scores",
        skew.flattering_score,
    ),
    Attack(
        "score of another run",
        _C,
        "a score counts where it was signed for",
        "replayed weights",
        skew.score_of_another_run,
    ),
    Attack(
        "weight isolation by dropouts",
        _C,
        "no survivors among whom one site is above the cap",
        "weight isolation",
        skew.isolation_by_dropouts,
    ),
    Attack(
        "weight isolation by one score",
        _C,
        "one good site among bad ones weighs no more than the cap",
        "weight isolation",
        skew.isolation_by_one_score,
    ),
    Attack(
        "other weights in the sum",
        _C,
        "every site computes the weights itself",
        "DESIGN: weights are a function of the statements",
        skew.other_weights,
    ),
    Attack("lying about a score", _S, "bounded by the cap, never found out", "DESIGN: stated", skew.lying_site),
    Attack(
        "two liars",
        "two sites",
        "no sum worth fewer equal sites than the plan says",
        "DESIGN: effective cohort",
        skew.two_liars,
    ),
    Attack("score left out", _S, "a missing score gains nothing", "missing metrics count as good", skew.score_left_out),
    Attack(
        "score that nobody asked for", _S, "no byte beside the plan", "covert channels in metrics", skew.unasked_score
    ),
    Attack(
        "groups drawn until they suit",
        _CS,
        "one draw a run id, whatever is shown",
        "DESIGN: commit and reveal",
        regroup.redraw,
    ),
    Attack(
        "run ids drawn until they suit",
        _C,
        "no more run ids than the policy allows",
        "DESIGN: a missing reveal kills the run id",
        regroup.new_run_ids,
    ),
    Attack(
        "sham groups",
        _C,
        "no update for a group that was not drawn",
        "two friends subtract theirs",
        regroup.sham_groups,
    ),
    Attack(
        "sum that no group verified",
        _C,
        "a group's sum counts with its members' signatures",
        "forged aggregates",
        regroup.unverified_sum,
    ),
    Attack(
        "lying about a group's loss",
        _C,
        "bounded by the cap, and signed",
        "Fed-MedLoRA+: the server scores",
        regroup.false_level,
    ),
)
