"""Fed-SB's adapter: a square matrix between fixed factors (Singhal et al. 2025, arXiv 2502.15436).

A layer's weights change by s B R A, with s = alpha / r, A of orthonormal rows, B of orthonormal columns and R [r, r],
which alone is trained and shared. The paper takes A and B from the singular vectors of a first gradient on some records
(LoRA-SB, arXiv 2411.19557). Here they follow from the plan's seed and no note is read for them, so R sees the part of a
gradient that falls into random subspaces.

While rounds go on the state has all three, as ``lora_A``, ``lora_B`` and ``lora_R``; a finished adapter has B R in B's
place and is plain LoRA.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from fedsec.training.adapter import AdapterState, Float32Array, seeded_uniform
from fedsec.training.reproducible import orthonormal_rows, times

_DOMAIN = b"fedsec/fixed-factor/v1\0"


def is_square(name: str) -> bool:
    """Whether this tensor is an R."""
    return ".lora_R." in name


def factors_around(name: str) -> tuple[str, str]:
    """The names of the A and the B that an R stands between."""
    return name.replace(".lora_R.", ".lora_A."), name.replace(".lora_R.", ".lora_B.")


def fixed_factors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> AdapterState:
    """The state before round 0 for the shapes of a LoRA adapter: A, B and R = 0, the same bits on every platform.

    A and B are orthonormal bases of random subspaces, from the seed and the tensors' names alone.
    """
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, shape in shapes.items():
        alike[tuple(sorted(shape))].append(name)  # [r, n], since no rank is above a width
    tensors: dict[str, Float32Array] = {}
    for (rank, width), names in alike.items():
        drawn = [seeded_uniform(_seed(name, seed), (rank, width), 1.0) for name in names]
        rows = orthonormal_rows(np.stack(drawn).astype(np.float64)).astype(np.float32)
        for name, values in zip(names, rows, strict=True):
            first = ".lora_A." in name
            tensors[name] = values if first else values.T
            if first:
                tensors[name.replace(".lora_A.", ".lora_R.")] = np.zeros((rank, rank), np.float32)
    return AdapterState(tensors)


def folded(state: AdapterState) -> AdapterState:
    """The plain LoRA adapter of a state with R: A, and B R, computed in float64 and rounded once."""
    tensors = {name: tensor for name, tensor in state.items() if not is_square(name)}
    for name in filter(is_square, state):
        _, b = factors_around(name)
        product = times(state[b].astype(np.float64)[None], state[name].astype(np.float64)[None])
        tensors[b] = product[0].astype(np.float32)
    return AdapterState(tensors)


def _seed(name: str, seed: int) -> bytes:
    return hashlib.sha256(_DOMAIN + seed.to_bytes(8, "big") + name.encode("utf-8")).digest()
