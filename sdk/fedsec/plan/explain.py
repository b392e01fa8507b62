"""What a plan means, in plain words: for the officer who has to say yes or no.

Each sentence follows from the plan's own numbers. What a mode does not protect is said beside what it does.
"""

from __future__ import annotations

import math
from typing import Final

from fedsec.plan.cost import epsilon_of_scores
from fedsec.plan.explain_privacy import canaries, privacy
from fedsec.plan.explain_secure import bytes_a_round, collusion, encoding, protection
from fedsec.plan.explain_strategy import strategy
from fedsec.plan.group_checks import fewest_in_a_round
from fedsec.plan.matrix import combination_of, refusals
from fedsec.plan.model import Draft, Plan
from fedsec.plan.policy import worst_effective_cohort
from fedsec.plan.statement import Level, Statement, count_in_words
from fedsec.privacy.shown import shown_epsilon

_MOSTLY_NOISE: Final = 0.5
"""Nats of noise on a score of 0 to 4: one deviation moves a weight by a factor of 1.6."""


def explain(draft: Draft, sites: int | None = None, coordinates: int | None = None) -> list[Statement]:
    """Everything worth knowing about a draft or plan before signing it.

    Args:
        draft: the draft, or the compiled plan.
        sites: how many sites take part; a compiled plan knows it itself.
        coordinates: how many adapter coordinates travel (d), for the size of an upload.
    """
    if isinstance(draft, Plan):
        sites = len(draft.roster.sites)
    statements = [Statement("refused", "supported", reason) for reason in refusals(combination_of(draft))]
    who = (_officers, _task, protection, collusion, _differences, _weights)
    for part in (*who, privacy, canaries, strategy, encoding, _baselines):
        statements += part(draft, sites)
    if coordinates is not None and sites is not None:
        statements += bytes_a_round(draft, sites, coordinates)
    return statements


def _officers(draft: Draft, sites: int | None) -> list[Statement]:
    """Which sites name several officers."""
    members = draft.roster.sites if isinstance(draft, Plan) else {}
    several = [f"{name} ({len(site.officers)})" for name, site in members.items() if site.co_officers]
    if not several:
        return []
    text = f"Several officers: {', '.join(several)}. How many of them must sign is in each site's own policy."
    return [Statement("fact", "officers", text)]


def _task(draft: Draft, sites: int | None) -> list[Statement]:
    """What the answers are, where they are not labels."""
    if draft.task.kind != "title":
        return []
    text = (
        "The titles themselves are what is learnt: every answer is a text that people wrote about a note, not a label "
        "or words marked in it, so what the adapter remembers of its answers is such text."
    )
    return [Statement("risk", "task", text)]


def _differences(draft: Draft, sites: int | None) -> list[Statement]:
    """What the sums of several rounds tell together."""
    if draft.secure.mode != "mask" or draft.dp.mode != "none":
        return []
    least, number = draft.secure.min_cohort_change, count_in_words
    if least == 1:
        text = (
            "secure.min_cohort_change is 1: sums of two rounds may differ by one site, and their difference is then "
            "about that site's update."
        )
        return [Statement("risk", "differences", text)]
    text = (
        f"Two sums are over the same sites or differ by at least {number(least)}: no difference of two is about one "
        "site. This is a rule of thumb; combinations of more sums are bounded by differential privacy only."
    )
    statements = [Statement("fact", "differences", text)]
    if sites is not None and sites > draft.secure.quorum:
        rest = sites - least
        then = f"the round goes on with {number(rest)}" if rest >= draft.secure.quorum else "the run stops"
        price = (
            f"After a round with all {number(sites)} sites, one that drops out is waited for; if it stays away, {then}."
        )
        statements.append(Statement("risk", "differences", price))
    return statements


def _weights(draft: Draft, sites: int | None) -> list[Statement]:
    """Who counts how much, and what can be lied about."""
    weighting, quorum = draft.weighting, draft.secure.quorum
    if weighting.rule == "uniform":
        return [Statement("fact", "weights", f"All sites weigh the same: 1/{quorum} of a round at most.")]
    if weighting.rule == "influence":
        return _influence(draft)
    if weighting.groups is not None:
        return _group_influence(draft, weighting.groups, sites)
    if weighting.rule != "size":
        return []
    low, high = weighting.count_min, weighting.count_max
    share = high / (high + (quorum - 1) * low)
    seen = {"none": "which the coordinator learns", "he": "which the coordinator learns with one site's key"}.get(
        draft.secure.mode, "which nobody learns"
    )
    effective = float(worst_effective_cohort(draft))
    return [
        Statement(
            "fact",
            "weights",
            f"Sites weigh by their number of examples, {seen}; counts are clipped to {low} to {high}.",
        ),
        Statement(
            "risk",
            "weights",
            f"Nobody can check a hidden count: a site that claims {high} weighs up to {share:.0%} of a round of "
            f"{quorum} (cap {weighting.cap:.0%}), which is then as good as {effective:.2f} equal sites.",
        ),
    ]


def _influence(draft: Draft) -> list[Statement]:
    """What is published for weights, and what a lie gains."""
    weighting, quorum = draft.weighting, draft.secure.quorum
    public, noisy = weighting.validation, weighting.private
    if public is None:
        size, name = "held-out notes", "each site's own"
    else:
        count = public.examples or public.limit
        size, name = "public examples" if count is None else f"{count} public examples", public.name
    bins = ", ".join(f"{site} {size}" for site, size in weighting.size_bins.items())
    harmless = draft.dp.mode == "local"
    told = (
        "It follows from an update that is differentially private, and costs nothing more."
        if harmless
        else "It can tell whether a single record was trained on: no noise is added to it."
    )
    if noisy is not None:
        spread = 2 * noisy.noise_multiplier / noisy.expected_units
        told = (
            f"It is of private notes: noise of {spread:.2g} nats is added, and every round's score is in the ε above "
            f"(scores alone: {shown_epsilon(epsilon_of_scores(draft))})."
        )
        if spread >= _MOSTLY_NOISE:
            harmless = False
            told += (
                f" The weights are mostly noise: by chance alone a site weighs {math.exp(spread):.2g} times as much, "
                "or as little, as its model is worth. Hold out more units, or weigh all sites the same."
            )
    return [
        Statement(
            "fact",
            "weights",
            f"Sites weigh by exp(1 - loss) of their own model on {size} ({name})"
            + (f", times a size bin ({bins}; others 1)." if bins else "."),
        ),
        Statement(
            "fact" if harmless else "risk",
            "weights",
            f"Each site publishes that loss every round, in steps of 0.05 from 0 to 4. {told}",
        ),
        Statement(
            "risk",
            "weights",
            f"A site that lies about its loss is not found out. It then weighs up to {weighting.cap:.0%} of a round, "
            f"not 1/{quorum}; no sum is worth fewer than {float(worst_effective_cohort(draft)):.2f} equal sites.",
        ),
    ]


def _group_influence(draft: Draft, groups: int, sites: int | None) -> list[Statement]:
    """What is scored, by whom, and what a lie gains."""
    weighting = draft.weighting
    assert weighting.validation is not None  # the draft's own validator
    count = weighting.validation.examples or weighting.validation.limit
    size = "public examples" if count is None else f"{count} public examples"
    fewest = fewest_in_a_round(draft, sites)
    return [
        Statement(
            "fact",
            "weights",
            f"The coordinator scores the opened sums of {count_in_words(groups)} groups on {size} "
            f"({weighting.validation.name}), never one site's update. A group weighs its number of sites times "
            "exp(1 - loss), and the weighted mean is added 0.5 to 1.5 times.",
        ),
        Statement(
            "risk",
            "weights",
            f"A coordinator that lies about a group's loss is not found out, but signs it. Then a site weighs "
            f"up to {weighting.cap:.0%} of a round, not 1/{fewest}; no round is worth fewer than "
            f"{float(worst_effective_cohort(draft)):.2f} equal sites.",
        ),
    ]


def _baselines(draft: Draft, sites: int | None) -> list[Statement]:
    """Comparisons cost privacy too."""
    texts: dict[str, tuple[Level, str]] = {
        "single": (
            "risk",
            "Baseline single: each site's own adapter is scored on the public tests and the scores are published.",
        ),
        "central": (
            "risk",
            "Baseline central: the notes of all sites are pooled in one place. Only for notes that may be pooled.",
        ),
    }
    return [Statement(texts[b][0], "baselines", texts[b][1]) for b in draft.evaluation.baselines if b in texts]
