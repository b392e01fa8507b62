"""What a plan may ask of a LoRA strategy beside the table of combinations: ranks and measurements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsec.plan.model import Draft


def check_strategy(draft: Draft) -> None:
    """ValueError where a field would do nothing, or say something that is not so."""
    lora, dp = draft.lora, draft.dp
    if draft.training.proximal_mu and dp.mode == "distributed":
        raise ValueError(
            "training.proximal_mu with dp.mode distributed: a round is one step from the shared adapter, from which "
            "nothing has moved yet that could be pulled back; set it to 0"
        )
    if lora.strategy == "fedsa" and draft.canaries.per_site:
        raise ValueError(
            "lora.strategy fedsa with canaries: exposure is measured on the adapter that is released, and without its "
            "B that is the base model, whatever its A knows; set canaries.per_site = 0"
        )
    if lora.strategy == "fedsa" and draft.evaluation.round_test_limit is not None:
        raise ValueError(
            "lora.strategy fedsa with evaluation.round_test_limit: without a site's B the shared adapter answers as "
            "the base model does; leave it out"
        )
    _check_ranks(draft)


def check_rank_sites(draft: Draft, sites: Iterable[str]) -> None:
    """ValueError for a rank of a site that does not take part."""
    strangers = sorted(set(draft.lora.site_ranks) - set(sites))
    if strangers:
        raise ValueError(f"lora.site_ranks names {strangers[0]}, which is not in the roster; drop it, or correct it")


def _check_ranks(draft: Draft) -> None:
    lora, ranks = draft.lora, draft.lora.site_ranks
    high = [name for name, rank in ranks.items() if rank > lora.rank]
    if high:
        raise ValueError(
            f"lora.site_ranks: {high[0]} has rank {ranks[high[0]]}, above lora.rank {lora.rank}: what it trains beyond "
            "that has no place in the sum; raise lora.rank"
        )
    if ranks and lora.strategy == "fed-sb":
        raise ValueError(
            "lora.site_ranks with lora.strategy fed-sb: of an r x r matrix a site of half the rank would train a "
            "quarter, between factors that fit all of it; leave site_ranks out"
        )
    if ranks and lora.strategy == "fedsa":
        raise ValueError(
            "lora.site_ranks with lora.strategy fedsa: a site's own B would have columns that it never trains, against "
            "rows of A that move; leave site_ranks out"
        )
    if ranks and draft.dp.mode == "distributed":
        raise ValueError(
            "lora.site_ranks with dp.mode distributed: every site adds its share of the noise to every coordinate, and "
            "would train only some; leave site_ranks out"
        )
