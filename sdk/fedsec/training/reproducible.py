"""Linear algebra on small matrices that gives the same bits on every machine.

Whoever decodes a sum computes from it what the next round starts from, and signs its digest. No two libraries of linear
algebra agree on last digits, nor does one with itself on another number of threads. Here are only elementwise float64
operations that IEEE 754 fixes (sum, product, quotient, square root), in an order that the shapes fix, over a batch of
matrices at a time. Products of two float32 values are exact in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedsec_secure.errors import LocalMisuseError

Float64Array = npt.NDArray[np.float64]

_DEPENDENT = 2.0**-40
"""A row whose part that is orthogonal to the rows before it is shorter than this share of it depends on them."""
_NEGLIGIBLE = 2.0**-53
_SWEEPS = 60
"""Of the cyclic Jacobi method, which needs about ten; its result is orthogonal after any number."""


def inner(left: Float64Array, right: Float64Array) -> Float64Array:
    """Sums of products over the last axis, [..., n] and [..., n] give [...]; halves are added until one is left."""
    products = left * right
    count = products.shape[-1]
    while count > 1:
        half = (count + 1) // 2
        products[..., : count - half] += products[..., half:count]
        count = half
    total: Float64Array = products[..., 0]
    return total


def times(left: Float64Array, right: Float64Array) -> Float64Array:
    """Matrix products of a batch, [m, p, k] and [m, k, q] give [m, p, q]; terms are added in the order of k."""
    total = left[:, :, 0, None] * right[:, 0, None, :]
    for k in range(1, left.shape[2]):
        total += left[:, :, k, None] * right[:, k, None, :]
    product: Float64Array = total
    return product


def gram(left: Float64Array, right: Float64Array) -> Float64Array:
    """Products of all rows of a batch, [m, p, n] and [m, q, n] give [m, p, q]: left times the transpose of right."""
    columns = [inner(left, right[:, j : j + 1, :]) for j in range(right.shape[1])]
    return np.stack(columns, axis=-1)


def orthonormal_rows(matrices: Float64Array) -> Float64Array:
    """An orthonormal basis of each matrix's rows, [m, r, n] with r <= n, by modified Gram-Schmidt, twice.

    Row i is in the span of the rows up to i. LocalMisuseError where rows depend on each other.
    """
    rows = np.array(matrices, dtype=np.float64)
    before = np.sqrt(inner(rows, rows))
    for _ in range(2):  # once leaves what rounding adds back along the rows before; twice is enough (Kahan, Parlett)
        for i in range(rows.shape[1]):
            length = np.sqrt(inner(rows[:, i], rows[:, i]))
            if (length <= before[:, i] * _DEPENDENT).any():
                raise LocalMisuseError(
                    f"expected matrices of {rows.shape[1]} independent rows of {rows.shape[2]}, found dependent ones: "
                    "lower lora.rank"
                )
            rows[:, i] /= length[:, None]
            rest = rows[:, i + 1 :]
            rest -= inner(rest, rows[:, i : i + 1])[..., None] * rows[:, i : i + 1]
        before = np.ones_like(before)
    return rows


def eigenvectors(matrices: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Eigenvalues, descending, [m, r], and eigenvectors as columns, [m, r, r], of symmetric matrices [m, r, r].

    Jacobi's method (Golub and Van Loan, Matrix Computations, section 8.5), r / 2 rotations in disjoint planes at a time
    in the order of a round-robin tournament. Eigenvectors are orthogonal to rounding, also of equal eigenvalues.
    """
    h = np.array(matrices, dtype=np.float64)
    size = h.shape[1]
    v = np.broadcast_to(np.eye(size), h.shape).copy()
    planes = _planes(size)
    for _ in range(_SWEEPS):
        turned = [_rotate(h, v, p, q) for p, q in planes]
        if not any(turned):
            break
    values = np.diagonal(h, axis1=1, axis2=2)
    order = np.argsort(-values, axis=1, kind="stable")
    ordered: Float64Array = np.take_along_axis(v, order[:, None, :], axis=2)
    return np.take_along_axis(values, order, axis=1), ordered


def _planes(size: int) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Every pair of coordinates once, in groups of disjoint pairs (circle method); an odd one out rests."""
    even = size + size % 2
    ring, found = list(range(even)), []
    for _ in range(even - 1):
        pairs = [(ring[i], ring[-1 - i]) for i in range(even // 2)]
        kept = sorted((min(pair), max(pair)) for pair in pairs if max(pair) < size)
        found.append((np.array([p for p, _ in kept]), np.array([q for _, q in kept])))
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return [(p, q) for p, q in found if len(p)]


def _rotate(h: Float64Array, v: Float64Array, p: npt.NDArray[np.intp], q: npt.NDArray[np.intp]) -> bool:
    """One rotation in each plane (p, q), in place; whether any was needed."""
    first, last, off = h[:, p, p], h[:, q, q], h[:, p, q]
    needed = np.abs(off) > _NEGLIGIBLE * np.sqrt(np.abs(first * last))
    if not needed.any():
        return False
    with np.errstate(over="ignore"):  # a quotient that overflows is a rotation by nothing
        angle = (last - first) / np.where(needed, 2.0 * off, 1.0)
        tangent = np.where(angle < 0, -1.0, 1.0) / (np.abs(angle) + np.sqrt(angle * angle + 1.0))
    tangent = np.where(needed, tangent, 0.0)
    cosine = 1.0 / np.sqrt(tangent * tangent + 1.0)
    sine = tangent * cosine
    for matrix in (h, v):
        left, right = matrix[:, :, p], matrix[:, :, q]
        matrix[:, :, p] = cosine[:, None, :] * left - sine[:, None, :] * right
        matrix[:, :, q] = sine[:, None, :] * left + cosine[:, None, :] * right
    upper, lower = h[:, p, :], h[:, q, :]
    h[:, p, :] = cosine[:, :, None] * upper - sine[:, :, None] * lower
    h[:, q, :] = sine[:, :, None] * upper + cosine[:, :, None] * lower
    rest = np.where(needed, 0.0, h[:, p, q])
    h[:, p, q] = rest
    h[:, q, p] = rest
    return True
