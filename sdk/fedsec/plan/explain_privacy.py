"""What a plan's differential privacy and its canaries mean, in plain words."""

from __future__ import annotations

import math
from typing import Final

from fedsec.plan.canaries import CHANCE, highest, no_site_is_above
from fedsec.plan.colluders import check_colluders
from fedsec.plan.cost import cost, with_noise
from fedsec.plan.model import Draft
from fedsec.plan.specs import DpSpec, SecureSpec
from fedsec.plan.statement import Statement, count_in_words, plural
from fedsec.privacy.shown import shown_epsilon
from fedsec_secure.errors import ConfigError

_WEAK: Final = 10.0
_LIKELY: Final = 1e-3
"""A δ from which on what it lets through is no rare event: one unit in a thousand."""
_BY_PATIENT: Final = ("patient", "unit")
_WINDOWS: Final = {"sentence": "one sentence of a note", "passage": "one passage of a note"}


def privacy(draft: Draft, sites: int | None) -> list[Statement]:
    """What differential privacy promises, to whom, and what it leaves open."""
    if draft.dp.mode == "none":
        return [
            Statement(
                "risk",
                "privacy",
                "No differential privacy: nothing bounds what the adapter remembers of a single patient "
                f"(rank {draft.lora.rank}, {plural(draft.rounds, 'round')}).",
            )
        ]
    try:
        noisy = with_noise(draft)
    except ConfigError as e:
        return [Statement("refused", "privacy", str(e))]
    dp, costs = noisy.dp, cost(noisy)
    replaced = "no bound" if math.isinf(costs.replace_one) else f"ε = {shown_epsilon(costs.replace_one)}"
    protected = _from_whom(dp)
    whose = "record" if dp.unit == "record" else "patient, with all their notes,"
    bounded = (
        f"Differential privacy: {protected}, whether one {whose} was there or not changes the odds of anything in a "
        f"run by at most a factor e^ε with ε = {shown_epsilon(costs.epsilon)}, but for a chance of δ = {costs.delta:g} "
        f"({replaced} for what it says instead of whether it is there). The site's ledger is charged "
        f"{shown_epsilon(costs.charged)}, which also holds for studies that are chosen later; the plan promises at "
        f"most {dp.target_epsilon:g}."
    )
    if dp.sampling == "record":
        who = f"of at most {dp.max_records} examples of a patient, always the same ones, each"
    else:
        who = f"each {dp.unit}"
    some = f"at most {dp.max_records} of a drawn patient's examples, " if (dp.unit, dp.sampling) == _BY_PATIENT else ""
    steps = (
        "One step a round over all sites' units" if dp.mode == "distributed" else f"{plural(dp.steps, 'step')} a round"
    )
    done = (
        f"{steps}; {who} takes part in a step with a chance of {dp.sampling_rate:g}, {some}"
        f"its gradient cut to norm {dp.clipping_norm:g}; noise of {dp.noise_multiplier:g} times that. "
        f"{_do_not_apply(draft)} do not apply."
    )
    several = (
        "Who has notes at several sites is protected at each, and the ε of these sites add up."
        if dp.mode == "local"
        else "Who has notes at several sites is outside this bound. One site's masked upload has too little noise: it "
        "must not be opened."
    )
    shared = (
        f"{several} Numbers that a person chose after looking at notes (rates, clipping) are not counted, nor what the "
        "time of a reply tells: it grows with how many were drawn."
    )
    little = f"ε above {_WEAK:g} promises little by itself."
    weak = [Statement("risk", "privacy", little)] if costs.epsilon > _WEAK else []
    if costs.delta >= _LIKELY:
        through = (
            f"δ = {costs.delta:g} is no small chance: publishing that share of all {dp.unit}s in full would keep this "
            f"promise. Set dp.target_delta well below one over the number of {dp.unit}s at a site."
        )
        weak.append(Statement("risk", "privacy", through))
    stated = [Statement("fact", "privacy", bounded), Statement("fact", "privacy", done), *weak]
    return [*stated, *_records(draft), *_masks(draft, sites), Statement("risk", "privacy", shared)]


def _do_not_apply(draft: Draft) -> str:
    """What of a plan does nothing where steps are private; what belongs to the other mode or unit, if it was set."""
    dp, names = draft.dp, ["training.epochs", "examples_per_round", "gradient_clip"]
    of_others = ("steps",) if dp.mode == "distributed" else ("colluders", "keys_ahead")
    of_others = (*of_others, "max_records") if dp.unit == "record" else of_others
    names += [f"dp.{name}" for name in of_others if getattr(dp, name) != DpSpec.model_fields[name].default]
    if draft.secure.min_cohort_change != SecureSpec.model_fields["min_cohort_change"].default:
        names.append("secure.min_cohort_change")
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _from_whom(dp: DpSpec) -> str:
    """Whom the bound is about: each site knows its own share of distributed noise."""
    if dp.mode == "local":
        return "for whoever sees all that leaves a site, masked or not"
    if dp.colluders == 0:
        return "for whoever sees the sums and is none of the sites (dp.colluders is 0)"
    return f"for whoever sees the sums, with at most {count_in_words(dp.colluders)} of their sites"


def _masks(draft: Draft, sites: int | None) -> list[Statement]:
    """Colluders of whose noise account is taken, but whom the masks do not withstand: no plan has them."""
    try:
        if sites is not None:
            check_colluders(draft, sites)
    except ValueError as e:
        return [Statement("refused", "privacy", str(e))]
    return []


def _records(draft: Draft) -> list[Statement]:
    """What one unit is where it is no patient."""
    if draft.dp.unit != "record":
        return []
    window = "one whole text" if draft.task.kind == "title" else _WINDOWS[draft.task.window]
    text = (
        f"A record is {window}, not a patient: whoever has several is not bounded by this ε (with k of them it is up "
        'to k times as large, at a larger δ, and nothing here bounds k). To protect patients set dp.unit = "patient".'
    )
    return [Statement("risk", "privacy", text)]


def canaries(draft: Draft, sites: int | None) -> list[Statement]:
    """Whether anything measures what the adapter gives away of one record."""
    spec = draft.canaries
    if spec.per_site == 0:
        return []
    where = "at one site" if sites is None else "at all sites"
    chance = shown_epsilon(no_site_is_above(spec.per_site, sites or 1), decimals=1)
    often = "once" if spec.repeats == 1 else f"{count_in_words(spec.repeats)} times{_as_drawn(draft.dp)}"
    text = (
        f"Canaries: each site trains on {count_in_words(spec.per_site)} made-up records of its own, each {often}, and "
        f"signs at the end how exposed they are, among {spec.candidates} answers that nobody trained on: "
        f"{CHANCE:.1f} bits in the mean for an adapter that remembers nothing of them (below "
        f"{chance} {where} in 99 of 100 such runs), {highest(spec.candidates):.1f} for one that knows them by "
        "heart. A policy can bound it."
    )
    return [Statement("fact", "canaries", text)]


def _as_drawn(dp: DpSpec) -> str:
    """What becomes of the copies of a canary: all of them are one patient's."""
    if dp.mode == "none" or dp.unit == "record":
        return ""
    if dp.sampling == "record":
        return f" (as one patient, of whom at most {dp.max_records} are used)"
    return " (as one patient, whose mean counts: more copies weigh no more)"
