"""What a plan means, in plain words: for the officer who has to say yes or no.

Each sentence follows from the plan's own numbers. What a mode does not protect is said beside what it does.
"""

from __future__ import annotations

from typing import Final

from fedsec.plan.cost import epsilon_of_scores
from fedsec.plan.explain_privacy import canaries, privacy
from fedsec.plan.explain_strategy import strategy
from fedsec.plan.group_checks import check_group_sizes, fewest_in_a_round, group_floors
from fedsec.plan.matrix import combination_of, refusals
from fedsec.plan.model import Draft, Plan
from fedsec.plan.policy import worst_effective_cohort
from fedsec.plan.statement import Level, Statement, count_in_words
from fedsec_secure.codec import SIGNATURE_BYTES
from fedsec_secure.errors import ConfigError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.masking.draw import least_threshold
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.numeric.lanes import FixedPoint, Lanes

_ORDINALS: Final = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


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
    who = (_officers, _task, _protection, _collusion, _differences, _weights)
    for part in (*who, privacy, canaries, strategy, _encoding, _baselines):
        statements += part(draft, sites)
    if coordinates is not None and sites is not None:
        statements += _bytes(draft, sites, coordinates)
    return statements


def _sites(n: int) -> str:
    return "site conspires" if n == 1 else "sites conspire"


def _ordinal(n: int) -> str:
    return _ORDINALS[n] if n < len(_ORDINALS) else f"{n}th"


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


def _protection(draft: Draft, sites: int | None) -> list[Statement]:
    """Who learns what under the plan's secure mode."""
    if draft.secure.mode == "none":
        return [
            Statement(
                "risk",
                "protection",
                "secure.mode is none: the coordinator sees every site's update in the clear, and can reconstruct parts "
                "of notes from it. For baselines only; each site's policy must allow it by name.",
            )
        ]
    if not draft.secure.is_masked:
        return []
    sums = "everyone in the run sees the sum."
    if draft.secure.mode == "he-mask":
        sums = (
            "the sum is encrypted, and only the sites open it: the coordinator has neither sums nor the adapter, but "
            "with the key of one site it has both."
        )
    return [
        Statement(
            "fact",
            "protection",
            f"Masks hide each site's update from the coordinator and from the other sites; {sums} No site's notes "
            "leave it.",
        ),
        Statement(
            "risk",
            "protection",
            "The finished adapter is a function of everyone's notes and is not protected by masks: who holds it can "
            "test whether a note was in the training" + (", within dp's bound." if draft.dp.mode != "none" else "."),
        ),
    ]


def colluders_needed(draft: Draft, sites: int) -> int:
    """How many of ``sites`` open another's update together with a coordinator that lies (`threat_model/collusion.md`).

    Two survivor sets need 2q - N colluders in both, subtraction q - 1, shares of everything t. Where there are groups,
    this holds inside one: so many that the draw put together, of the group where fewest are needed.
    """
    floors = group_floors(draft, sites)
    if floors:
        return min(min(2 * q - size, q - 1, least_threshold(size)) for size, q in floors.items())
    quorum = draft.secure.quorum
    return min(2 * quorum - sites, quorum - 1, draft.secure.threshold)


def _collusion(draft: Draft, sites: int | None) -> list[Statement]:
    """How many must conspire, and how many may fail."""
    if not draft.secure.is_masked or sites is None:
        return []
    if draft.weighting.groups is not None:
        return _in_groups(draft, sites, draft.weighting.groups)
    quorum, threshold = draft.secure.quorum, draft.secure.threshold
    number = count_in_words
    if sites < quorum:
        return [Statement("refused", "sites", f"{number(sites, True)} sites, but every round needs {quorum}.")]
    if threshold < 2 * sites // 3 + 1:
        least = 2 * sites // 3 + 1
        return [
            Statement(
                "refused",
                "sites",
                f"{number(sites, True)} sites need a threshold of {least} or more, found {threshold}.",
            )
        ]
    needed = colluders_needed(draft, sites)
    spare = sites - quorum
    drop = "none may drop out" if spare == 0 else f"{number(spare)} may drop out, {number(spare + 1)} may not"
    together = f"a coordinator that lies, together with {number(needed)} of them, learns another's update"
    opened = f"{number(sites, True)} sites, threshold {threshold}: {together}; {drop}."
    statements = [Statement("risk", "collusion", opened)]
    if spare:
        subtracted = (
            f"In a round from which {number(spare)} dropped out, the {number(quorum - 1)} other survivors learn the "
            "last one's update by subtracting their own from the sum; a lying coordinator can bring such a round about."
        )
        statements.append(Statement("risk", "collusion", subtracted))
    hidden = (
        f"A site's update stays hidden while at most {number(needed - 1)} other {_sites(needed - 1)}, even with the "
        "coordinator."
    )
    return [*statements, Statement("fact", "collusion", hidden)]


def _in_groups(draft: Draft, sites: int, groups: int) -> list[Statement]:
    """The same where each group's sum is opened by itself: sums are over fewer sites."""
    try:
        check_group_sizes(draft, sites)
    except ValueError as e:
        return [Statement("refused", "sites", f"{e}.")]
    number, floors, needed = count_in_words, group_floors(draft, sites), colluders_needed(draft, sites)
    who = " or ".join(number(size) for size in floors)
    spare = min(size - q for size, q in floors.items())
    drop = "none of a group may drop out" if spare == 0 else f"{number(spare)} of a group may drop out"
    return [
        Statement(
            "risk",
            "collusion",
            f"{number(groups, True)} groups of {who} sites, drawn by all sites together, and each group's sum is "
            f"opened by itself: it hides a site among {number(min(floors.values()))}, not among {number(sites)}.",
        ),
        Statement(
            "risk",
            "collusion",
            f"A coordinator that lies, together with {number(needed)} sites that the draw put into one group, learns "
            f"the update of another of that group; {drop}.",
        ),
        Statement(
            "fact",
            "collusion",
            "No one chooses the groups. Whoever stays away when they are drawn ends that run id, and each one counts "
            "towards the runs that a site's policy allows.",
        ),
    ]


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
    seen = "which nobody learns" if draft.secure.is_masked else "which the coordinator learns"
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
    private = draft.dp.mode == "local"
    told = (
        "It follows from an update that is differentially private, and costs nothing more."
        if private
        else "It can tell whether a single record was trained on: no noise is added to it."
    )
    if noisy is not None:
        spread = 2 * noisy.noise_multiplier / noisy.expected_units
        told = (
            f"It is of private notes: noise of {spread:.2g} nats is added, and every round's score is in the ε above "
            f"(scores alone: {epsilon_of_scores(draft):.2g})."
        )
    return [
        Statement(
            "fact",
            "weights",
            f"Sites weigh by exp(1 - loss) of their own model on {size} ({name})"
            + (f", times a size bin ({bins}; others 1)." if bins else "."),
        ),
        Statement(
            "fact" if private else "risk",
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


def _encoding(draft: Draft, sites: int | None) -> list[Statement]:
    """How coarse the sum is."""
    if not draft.secure.is_masked or sites is None:
        return []
    try:
        fixed = FixedPoint.choose(Lanes.named(draft.secure.lanes), sites, draft.secure.clip)
    except ConfigError as e:
        return [Statement("refused", "encoding", str(e))]
    text = (
        f"Coordinates are clipped to {draft.secure.clip:g} and rounded at random to steps of {fixed.step:.3g} "
        f"({fixed.lanes.bits}-bit lanes, {sites} sites): the mean is off by at most about {fixed.step:.3g}"
    )
    if draft.weighting.rule == "size":
        ratio = draft.weighting.count_max / draft.weighting.count_min
        text += f" times count_max over the mean count, so {ratio * fixed.step:.3g} at worst"
    if draft.weighting.rule == "influence":
        text += " times the largest weight over the mean weight"
    if draft.weighting.groups is not None:
        text += " times the step"
    return [Statement("fact", "encoding", text + ", and a larger change of one round is cut off.")]


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


def _bytes(draft: Draft, sites: int, coordinates: int) -> list[Statement]:
    """What one site sends and receives in a round, apart from a few kilobytes of keys and shares."""
    try:
        fixed = FixedPoint.choose(Lanes.named(draft.secure.lanes), sites, draft.secure.clip)
    except ConfigError:
        return []
    weight_max = draft.weighting.count_max if draft.weighting.rule == "size" else 1
    encryption = STANDARD if draft.secure.mode == "he-mask" else None
    parameters = SumParameters(fixed, coordinates, weight_max, draft.weighting.rule == "size", encryption=encryption)
    up = parameters.masked_bytes if draft.secure.is_masked else 8 * parameters.words
    down = 4 * coordinates + up  # the adapter, and for the verdict the sum
    if encryption is not None:
        down = encryption.sum_bytes(parameters.words, sites)  # after the first round a digest stands for the adapter
    if draft.weighting.groups is not None:
        down += draft.weighting.groups * up  # and then those of all groups
    shown = (
        f"{coordinates:,} coordinates: a site sends {_size(up + SIGNATURE_BYTES)} and receives {_size(down)} a round"
    )
    return [Statement("fact", "bytes", f"{shown}, and a few kilobytes of keys and shares.")]


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count:,} bytes"
    return f"{count / 1e6:,.2f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"
