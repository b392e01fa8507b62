"""LoRA dropout whose mask is a function of (step seed, module), and of nothing else.

Torch's dropout draws from one global generator in the order of execution; here resuming, recomputation under gradient
checkpointing and the platform all give the same mask. It is also ten times cheaper to draw on a CPU, where torch's
Bernoulli sampling took an eighth of a training step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from fedsec_secure.errors import LocalMisuseError

_LEVELS = 1 << 16
"""The drop probability is rounded to a multiple of 1/65536, and the scale follows the rounded value."""


@dataclass
class DropoutSeed:
    """The seed of the present step, shared by all modules of a model."""

    value: bytes | None = None


class SeededDropout(torch.nn.Module):
    """Inverted dropout (Srivastava et al. 2014), the identity outside training."""

    def __init__(self, probability: float, path: str, seed: DropoutSeed) -> None:
        super().__init__()
        self.threshold = round(probability * _LEVELS)
        self.scale = _LEVELS / (_LEVELS - self.threshold)
        self.path = path.encode("utf-8")
        self.seed = seed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of any shape; a kept value is scaled by 1 / (1 - p)."""
        mask = self.mask(x)
        return x if mask is None else x * mask

    def mask(self, x: torch.Tensor) -> torch.Tensor | None:
        """What ``x`` is multiplied by, of its shape and dtype; None for all ones."""
        if not self.training or self.threshold == 0:
            return None
        if self.seed.value is None:
            raise LocalMisuseError("dropout has no seed: set one for each training step")
        key = hashlib.sha256(b"fedsec/dropout/v1\0" + self.seed.value + self.path).digest()
        sequence = np.random.SeedSequence(np.frombuffer(key, "<u4").tolist())
        raw = np.random.PCG64(sequence).random_raw(-(-x.numel() // 4))
        levels = raw.astype("<u8", copy=False).view("<u2")[: x.numel()]
        kept = torch.from_numpy(levels >= self.threshold).to(x.device).view(x.shape)
        return kept.to(x.dtype).mul_(self.scale)
