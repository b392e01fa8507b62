"""LoRA dropout whose mask is a function of (record's key, module), and of nothing else.

In a private step no record may see that others share its batch: the mask of `fedsec.training.dropout`, which is drawn
for the batch as a whole, would change with a record's place in it. Here the same record has the same mask alone, in any
batch and place, in either engine, and when gradient checkpointing computes it again.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch

from fedsec.training.dropout import DropoutSeed, SeededDropout
from fedsec_secure.errors import LocalMisuseError


@dataclass
class Records:
    """Whose forward and backward pass is running: the keys of a batch's records in order, or None between passes."""

    keys: tuple[bytes, ...] | None = None


class RecordDropout(SeededDropout):
    """Inverted dropout with one mask a record, the identity outside training."""

    def __init__(self, probability: float, path: str, records: Records) -> None:
        super().__init__(probability, path, DropoutSeed())
        self.records = records

    def mask(self, x: torch.Tensor) -> torch.Tensor | None:
        """What ``x``, [n, ..., in] with the records first, is multiplied by; None for all ones.

        Values are drawn in row-major order, so that padding on the right leaves those of a record's own tokens alone.
        """
        if not self.training or self.threshold == 0:
            return None
        keys = self.records.keys
        if keys is None or len(keys) != x.shape[0]:
            found = "none" if keys is None else len(keys)
            raise LocalMisuseError(f"per-record dropout: expected {x.shape[0]} records, found keys of {found}")
        size = math.prod(x.shape[1:])
        levels = np.empty((len(keys), size), np.uint16)
        for row, key in zip(levels, keys, strict=True):
            row[:] = self._levels(key, size)
        kept = torch.from_numpy(levels >= self.threshold).to(x.device).view(x.shape)
        return kept.to(x.dtype).mul_(self.scale)

    def _levels(self, key: bytes, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
        h = hashlib.sha256(b"fedsec/record-dropout/v1\0" + len(key).to_bytes(4, "big") + key + self.path)
        sequence = np.random.SeedSequence(np.frombuffer(h.digest(), "<u4").tolist())
        raw = np.random.PCG64(sequence).random_raw(-(-size // 4))
        levels: np.ndarray[tuple[int], np.dtype[np.uint16]] = raw.astype("<u8", copy=False).view("<u2")[:size]
        return levels
