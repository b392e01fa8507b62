"""What of an adapter is trained, what leaves a site, and what is done with the sum, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fedsec.plan.model import Draft
from fedsec.plan.statement import Statement

_SHARES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fedit": "Sites train both factors of the adapter, A and B, and share the updates of both. The product of the "
        "means is not the mean of the products: the sum is close to pooled training, not equal.",
        "ffa": "Sites train and share factor B of the adapter; A stays as the plan's seed gives it. The sum is exact.",
        "rolora": "Sites train and share factor B of the adapter in the first round, A in the second, and so on. The "
        "sum is exact.",
        "fedsa": "Sites train both factors of the adapter and share the updates of A only; a site's B never leaves it.",
        "fedsvd": "Sites train and share factor B of the adapter. Between rounds everyone computes new factors of the "
        "same product from the sum. The sum is exact.",
        "fed-sb": "Sites train and share one small square matrix a layer, between two factors that follow from the "
        "plan's seed. The sum is exact.",
    }
)
_PERSONAL: Final = (
    "The released adapter has no B, so by itself it answers as the base model does, also on public tests; a site gets "
    "its own adapter with `fedsec site personal`."
)


def strategy(draft: Draft, sites: int | None) -> list[Statement]:
    """One line about what is shared; more where something is unusual."""
    lora, server = draft.lora, draft.server
    statements = [Statement("fact", "adapter", _SHARES[lora.strategy])]
    if lora.strategy == "fedsa":
        statements.append(Statement("risk", "adapter", _PERSONAL))
    if lora.site_ranks:
        lower = ", ".join(f"{name} {rank}" for name, rank in sorted(lora.site_ranks.items()))
        text = (
            f"Of rank {lora.rank} some sites train less ({lower}): beyond that they count in every mean, with an "
            "update of zero."
        )
        statements.append(Statement("fact", "adapter", text))
    if server.optimiser == "adam":
        text = (
            f"The mean update is taken as a gradient (FedAdam, step {server.learning_rate:g}), by everyone to the same "
            "bits. It is computed from the sum alone."
        )
        statements.append(Statement("fact", "adapter", text))
    return statements
