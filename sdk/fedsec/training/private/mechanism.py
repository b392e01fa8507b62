"""What one private step reveals: a clipped sum on a grid, with exact noise (Abadi et al. 2016, algorithm 1).

Floating-point noise can be told from a Gaussian (Mironov 2012), so the sum is rounded to a grid of C / 2^20 first and
integers from the discrete Gaussian are added (Canonne, Kamath and Steinke 2020).

Sensitivity. One unit more or less moves the clipped sum of d coordinates by at most C, rounding included (`clipping`).
Batch-mates move each other's gradients where a matrix product is cut differently for another number of rows: on one
thread in float32 by less than 1e-6 of the norm (`mates` measures it on each machine), so `MATES` of them by less than
`SLACK` times C (900 times 1e-6, and 2^-10 is 976 times that); with physical batches of one record no gradient has
mates, and nothing is added. Rounding moves each coordinate of either sum by at most half a step, so the difference by
at most sqrt(d) steps. Noise is sized for the sum of the three: sigma^2 = z^2 (2^20 (1 + slack) + sqrt(d))^2 + 8 for the
noise multiplier z.

What accountants know is the continuous Gaussian. A discrete one of variance sigma^2 is, within a factor exp(2^-170), a
continuous one of variance sigma^2 - 8 that was rounded by coins (`fedsec.privacy.mechanisms`), and rounding costs no
privacy: so 8 is added to the variance, and every accountant's number holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import torch

from fedsec.privacy.mechanisms import LEAST_CLIP, SMOOTHING, root_above
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.discrete_gaussian import DiscreteGaussian

GRID: Final = 1 << 20
"""Grid steps in a clipping bound."""
SLACK: Final = Fraction(1, 1 << 10)
"""Of the clipping bound: what up to `MATES` batch-mates may move each other's gradients, together."""
MOVED: Final = Fraction(1, 10**6)
"""Of the clipping bound: what one unit may move the gradient of one batch-mate."""
MATES: Final = 900
"""Units in a step, at most, where gradients are not computed alone: `MATES` times `MOVED` is within `SLACK`."""


class NoisySum:
    """The mechanism of every private step.

    Args:
        bound: the clipping bound C, from 2^-64 and finite.
        noise_multiplier: the noise's standard deviation over the sensitivity, from 2^-3 to 2^15.
        dimension: how many coordinates d all tensors have together.
        slack: what is added to the sensitivity, over C: `SLACK`, or 0 where every gradient is computed alone.

    Raises:
        ConfigError: a number outside these ranges.
    """

    def __init__(self, bound: float, noise_multiplier: float, dimension: int, slack: Fraction = SLACK) -> None:
        if not (LEAST_CLIP <= bound < math.inf and 2**-3 <= noise_multiplier <= 2**15 and 1 <= dimension <= 2**31):
            raise ConfigError(
                "noise: expected a bound from 2^-64, a noise multiplier from 0.125 to 32768 and 1 to 2^31 coordinates; "
                f"found {bound}, {noise_multiplier} and {dimension}: change dp.clipping_norm or dp.noise_multiplier"
            )
        self._step = bound / GRID
        steps = GRID * (1 + slack) + math.isqrt(dimension - 1) + 1
        self.sigma: float = root_above((Fraction(noise_multiplier) * steps) ** 2 + SMOOTHING)
        self._noise = DiscreteGaussian(self.sigma)

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise of every coordinate, in the gradient's units."""
        return self.sigma * self._step

    def release(self, total: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``total`` (name -> float64[*shape], the clipped sum) on the grid, with fresh noise on every coordinate.

        Memory: 24 bytes for each coordinate of the largest tensor, besides the result.
        """
        return {name: self._noised(tensor) for name, tensor in total.items()}

    def _noised(self, tensor: torch.Tensor) -> torch.Tensor:
        steps = torch.round(tensor.double().cpu() / self._step).to(torch.int64)
        steps += torch.from_numpy(self._noise.sample(steps.numel())).view(steps.shape)
        return steps.double().mul_(self._step).to(tensor.device)
