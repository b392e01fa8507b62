"""Flat clipping: one norm over all factors of a record, and the sum of what is left (Abadi et al. 2016, section 3.1).

Rounding. With u = 2^-53, K tensors of d values together and n records, every norm is computed with a relative error of
at most (d/2 + K/2 + 3) u, and the sum with an error of at most (n + 1) n u C (Higham 2002, sections 3.1 and 4.2). For
d up to 2^31 and n up to 2^14, which are enforced, the first is below 2^-23 + 2^-30 and twice the second below 2^-23.75.
Records are clipped to C (1 - 2^-22) instead of C, which is more than both: so, as real numbers, a record contributes at
most C, and one record more or less moves the returned sum by at most C, rounding included, where the other records'
gradients are the same bits. (Whether they are is a matter of the forward and backward pass: see `buckets`.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from fedsec_secure.errors import ConfigError, LocalMisuseError

MAX_RECORDS = 1 << 14
MAX_PARAMETERS = 1 << 31
_MARGIN = 2.0**-22


class Clipped(NamedTuple):
    """``total``: name -> float64[*shape], the sum; ``norms``: float64[n] before clipping, infinite where not finite."""

    total: dict[str, torch.Tensor]
    norms: torch.Tensor


def clip_and_sum(gradients: Mapping[str, torch.Tensor], bound: float) -> Clipped:
    """sum_i min(1, C / ||g_i||) g_i with C = ``bound``, accumulated in float64.

    ``gradients``: name -> float[n, *shape]. A record whose gradient is not finite contributes zero: its influence must
    stay bounded whatever it holds, and to stop there would tell others that such a record exists. Its norm is given as
    infinite, for the site's own eyes. ConfigError for a bound that is not positive and finite, LocalMisuseError for
    gradients that are no float32 or float64 tensors of the same n, or too many of them.
    """
    if not (math.isfinite(bound) and bound > 0):
        raise ConfigError(f"clipping bound: expected a positive finite number, found {bound}; set a positive one")
    records = _require_gradients(gradients)
    norms = _norms(gradients, records)
    usable = torch.isfinite(norms)
    limit = bound * (1.0 - _MARGIN)
    factors = torch.where(norms > limit, limit / norms, torch.ones_like(norms))
    whole = bool(usable.all())
    total = {}
    for name, gradient in gradients.items():
        # 0 * inf is not a number, so such records are left out rather than scaled to nothing
        rows, weights = (gradient, factors) if whole else (gradient[usable], factors[usable])
        shape = gradient.shape[1:]
        total[name] = (weights @ rows.reshape(weights.numel(), math.prod(shape)).double()).view(shape)
    return Clipped(total, norms)


def _norms(gradients: Mapping[str, torch.Tensor], records: int) -> torch.Tensor:
    device = next(iter(gradients.values())).device
    squares = torch.zeros(records, dtype=torch.float64, device=device)
    if records:
        for gradient in gradients.values():
            # float64 throughout: the square of a float32 may overflow float32
            squares += torch.linalg.vector_norm(gradient.reshape(records, -1), dim=1, dtype=torch.float64).square()
    norms = squares.sqrt()
    return torch.where(torch.isfinite(norms), norms, torch.full_like(norms, math.inf))


def _require_gradients(gradients: Mapping[str, torch.Tensor]) -> int:
    """The number of records n that all tensors agree on."""
    if not gradients:
        raise LocalMisuseError("clipping: expected the gradients of at least one tensor, found none")
    counts = {int(gradient.shape[0]) if gradient.ndim else -1 for gradient in gradients.values()}
    types = {gradient.dtype for gradient in gradients.values()}
    if len(counts) > 1 or -1 in counts or not types <= {torch.float32, torch.float64}:
        raise LocalMisuseError(
            "clipping: expected float32 or float64 tensors with the same number of records first, found "
            f"{sorted(counts)} records and {sorted(map(str, types))}"
        )
    (records,) = counts
    size = sum(math.prod(gradient.shape[1:]) for gradient in gradients.values())
    if records > MAX_RECORDS or size > MAX_PARAMETERS:
        raise LocalMisuseError(
            f"clipping: expected at most {MAX_RECORDS} records of {MAX_PARAMETERS} values, beyond which the rounding "
            f"bound does not hold, found {records} of {size}; use smaller physical batches"
        )
    return records
