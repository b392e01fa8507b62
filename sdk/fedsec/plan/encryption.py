"""What encryption asks of a plan: how often ciphertexts may be added, proved when the plan is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsec_secure.errors import ConfigError
from fedsec_secure.he.parameters import STANDARD

if TYPE_CHECKING:
    from fedsec.plan.model import Draft

WEIGHT_UNITS: Final = 256
"""That the weights of one round share, where the coordinator multiplies ciphertexts by them: fine enough for shares to
be right to half a percent, and few enough for every sum to decrypt and a coordinate to keep 14 bits."""


def most_addends(draft: Draft, sites: int) -> int:
    """How often uploads are in a sum, all together: once each, or as they weigh where the coordinator weighs."""
    return WEIGHT_UNITS if _weighs_ciphertexts(draft) else sites


def _weighs_ciphertexts(draft: Draft) -> bool:
    return draft.secure.mode == "he" and draft.weighting.rule == "influence"


def check_encryption(draft: Draft, sites: int) -> None:
    """ValueError where a sum of so many sites would not decrypt, or its weights have no room."""
    if not draft.secure.is_encrypted:
        return
    addends = most_addends(draft, sites)
    if _weighs_ciphertexts(draft) and addends < 2 * sites:
        raise ValueError(
            f"secure.mode is he and weighting.rule influence: {WEIGHT_UNITS} units of weight are too few for {sites} "
            f"sites, at most {WEIGHT_UNITS // 2} share them; use he-mask"
        )
    try:
        STANDARD.check_weights(addends)
    except ConfigError as e:
        raise ValueError(f"secure.mode is {draft.secure.mode}: {e}") from None
