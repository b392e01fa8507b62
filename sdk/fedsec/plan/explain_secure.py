"""What a plan's secure mode means in plain words: who sees what, who would have to conspire, how coarse sums are."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from fedsec.plan.colluders import colluders_needed
from fedsec.plan.cost import distributed_step
from fedsec.plan.encryption import check_encryption, most_addends
from fedsec.plan.group_checks import check_group_sizes, group_floors
from fedsec.plan.model import Draft, Plan
from fedsec.plan.statement import Statement, count_in_words
from fedsec_secure.codec import SIGNATURE_BYTES
from fedsec_secure.errors import ConfigError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.numeric.lanes import FixedPoint, Lanes

_ORDINALS: Final = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


_WARNINGS: Final = MappingProxyType(
    {
        "none": (
            "secure.mode is none: the coordinator sees every site's update in the clear, and can reconstruct parts "
            "of notes from it{within}. For baselines only; each site's policy must allow it by name."
        ),
        "he": (
            "secure.mode is he: the coordinator together with any one site, or with whoever has that site's key, reads "
            "the update of every site, and can reconstruct parts of notes from it{within}. With he-mask it would need "
            "many sites, as with mask. Each site's policy must allow he by name."
        ),
    }
)


def warning(draft: Draft) -> str | None:
    """What whoever approves or runs a plan has to know of its secure mode, if anything."""
    text = _WARNINGS.get(draft.secure.mode)
    return None if text is None else text.format(within=_within(draft))


def _within(draft: Draft) -> str:
    """What bounds an attack on an update or the adapter: of a unit that is a record, not a whole note."""
    return "" if draft.dp.mode == "none" else f", within dp's bound for one {draft.dp.unit}"


def protection(draft: Draft, sites: int | None) -> list[Statement]:
    """Who learns what under the plan's secure mode."""
    warned = warning(draft)
    risks = [] if warned is None else [Statement("risk", "protection", warned)]
    if draft.secure.mode == "none":
        return risks
    adapter = (
        "The finished adapter is a function of everyone's notes and is not protected by encryption or masks: who holds "
        f"it can test whether a note was in the training{_within(draft)}."
    )
    if draft.secure.mode == "he":
        alone = (
            "Updates leave encrypted under a key that all sites share: the coordinator adds them by their weights, and "
            "alone reads no update, no sum and not the adapter. No site's notes leave it."
        )
        return [
            Statement("fact", "protection", alone),
            *risks,
            Statement("risk", "protection", adapter),
        ]
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
        Statement("risk", "protection", adapter),
    ]


def collusion(draft: Draft, sites: int | None) -> list[Statement]:
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


def _sites(n: int) -> str:
    return "site conspires" if n == 1 else "sites conspire"


def _ordinal(n: int) -> str:
    return _ORDINALS[n] if n < len(_ORDINALS) else f"{n}th"


def encoding(draft: Draft, sites: int | None) -> list[Statement]:
    """How coarse the sum is."""
    if draft.secure.mode == "none" or sites is None:
        return []
    if draft.dp.mode == "distributed":
        return [_integers(draft)]
    try:
        check_encryption(draft, sites)
        fixed = FixedPoint.choose(Lanes.named(draft.secure.lanes), most_addends(draft, sites), draft.secure.clip)
    except (ConfigError, ValueError) as e:
        return [Statement("refused", "encoding", str(e))]
    text = (
        f"Coordinates are clipped to {draft.secure.clip:g} and rounded at random to steps of {fixed.step:.3g} "
        f"({fixed.lanes.bits}-bit lanes, {sites} sites): the mean is off by at most about {fixed.step:.3g}"
    )
    if draft.weighting.rule == "size":
        ratio = draft.weighting.count_max / draft.weighting.count_min
        text += f" times count_max over the mean count, so {ratio * fixed.step:.3g} at worst"
    if draft.weighting.rule == "influence" and draft.secure.mode == "he":
        text += f", and weights are rounded to one of {fixed.sites} units"
    elif draft.weighting.rule == "influence":
        text += " times the largest weight over the mean weight"
    if draft.weighting.groups is not None:
        text += " times the step"
    return [Statement("fact", "encoding", text + ", and a larger change of one round is cut off.")]


def _integers(draft: Draft) -> Statement:
    """Distributed noise: what is summed are integers on a grid of the clipping norm, and `secure.clip` is not used."""
    step = "a fraction of dp.clipping_norm"
    if isinstance(draft, Plan):
        try:
            step = f"{distributed_step(draft).grid:.3g}"
        except ConfigError as e:
            return Statement("refused", "encoding", str(e))
    text = (
        f"Clipped gradients are rounded at random to steps of {step}, and noise is added in whole steps: their sum is "
        "exact. secure.clip does not apply."
    )
    return Statement("fact", "encoding", text)


def bytes_a_round(draft: Draft, sites: int, coordinates: int) -> list[Statement]:
    """What one site sends and receives in a round, apart from a few kilobytes of keys and shares."""
    try:
        fixed = FixedPoint.choose(Lanes.named(draft.secure.lanes), most_addends(draft, sites), draft.secure.clip)
    except ConfigError:
        return []
    weight_max = draft.weighting.count_max if draft.weighting.rule == "size" else 1
    encryption = STANDARD if draft.secure.is_encrypted else None
    parameters = SumParameters(fixed, coordinates, weight_max, draft.weighting.rule == "size", encryption=encryption)
    up = 8 * parameters.words if draft.secure.mode == "none" else parameters.masked_bytes
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
