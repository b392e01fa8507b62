"""What a plan may ask where sites are weighed in groups: how many groups, and how small a sum may be that is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsec_secure.errors import ConfigError
from fedsec_secure.masking.draw import least_threshold, require_sizes

if TYPE_CHECKING:
    from fedsec.plan.model import Draft

GROUPED = "group-influence"


def is_grouped(draft: Draft) -> bool:
    """Whether the sites of this plan are drawn into groups."""
    return draft.weighting.rule == GROUPED


def check_groups(draft: Draft) -> None:
    """ValueError where groups are missing, or nothing would draw them, or a field beside them would do nothing."""
    weighting = draft.weighting
    if weighting.rule != GROUPED:
        if weighting.groups is not None:
            raise ValueError(f'weighting.rule is "{weighting.rule}" but weighting.groups is set: nothing would use it')
        return
    if weighting.groups is None:
        raise ValueError(
            f'weighting.rule is "{GROUPED}" without weighting.groups: say into how many groups, at least 2'
        )
    if weighting.size_bins:
        raise ValueError(f'weighting.rule is "{GROUPED}" but weighting.size_bins is set: nothing would use it')


def check_group_sizes(draft: Draft, sites: int) -> None:
    """ValueError for a roster that is too small for the plan's groups."""
    groups, cohort = draft.weighting.groups, draft.secure.minimum_cohort
    if groups is None:
        return
    try:
        require_sizes(sites, groups)
    except ConfigError as e:
        raise ValueError(f"weighting.groups: {e}") from e
    if sites // groups < cohort:
        raise ValueError(
            f"secure.minimum_cohort is {cohort}; {sites} sites in {groups} groups leave {sites // groups} in the "
            "smallest, and each group's sum is opened by itself: lower it, or weighting.groups"
        )


def group_floors(draft: Draft, sites: int) -> dict[int, int]:
    """Sizes that groups have -> the fewest survivors of such a group; empty where there are none."""
    groups = draft.weighting.groups
    if groups is None:
        return {}
    sizes = sorted({sites // groups, -(-sites // groups)})
    return {size: max(draft.secure.minimum_cohort, least_threshold(size)) for size in sizes}


def fewest_in_a_round(draft: Draft, sites: int | None) -> int:
    """Survivors that every round has: the quorum, and where there are groups each one's floor."""
    quorum, groups = draft.secure.quorum, draft.weighting.groups
    if groups is None or sites is None:
        return quorum
    floors, larger = group_floors(draft, sites), sites % groups
    return max(quorum, (groups - larger) * floors[sites // groups] + larger * floors[-(-sites // groups)])


def fewest_in_a_sum(draft: Draft, sites: int | None) -> int:
    """The fewest sites in any sum that is opened: of a group where there are groups, else of a round.

    ``sites``: of the roster, where it is known.
    """
    groups, secure = draft.weighting.groups, draft.secure
    if groups is None:
        return secure.quorum
    if sites is None:
        return secure.minimum_cohort
    return min(group_floors(draft, sites).values())
