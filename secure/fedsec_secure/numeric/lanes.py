"""Signed integers packed into 64-bit words, so that adding words adds every lane.

A word carries L lanes of b bits: word = sum over l of v_l * 2^(b*l) mod 2^64, with v_l signed. Sums of words decode
exactly while every lane's sum stays inside [-2^(b-1), 2^(b-1)). The layout is planar: element ``l * words + j`` is
lane l of word j, so that packing is L contiguous passes. Bounds are proved when the parameters are made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsec_secure.errors import ConfigError

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

RINGS: dict[str, tuple[int, int]] = {"2x32": (2, 32), "3x21": (3, 21), "4x16": (4, 16), "2x23": (2, 23)}
"""The last one fills the 46 bits of an encrypted word."""
_FLOAT32_BITS = 24
_SMALLEST_CLIP = 2.0**-64
"""Far from where scaling a float32 would overflow or lose bits."""


@dataclass(frozen=True)
class Lanes:
    """How many lanes a word has, and how many bits a lane has."""

    count: int
    bits: int

    @classmethod
    def named(cls, ring: str) -> Lanes:
        """One of `RINGS`."""
        if ring not in RINGS:
            raise ConfigError(f"secure.ring: expected one of {', '.join(RINGS)}, found {ring!r}")
        return cls(*RINGS[ring])

    @property
    def largest_sum(self) -> int:
        """The largest absolute lane sum that decodes: 2^(b-1) - 1."""
        return (1 << (self.bits - 1)) - 1

    def words(self, elements: int) -> int:
        """64-bit words for so many elements."""
        return -(-elements // self.count)


def pack_into(lanes: Lanes, planes: Sequence[Ints], out: Words) -> None:
    """``out`` (uint64[w]) becomes the packed words of ``planes``, one int32[w] a lane, by Horner's rule."""
    signed = out.view(np.int64)
    signed[:] = planes[lanes.count - 1]
    for index in range(lanes.count - 2, -1, -1):
        signed <<= np.int64(lanes.bits)
        np.add(signed, planes[index], out=signed)


def unpack(lanes: Lanes, words: Words) -> list[Ints]:
    """The lanes of ``words`` (uint64[w]) as int32[w] each: sign-extend the lowest, subtract it, shift, repeat.

    The top lane keeps every bit that is left (at most 32), so a word that no honest sum can give shows there as a value
    out of range.
    """
    rest = words.view(np.int64).copy()
    planes: list[Ints] = []
    for _ in range(lanes.count - 1):
        up = np.int64(64 - lanes.bits)
        lane = (rest << up) >> up
        planes.append(lane.astype(np.int32))
        rest -= lane
        rest >>= np.int64(lanes.bits)
    planes.append(rest.astype(np.int32))
    return planes


@dataclass(frozen=True)
class FixedPoint:
    """Clip, scale and integer bounds of one sum: every number that encoding and decoding need.

    Attributes:
        lanes: the ring.
        sites: at most so many addends.
        clip: coordinates are clipped to [-clip, clip] first.
        scale: a power of two; one integer step is ``1 / scale``.
        largest: no encoded coordinate exceeds it in absolute value, and ``sites * largest`` fits a lane.
    """

    lanes: Lanes
    sites: int
    clip: float
    scale: float
    largest: int

    @classmethod
    def choose(cls, lanes: Lanes, sites: int, clip: float) -> FixedPoint:
        """The finest power-of-two scale for which no sum of ``sites`` encoded values can leave its lane.

        Proof: a clipped x has abs(x * scale) <= clip * scale <= largest, an integer, so both neighbours that
        stochastic rounding may choose are within [-largest, largest]; sites * largest <= 2^(b-1) - 1 by construction.
        ``largest`` is also kept below 2^24 so that scaling is exact in float32, and so that it is a float32 itself:
        rounding the clip or the weighted value to float32 cannot carry it past.
        """
        if sites < 1 or not _SMALLEST_CLIP <= clip <= 1 / _SMALLEST_CLIP:
            raise ConfigError(
                f"fixed point: expected at least 1 site and a clip from {_SMALLEST_CLIP} to {1 / _SMALLEST_CLIP}, "
                f"found {sites} and {clip}"
            )
        largest = min(lanes.largest_sum // sites, (1 << (_FLOAT32_BITS - 1)))
        # Check 52 (overflow): a ring that leaves too few steps is refused.
        if largest < 16:
            raise ConfigError(
                f"a ring with {lanes.bits} bits a lane leaves values below 16 for {sites} sites: choose a wider ring"
            )
        exponent = math.floor(math.log2(largest / clip))
        scale = 2.0**exponent
        while clip * scale > largest:  # log2 may round up
            scale /= 2
        return cls(lanes, sites, clip, scale, largest)

    @property
    def coin_bits(self) -> int:
        """Bits of the rounding coin: as many as keep ``x * scale * 2^R`` inside int32."""
        return 30 - self.largest.bit_length()

    @property
    def step(self) -> float:
        """One integer step as a float: the quantisation step."""
        return 1.0 / self.scale


def round_stochastic(
    fixed: FixedPoint, values: Floats, weight_ratio: float, coins: npt.NDArray[np.uint32], scratch: Floats, out: Ints
) -> None:
    """Encode float32[w] into ``out``: clip, fold the weight in, scale, round up with probability equal to the fraction.

    q = (rint(x * w * scale * 2^R) + r) >> R with r a uniform R-bit coin, R = ``fixed.coin_bits``; unbiased up to the
    2^-(R+1) of the fraction that R bits cannot express. ``coins`` is uint32[w], uniform; it and ``scratch``
    (float32[w]) are overwritten.
    """
    bits = fixed.coin_bits
    values.clip(np.float32(-fixed.clip), np.float32(fixed.clip), out=scratch)
    # Scaling by a power of two is exact, so both factors may be one: the product rounds where x * w would.
    scratch *= np.float32(weight_ratio) * np.float32(fixed.scale * 2.0**bits)
    np.rint(scratch, out=scratch)
    np.copyto(out, scratch, casting="unsafe")
    np.right_shift(coins, np.uint32(32 - bits), out=coins)
    out += coins.view(np.int32)
    out >>= np.int32(bits)
