"""How LoRA factors are combined over sites by one linear sum, which is all that secure aggregation offers.

A strategy says for each round what a site trains, and what of that it shares; the rest stays as the round found it. A
sum of updates is *exact* where the mean of the sites' updates gives the mean of their weight changes B_i A_i.

``fedit`` (Zhang et al. 2024) trains A and B. It is inexact: mean(B_i) mean(A_i) is not mean(B_i A_i).
``ffa`` (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313) freezes A at its common initial value, which every site computes
from the plan's seed, and trains B. Exact, since mean(B_i) A = mean(B_i A), and only B is sent.
``rolora`` (RoLoRA, Chen et al. 2024, arXiv 2409.02346) trains B in the rounds 0, 2, 4, ... and A in those between.
Exact in each of them. B comes first: it is zero at the start, and A's gradient with it.
``fedsa`` (FedSA-LoRA, Guo et al. 2024, arXiv 2410.01463) trains both and shares A. Each site's B is its own: nothing
is averaged that is multiplied with something averaged, and no common B A exists that a mean could miss.
``fedsvd`` (FedSVD, Lee et al. 2025, arXiv 2505.12805) trains B. Between rounds the common B A is factored anew
(`fedsec.training.refactor`), which leaves the product as it is. Exact.
``fed-sb`` (Fed-SB, Singhal et al. 2025, arXiv 2502.15436) trains an r x r matrix R between factors that are fixed, so
that the weights change by B R A (`fedsec.training.square`). Exact, since B mean(R_i) A = mean(B R_i A).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import numpy as np

from fedsec.training.adapter import AdapterState, Float32Array
from fedsec_secure.errors import ConfigError, LocalMisuseError

Strategy = Literal["fedit", "ffa", "rolora", "fedsa", "fedsvd", "fed-sb"]
MOMENTS = ("exp_avg/", "exp_avg_sq/")


class _Rule(NamedTuple):
    """The kinds of factor that are trained in round i: those at i modulo how many are listed. And what is kept."""

    trained: tuple[str, ...]
    kept: str = ""


_RULES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "fedit": _Rule(("AB",)),
        "ffa": _Rule(("B",)),
        "rolora": _Rule(("B", "A")),
        "fedsa": _Rule(("AB",), kept="B"),
        "fedsvd": _Rule(("B",)),
        "fed-sb": _Rule(("R",)),
    }
)


def is_moment(name: str) -> bool:
    """Whether a tensor of a shared state belongs to the public optimiser (`fedsec.training.public_step`)."""
    return name.startswith(MOMENTS)


def trained_names(strategy: Strategy, names: Iterable[str], round_index: int) -> tuple[str, ...]:
    """The tensors that sites train in a round, in canonical order; of a shared state those of its adapter."""
    trained = _rule(strategy).trained
    return _of_kinds(names, trained[round_index % len(trained)])


def personal_names(strategy: Strategy, names: Iterable[str]) -> tuple[str, ...]:
    """The trained tensors that never leave their site, in canonical order; none but with ``fedsa``."""
    return _of_kinds(names, _rule(strategy).kept)


def shared_names(strategy: Strategy, names: Iterable[str], round_index: int) -> tuple[str, ...]:
    """The tensors whose updates are summed in a round, in canonical order: `trained_names` less `personal_names`."""
    rule = _rule(strategy)
    kinds = rule.trained[round_index % len(rule.trained)]
    return _of_kinds(names, "".join(kind for kind in kinds if kind not in rule.kept))


def shared_vector(strategy: Strategy, adapter: AdapterState, round_index: int) -> Float32Array:
    """The tensors that are shared in a round as one float32 vector of length d_shared."""
    return adapter.select(shared_names(strategy, adapter, round_index))


def local_update(strategy: Strategy, before: AdapterState, after: AdapterState, round_index: int) -> Float32Array:
    """What a site contributes: shared values after minus before, float32[d_shared]; frozen tensors must not differ."""
    after.require_shapes(before.shapes)
    trained = set(trained_names(strategy, before, round_index))
    moved = [name for name in before if name not in trained and not np.array_equal(before[name], after[name])]
    if moved:
        raise LocalMisuseError(f"strategy {strategy} keeps {moved[0]} frozen, but training changed it")
    return shared_vector(strategy, after, round_index) - shared_vector(strategy, before, round_index)


def apply_update(
    strategy: Strategy, adapter: AdapterState, mean_update: Float32Array, round_index: int
) -> AdapterState:
    """The global adapter after a round: shared values plus the mean update, each sum rounded to float32.

    ``mean_update`` is float32[d_shared]; LocalMisuseError otherwise.
    """
    return adapter.moved(shared_names(strategy, adapter, round_index), mean_update)


def personal_vector(strategy: Strategy, adapter: AdapterState) -> Float32Array | None:
    """The tensors that stay at a site as one float32 vector; None where nothing does."""
    names = personal_names(strategy, adapter)
    return adapter.select(names) if names else None


def with_personal(strategy: Strategy, adapter: AdapterState, values: Float32Array | None) -> AdapterState:
    """The adapter with a site's own values in their places; as it is where there are none yet."""
    return adapter if values is None else adapter.replaced(personal_names(strategy, adapter), values)


def _rule(strategy: str) -> _Rule:
    rule = _RULES.get(strategy)
    if rule is None:
        raise ConfigError(f"lora.strategy: expected one of {', '.join(_RULES)}, found {strategy!r}")
    return rule


def _of_kinds(names: Iterable[str], kinds: str) -> tuple[str, ...]:
    parts = tuple(f".lora_{kind}." for kind in kinds)
    return tuple(sorted(name for name in names if not is_moment(name) and any(part in name for part in parts)))
