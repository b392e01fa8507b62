"""FedSVD's step between rounds: new factors of the common B A (Lee et al. 2025, arXiv 2505.12805, section 3).

The new A has the orthonormal right singular vectors of B A as its rows, the new B is B A times its transpose, so that
the product stays what it was up to rounding. It is computed from the decoded sum alone, at the coordinator and at every
site to the same bits: post-processing, which costs no privacy.

No product as wide as a layer is made. With A = L Q (Q of orthonormal rows) and C = B L, the right singular vectors of
B A are V^T Q where the columns of V are the eigenvectors of C^T C, and the new B is C V. V is orthogonal whatever its
columns' accuracy, so the product does not depend on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fedsec.training.adapter import AdapterState, Float32Array
from fedsec.training.reproducible import Float64Array, eigenvectors, gram, orthonormal_rows, times


def refactored(adapter: AdapterState) -> AdapterState:
    """The same products B A with A of orthonormal rows, ordered by descending singular values.

    Signs are such that the largest value of each row of A is positive. Where B A has fewer than r singular values the
    rest of A's rows completes the basis of the old one's, and B's columns there are zero. LocalMisuseError where the
    rows of an A are not independent.
    """
    tensors = dict(adapter)
    for names in _alike(adapter):
        first = _stacked([adapter[a] for a, _ in names])
        second = _stacked([adapter[b] for _, b in names])
        a, b = _factored(first, second)
        tensors |= {name: values for (name, _), values in zip(names, a, strict=True)}
        tensors |= {name: values for (_, name), values in zip(names, b, strict=True)}
    return AdapterState(tensors)


def _factored(first: Float64Array, second: Float64Array) -> tuple[Float32Array, Float32Array]:
    """New A, float32[m, r, in], and B, float32[m, out, r], of the old ones in float64."""
    basis = orthonormal_rows(first)
    wide = times(second, gram(first, basis))
    across = np.ascontiguousarray(wide.transpose(0, 2, 1))
    _, vectors = eigenvectors(gram(across, across))
    a = times(np.ascontiguousarray(vectors.transpose(0, 2, 1)), basis)
    b = times(wide, vectors)
    peaks = np.take_along_axis(a, np.abs(a).argmax(axis=2)[..., None], axis=2)
    signs = np.where(peaks < 0, -1.0, 1.0)
    a *= signs
    b *= signs.transpose(0, 2, 1)
    b += 0.0  # no negative zeros
    return a.astype(np.float32), b.astype(np.float32)


def _alike(adapter: AdapterState) -> list[list[tuple[str, str]]]:
    """Names of A and B of every module, those of the same shapes together."""
    groups: dict[tuple[tuple[int, ...], ...], list[tuple[str, str]]] = defaultdict(list)
    for name in adapter:
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            groups[adapter[name].shape, adapter[other].shape].append((name, other))
    return list(groups.values())


def _stacked(tensors: Sequence[Float32Array]) -> Float64Array:
    return np.stack(tensors).astype(np.float64)
