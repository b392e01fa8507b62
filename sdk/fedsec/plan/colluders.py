"""How many sites in league the masks withstand, and that the account of noise counts on no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsec.plan.group_checks import group_floors
from fedsec_secure.masking.draw import least_threshold

if TYPE_CHECKING:
    from fedsec.plan.model import Draft


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


def check_colluders(draft: Draft, sites: int) -> None:
    """ValueError where noise is counted as if more sites were in league than the masks withstand.

    Those who open another's upload have only that site's share of the noise before them: an epsilon that leaves out
    their own noise would not hold against them.
    """
    if draft.dp.mode != "distributed":
        return
    needed, colluders = colluders_needed(draft, sites), draft.dp.colluders
    if 1 <= needed <= colluders:
        raise ValueError(
            f"dp.colluders is {colluders}, but with a coordinator that lies {needed} of {sites} sites open another's "
            f"upload, which has a share of the noise only; set dp.colluders = {needed - 1}, or raise secure.threshold"
        )
