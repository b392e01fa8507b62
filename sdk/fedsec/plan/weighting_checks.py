"""What a plan's weight rule has to hold, whatever sites claim."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from fedsec.plan.specs import WeightingSpec
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.weighting.influence import Influence

_OF_SCORES = ("validation", "private", "size_bins", "effective_cohort")


def check_weights(weighting: WeightingSpec, quorum: int) -> None:
    """No site can outweigh the cap, whatever hidden count it claims within the plan's bounds."""
    low, high = weighting.count_min, weighting.count_max
    if low > high:
        raise ValueError(f"weighting.count_min {low} is above count_max {high}")
    cap = Fraction(str(weighting.cap))
    if weighting.rule != "size":
        low = high = 1
    share = Fraction(high, high + (quorum - 1) * low)
    if share <= cap:
        return
    if weighting.rule != "size" or cap * quorum < 1:
        raise ValueError(
            f"weighting.cap is {weighting.cap}; of {quorum} equal sites each weighs {1 / quorum:.3g}, so no round "
            "could hold the cap: raise it, or secure.minimum_cohort"
        )
    most = int(cap * (quorum - 1) * low / (1 - cap))
    raise ValueError(
        f"weighting: a site that claims {high} beside {quorum - 1} that claim {low} would weigh {float(share):.3g}, "
        f"above cap {weighting.cap}; nobody can check a hidden count, so with count_min {low} set count_max <= {most}"
    )


def check_scores(weighting: WeightingSpec, tests: Iterable[str], quorum: int, dp_mode: str) -> None:
    """What weights by scores need, and no field that nothing would use."""
    given = [name for name in _OF_SCORES if getattr(weighting, name) != WeightingSpec.model_fields[name].default]
    if weighting.rule not in ("influence", "group-influence"):
        if given:
            raise ValueError(
                f'weighting.rule is "{weighting.rule}" but weighting.{given[0]} is set: nothing would use it'
            )
        return
    if weighting.rule == "group-influence" and (weighting.validation is None or weighting.private is not None):
        raise ValueError(
            'weighting.rule is "group-influence" without [weighting.validation], or with weighting.private: name the '
            "public examples that models are scored on, and nothing else"
        )
    if (weighting.validation is None) == (weighting.private is None):
        found = "neither" if weighting.private is None else "both"
        raise ValueError(
            f'weighting.rule is "{weighting.rule}" with {found} of [weighting.validation] and [weighting.private]: '
            "every site's own model is scored on public examples, or on its own held-out notes with noise"
        )
    if weighting.private is not None and dp_mode != "local":
        raise ValueError(
            f"weighting.private with dp.mode {dp_mode}: its noise would hide the held-out notes of a score whose model "
            'hides nothing; set dp.mode = "local", or take public examples (weighting.validation)'
        )
    if weighting.validation is not None and weighting.validation.name in tests:
        raise ValueError(
            f"weighting.validation is the test set {weighting.validation.name}: results on it would be fitted to it; "
            "take other examples"
        )
    if weighting.effective_cohort > quorum:
        raise ValueError(
            f"weighting.effective_cohort is {weighting.effective_cohort:g}; {quorum} sites are never worth more than "
            f"{quorum}: lower it, or raise secure.minimum_cohort"
        )


def check_bins(weighting: WeightingSpec, sites: Iterable[str]) -> None:
    """ValueError where the bins alone, with one score for all and nobody missing, are below the effective cohort."""
    if not weighting.size_bins:
        return
    bins = {SiteId(name): size for name, size in weighting.size_bins.items()}
    rule = Influence(bins, Fraction(str(weighting.cap)), Fraction(str(weighting.effective_cohort)))
    why = rule.why_not(rule.weigh({SiteId(name): 0 for name in sites}).values())
    if why is not None:
        raise ValueError(
            f"weighting.size_bins: where all sites of the roster score the same, a round is refused: {why}. Bring the "
            "bins nearer to each other, or lower weighting.effective_cohort or cap"
        )
