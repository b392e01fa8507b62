"""What a server could do with updates that it sees one by one. UNPROTECTED: for updates on public corpora only.

The mean is what a masked sum opens, and nothing else of this is possible under masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fedsec.training.adapter import Float32Array
from fedsec_secure.numeric.score_levels import STEPS_PER_NAT, WORST_LEVEL
from fedsec_secure.weighting.influence import TABLE, ceiling


def mean(updates: Sequence[Float32Array], weights: Sequence[float], clip: float) -> Float32Array:
    """The weighted mean of float32[d] updates, each coordinate clipped to [-clip, clip] first; in float64."""
    total = np.zeros(updates[0].shape)
    for update, weight in zip(updates, weights, strict=True):
        total += weight * np.clip(update, -clip, clip)
    return (total / sum(weights)).astype(np.float32)


def median(updates: Sequence[Float32Array]) -> Float32Array:
    """The median of every coordinate (Yin et al. 2018), float32[d]."""
    return np.median(np.stack(updates), axis=0).astype(np.float32)


def krum(updates: Sequence[Float32Array], malicious: int) -> int:
    """Which update Krum takes (Blanchard et al. 2017), f of n being malicious: the nearest to its n - f - 2 nearest.

    SystemExit for fewer than 2f + 3 updates, which is what its guarantee asks for.
    """
    n = len(updates)
    if n < 2 * malicious + 3:
        raise SystemExit(f"krum: {malicious} malicious of {n} sites; expected at least {2 * malicious + 3} sites")
    stacked = np.stack(updates).astype(np.float64)
    square = np.einsum("id,id->i", stacked, stacked)
    distances = square[:, None] + square[None, :] - 2 * stacked @ stacked.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)[:, : n - malicious - 2]
    return int(nearest.sum(axis=1).argmin())


def influence(losses: npt.ArrayLike, cap: float | None = None) -> npt.NDArray[np.float64]:
    """Shares of a round along the last axis by the rule ``influence``: levels, table, and for float64[n] the cap.

    SystemExit where n equal shares would be above the cap.
    """
    worst = WORST_LEVEL / STEPS_PER_NAT
    known = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=worst, posinf=worst, neginf=worst)
    levels = np.clip(np.floor(known * STEPS_PER_NAT + 0.5), 0, WORST_LEVEL)
    weights = np.array(TABLE)[levels.astype(np.int64)]
    if cap is not None:
        if len(weights) * cap < 1:
            raise SystemExit(f"{len(weights)} sites cannot each weigh at most {cap:g} of a round")
        weights = np.minimum(weights, ceiling(weights.tolist(), Fraction(str(cap))))
    shares: npt.NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def resampled(
    losses: Mapping[str, npt.NDArray[np.float64]], tokens: npt.NDArray[np.int64], size: int, resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Influence shares, float64[resamples, sites], by validation sets of ``size`` drawn with replacement.

    ``losses``: site -> nats per answer token of every record of the pool, [n]; ``tokens``: their answer tokens, [n].
    Every site is scored on the same draw, as on one validation set.
    """
    generator = np.random.default_rng(seed)
    picks = generator.integers(len(tokens), size=(resamples, size))
    drawn = np.stack([(losses[site] * tokens)[picks].sum(1) for site in losses], axis=1)
    return influence(drawn / tokens[picks].sum(1)[:, None])
