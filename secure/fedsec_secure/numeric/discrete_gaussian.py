"""Exact discrete Gaussian noise: P(X = x) proportional to exp(-x^2 / (2 sigma^2)) over all integers x.

Randomness is a fresh 256-bit key from the operating system for each call, expanded by AES-256-CTR: no seed, no state
that a fork could share. Nothing is computed in floating point; a floating-point sampler gives an attacker the noise's
low bits (Mironov, CCS 2012).

*Small sigma* (at most 512): inversion of a table of 192-bit cumulative probabilities. A table differs from the law by
what lies beyond 14 sigma, at most exp(-98) < 2^-141 (for k > R: exp(-k^2/2v) <= exp(-R^2/2v) exp(-(k-R)^2/2v)), and by
rounding, below 2^-170.

*Large sigma*: X = a Y + Z with Y from a table and Z from the same construction (Micciancio and Walter, CRYPTO 2017,
section 4, with two different variances). With independent Y, Z of variance parameters s^2, r^2 and
sigma^2 = a^2 s^2 + r^2,

    P(X = x) is proportional to exp(-x^2 / (2 sigma^2)) * sum over y of exp(-(y - c x)^2 / (2 t^2)),  t = s r / sigma.

By Poisson's summation formula the inner sum is, whatever its centre, within a factor 1 +- e of t sqrt(2 pi), with
e = 2 exp(-2 pi^2 t^2) (1 + ...). Here r^2 = 5 a^2 and s^2 > 16,000, so t^2 = 5 s^2 / (s^2 + 5) >= 4.99 and e < 2^-141.

At most seven tables and six sums: each coordinate is within statistical distance 2^-128 of the law, and a vector of
2^28 of them within 2^-100. AES-256 as a pseudorandom generator comes on top, as everywhere in this package.
"""

from __future__ import annotations

import decimal
import math
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from fedsec_secure.errors import ConfigError, LocalMisuseError
from fedsec_secure.numeric.keystream import CHUNK_WORDS, Keystream
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.secrets import SecretBytes

Integers = npt.NDArray[np.int64]

SIGMA_RANGE = (Fraction(1, 16), Fraction(1 << 40))
"""Below, nearly every draw is 0; above, sums of noise would come near the ends of int64."""
TABLE_BITS = 192
_LOW_BITS = TABLE_BITS - 64
_TAIL = 14
_WEIGHT_BITS = 256
_GUIDE_BITS = 16
_UNSURE = np.iinfo(np.int16).min
_LARGEST_TABLE = 512
"""In units of sigma. Its symbols, at most 14 * 512 + 1 in absolute value, fit int16."""
_OUTER = 128
"""The step is floor(sigma / 128), so that Y has a variance from 16379 to 25600."""
_INNER = 5
"""r^2 / a^2."""
_EXACT = decimal.Context(prec=100, rounding=decimal.ROUND_HALF_EVEN)


def cumulative(variance: Fraction) -> list[int]:
    """floor(2^192 P(X <= x)) for x from -R to R - 1, R = ceil(14 sigma) or one more: 2 R integers, in order.

    Weights are correct to 100 digits (``decimal`` rounds ``exp`` correctly) and kept as 256-bit fractions; the rest is
    integer arithmetic.
    """
    reach = math.isqrt(math.ceil(_TAIL**2 * variance)) + 1
    unit = decimal.Decimal(1 << _WEIGHT_BITS)
    divisor = decimal.Decimal(2 * variance.numerator)
    half = [
        int(_EXACT.multiply(unit, _EXACT.exp(_EXACT.divide(decimal.Decimal(-k * k * variance.denominator), divisor))))
        for k in range(reach + 1)
    ]
    weights = half[:0:-1] + half
    total = sum(weights)
    return [(below << TABLE_BITS) // total for below in accumulate(weights[:-1])]


class InversionTable:
    """Uniform 192-bit numbers to discrete Gaussian integers; nearly always their first 64 bits decide.

    Memory: 128 KiB for the guide, which answers for most of the values of the first 16 bits, and about 1 KiB per unit
    of sigma. Which entries are read depends on the noise: no protection against whoever watches this process's cache.
    """

    def __init__(self, variance: Fraction) -> None:
        self._bounds = cumulative(variance)
        self._least = -(len(self._bounds) // 2)
        self._tops: Words = np.array([bound >> _LOW_BITS for bound in self._bounds], dtype=np.uint64)
        shift = 64 - _GUIDE_BITS
        first = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(shift)
        below = np.searchsorted(self._tops, first, "left")
        upto = np.searchsorted(self._tops, first | np.uint64((1 << shift) - 1), "right")
        self._guide = np.where(below == upto, below + self._least, _UNSURE).astype(np.int16)

    def look_up(self, words: Words, low: Callable[[], int]) -> Integers:
        """The integers int64[n] for uniform uint64[n].

        ``low`` draws another 128 bits; it is asked where a word equals the first 64 bits of a bound, which happens
        with probability below 2^-50 a coordinate.
        """
        found: Integers = self._guide[(words >> np.uint64(64 - _GUIDE_BITS)).view(np.int64)].astype(np.int64)
        unsure = np.flatnonzero(found == _UNSURE)
        rest = words[unsure]
        counts = np.searchsorted(self._tops, rest, "right")
        found[unsure] = counts + self._least
        # counts 0 wraps to the last bound, which such a word, below the first one, does not equal.
        for at in unsure[self._tops[counts - 1] == rest]:
            found[at] = bisect_right(self._bounds, (int(words[at]) << _LOW_BITS) | low()) + self._least
        return found


@lru_cache(maxsize=32)
def _table(variance: Fraction) -> InversionTable:
    """Tables hold no randomness: they are shared."""
    return InversionTable(variance)


def levels(variance: Fraction) -> list[tuple[int, Fraction]]:
    """[(a_i, v_i)]: the sum of a_i Y_i, with Y_i of variance parameter v_i from a table, has parameter ``variance``."""
    found = []
    while variance > _LARGEST_TABLE**2:
        step = math.isqrt(math.floor(variance / _OUTER**2))
        found.append((step, variance / step**2 - _INNER))
        variance = Fraction(_INNER * step**2)
    return [*found, (1, variance)]


class DiscreteGaussian:
    """The discrete Gaussian with parameter ``sigma``, which is also its standard deviation up to 2^-100 from 2 on.

    Args:
        sigma: a Fraction, or a float, which is taken as the binary fraction that it is. From 1/16 to 2^40.

    Raises:
        ConfigError: sigma is no such number.
    """

    def __init__(self, sigma: Fraction | float) -> None:
        low, high = SIGMA_RANGE
        if isinstance(sigma, bool) or not isinstance(sigma, Fraction | float | int) or not low <= sigma <= high:
            raise ConfigError(
                f"discrete Gaussian: expected a sigma from {low} to 2^40 grid steps, found {sigma!r}: "
                "choose a finer or coarser grid for what the noise is added to"
            )
        self.variance = Fraction(sigma) ** 2
        self._levels = [(np.int64(step), _table(v)) for step, v in levels(self.variance)]

    def sample(self, size: int) -> Integers:
        """``size`` independent draws as int64[size].

        Memory: 8 bytes a coordinate for the result, and about 2 MiB whatever the size. LocalMisuseError for a size
        that is no count.
        """
        if type(size) is not int or size < 0:
            raise LocalMisuseError(f"discrete Gaussian: expected a count from 0, found {size!r}")
        stream = Keystream(SecretBytes.random())
        buffer: Words = np.empty(min(size, CHUNK_WORDS), dtype="<u8")

        def low() -> int:
            more: Words = np.empty(_LOW_BITS // 64, dtype="<u8")
            stream.read_into(more)
            return int.from_bytes(more.tobytes(), "little")

        out: Integers = np.zeros(size, dtype=np.int64)
        for start in range(0, size, CHUNK_WORDS):
            part = out[start : start + CHUNK_WORDS]
            words = buffer[: len(part)]
            for step, table in self._levels:
                stream.read_into(words)
                part += step * table.look_up(words, low)
        return out
