"""Poisson sampling: each unit takes part by a coin of its own, from the operating system.

The accountant's numbers hold for this sampling only: not for shuffled batches of a fixed size, and not for coins that a
seed predicts. Batches vary in size, and empty ones happen; a step on an empty one adds its noise and is charged.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fedsec_secure.errors import ConfigError, LocalMisuseError

_COIN = 1 << 64
_CHUNK = 1 << 15


class PoissonSampler:
    """Includes each unit with probability floor(rate * 2^64) / 2^64, independently.

    Sampler and accountant take their numbers from one object: :attr:`rate` is what is drawn, :attr:`accounted` the
    float, never smaller, that goes into the privacy event.

    Args:
        rate: above 0 and at most 1; a float is taken as the binary fraction that it is.

    Raises:
        ConfigError: the rate is no such number, or below 2^-64, which no coin of 64 bits can show.
    """

    def __init__(self, rate: Fraction | float) -> None:
        known = isinstance(rate, Fraction | float | int) and not isinstance(rate, bool)
        if not known or not Fraction(1, _COIN) <= rate <= 1:
            raise ConfigError(
                f"Poisson sampling: expected a rate of at least 2^-64 and at most 1, found {rate!r}: "
                "use the expected batch size divided by the number of units"
            )
        self._threshold = math.floor(Fraction(rate) * _COIN)

    @property
    def rate(self) -> Fraction:
        """The probability with which a unit is drawn, exactly; at most the rate that was asked for."""
        return Fraction(self._threshold, _COIN)

    @property
    def accounted(self) -> float:
        """The smallest float that is not below :attr:`rate`."""
        near = float(self.rate)
        return near if Fraction(near) >= self.rate else math.nextafter(near, 1.0)

    def sample(self, units: int) -> npt.NDArray[np.bool_]:
        """A fresh mask bool[units]: 64 bits of the operating system's generator for every unit.

        Memory: one byte a unit, and 256 KiB. LocalMisuseError for a number of units that is no count.
        """
        if type(units) is not int or units < 0:
            raise LocalMisuseError(f"Poisson sampling: expected a number of units from 0, found {units!r}")
        drawn = np.ones(units, dtype=np.bool_)
        if self._threshold == _COIN:  # rate 1; the threshold does not fit 64 bits
            return drawn
        for start in range(0, units, _CHUNK):
            part = drawn[start : start + _CHUNK]
            coins = np.frombuffer(os.urandom(8 * len(part)), dtype="<u8")
            np.less(coins, np.uint64(self._threshold), out=part)
        return drawn
