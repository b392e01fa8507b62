"""A site of a lower rank: the first rows of A and columns of B, and zeros elsewhere in its update.

HetLoRA's zero padding (Cho et al. 2024, arXiv 2401.06432), of updates. A site of rank k trains an adapter of k rows
with the scaling alpha / r of the plan's rank r, so that what it learns has the same size in the shared one.
"""

from __future__ import annotations

import numpy as np

from fedsec.plan.specs import LoraSpec
from fedsec.training.adapter import AdapterState, Float32Array


def spec_of_rank(lora: LoraSpec, rank: int) -> LoraSpec:
    """The adapter of a site of this rank, with the plan's scaling alpha / r."""
    return lora.model_copy(update={"rank": rank, "alpha": lora.alpha * rank / lora.rank})


def cut(state: AdapterState, rank: int) -> AdapterState:
    """The first ``rank`` rows of every A and columns of every B."""
    return AdapterState({name: _part(name, tensor, rank) for name, tensor in state.items()})


def padded(part: AdapterState, state: AdapterState) -> AdapterState:
    """``state`` with the values of ``part``, which `cut` has the shapes of, in its first rows and columns."""
    tensors = {}
    for name, tensor in state.items():
        whole = np.array(tensor)
        _part(name, whole, min(part[name].shape))[...] = part[name]
        tensors[name] = whole
    return AdapterState(tensors)


def _part(name: str, tensor: Float32Array, rank: int) -> Float32Array:
    return tensor[:rank] if ".lora_A." in name else tensor[:, :rank]
