"""The attack table of weights by published scores."""

from __future__ import annotations

from fedsec.attacks import skew
from fedsec.attacks.lab import Target
from fedsec.attacks.outcome import Attack

_C = "coordinator"
_S = "one site"
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
)
