"""The model-sized passes of a round: encode, mask, sum, unmask, decode. Chunked: each holds O(chunk) beside its output.

Per coordinate: a site reads 4 bytes (float32) and writes 64 / L bits; the coordinator reads 64 / L bits a survivor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedsec_secure.codec import Writer
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.numeric.keystream import CHUNK_WORDS, Keystream, WordSource, add_streams
from fedsec_secure.numeric.lanes import Floats, Ints, Words, pack_into, round_stochastic, unpack
from fedsec_secure.secrets import SecretBytes, derive


def check_update(update: Floats, parameters: SumParameters) -> None:
    """An update is a finite float32[d]. One NaN or infinity would silently wreck everybody's sum."""
    if update.dtype != np.float32 or update.shape != (parameters.length,):
        raise LocalMisuseError(
            f"expected an update of float32[{parameters.length}], found {update.dtype}{list(update.shape)}"
        )
    for start in range(0, len(update), 1 << 20):
        if not np.isfinite(update[start : start + (1 << 20)]).all():
            raise LocalMisuseError("the update holds NaN or infinity: training diverged; lower the learning rate")


def count_limbs(parameters: SumParameters, weight: int) -> list[int]:
    """The hidden count, lowest limb first."""
    mask = (1 << parameters.limb_bits) - 1
    return [(weight >> (parameters.limb_bits * i)) & mask for i in range(parameters.limbs)]


class Encoder:
    """Encodes an update into words, front to back. The same coins key gives the same integers, always."""

    def __init__(self, parameters: SumParameters, update: Floats, weight: int, coins: SecretBytes) -> None:
        if not 1 <= weight <= parameters.weight_max:
            raise LocalMisuseError(f"expected a weight from 1 to {parameters.weight_max}, found one outside")
        check_update(update, parameters)
        self._p = parameters
        self._update = update
        self._ratio = weight / parameters.weight_max
        self._limbs = np.array(count_limbs(parameters, weight), dtype=np.int32)
        lanes = parameters.fixed.lanes.count
        self._coins = [
            Keystream(derive(coins, "fedsec v1 rounding lane", Writer().uint(lane, 1).done())) for lane in range(lanes)
        ]
        self._at = 0

    def read_into(self, out: Words) -> None:
        """Fill ``out`` (at most CHUNK_WORDS, an even number unless it is the last) with the next encoded words."""
        planes = [self._plane(lane, len(out)) for lane in range(self._p.fixed.lanes.count)]
        pack_into(self._p.fixed.lanes, planes, out)
        self._at += len(out)

    def _plane(self, lane: int, count: int) -> Ints:
        """Elements [lane * words + at, + count) of limbs-then-update, zero past the end."""
        limbs = self._p.limbs
        first = lane * self._p.words + self._at
        coins = self._coins[lane].next((count + 1) // 2).view(np.uint32)[:count]
        low, high = max(first, limbs), min(first + count, self._p.elements)
        if first >= limbs and high == first + count:
            return round_stochastic(self._p.fixed, self._update[first - limbs : high - limbs], self._ratio, coins)
        plane = np.zeros(count, dtype=np.int32)
        if high > low:
            window = slice(low - first, high - first)
            values = self._update[low - limbs : high - limbs]
            plane[window] = round_stochastic(self._p.fixed, values, self._ratio, coins[window])
        if first < limbs:
            end = min(limbs, first + count)
            plane[: end - first] = self._limbs[first:end]
        return plane


def write_masked(
    words: int,
    source: WordSource,
    plus: Sequence[SecretBytes],
    minus: Sequence[SecretBytes],
    write: Callable[[Words], None],
) -> None:
    """y = source + sum of PRG(plus) - sum of PRG(minus), handed to ``write`` chunk by chunk (the chunk is reused)."""
    up, down = [Keystream(k) for k in plus], [Keystream(k) for k in minus]
    buffer = np.empty(CHUNK_WORDS, dtype="<u8")
    for start in range(0, words, CHUNK_WORDS):
        chunk = buffer[: min(CHUNK_WORDS, words - start)]
        source.read_into(chunk)
        add_streams(chunk, up, down)
        write(chunk)


def sum_words(
    words: int, sources: Sequence[WordSource], plus: Sequence[SecretBytes], minus: Sequence[SecretBytes]
) -> Words:
    """The sum of all sources, plus and minus keystreams: uint64[words]. Memory: O(words), whatever the number."""
    up, down = [Keystream(k) for k in plus], [Keystream(k) for k in minus]
    out = np.zeros(words, dtype="<u8")
    buffer = np.empty(CHUNK_WORDS, dtype="<u8")
    for start in range(0, words, CHUNK_WORDS):
        chunk = out[start : start + CHUNK_WORDS]
        scratch = buffer[: len(chunk)]
        for source in sources:
            source.read_into(scratch)
            chunk += scratch
        add_streams(chunk, up, down)
    return out


@dataclass(frozen=True)
class Decoded:
    """The meaning of a sum: ``mean`` float32[d] of the survivors' weighted clipped updates, and the total weight."""

    mean: Floats
    total_weight: int


def decode_sum(parameters: SumParameters, total: Words, survivors: int, public_weight: int | None) -> Decoded:
    """Range-check every lane of a sum and divide by the survivors' weights.

    ``public_weight`` is the survivors' total where weights are public, None where the count travelled in the limbs.
    Raises PeerViolationError where a lane is outside what ``survivors`` honest encodings can add up to.
    """
    if total.shape != (parameters.words,):
        raise PeerViolationError(f"expected a sum of {parameters.words} words, found {total.size}")
    largest = survivors * parameters.fixed.largest
    limbs, length, words = parameters.limbs, parameters.length, parameters.words
    ints = np.empty(parameters.fixed.lanes.count * words, dtype=np.int32)
    for start in range(0, words, CHUNK_WORDS):
        part = np.ascontiguousarray(total[start : start + CHUNK_WORDS], dtype=np.uint64)
        for lane, plane in enumerate(unpack(parameters.fixed.lanes, part)):
            ints[lane * words + start : lane * words + start + len(plane)] = plane
    coordinates = ints[limbs : limbs + length]
    if coordinates.min() < -largest or coordinates.max() > largest or ints[limbs + length :].any():
        raise PeerViolationError("the sum has a coordinate outside what the survivors' encodings can add up to")
    weight = _total_weight(parameters, ints[:limbs], survivors) if public_weight is None else public_weight
    if not survivors <= weight <= survivors * parameters.weight_max:
        raise PeerViolationError("the summed weight is outside what the plan's bounds allow")
    mean = coordinates.astype(np.float32)
    mean *= np.float32(parameters.fixed.step * parameters.weight_max / weight)
    return Decoded(mean, weight)


def _total_weight(parameters: SumParameters, limbs: Ints, survivors: int) -> int:
    most = survivors * ((1 << parameters.limb_bits) - 1)
    if limbs.min() < 0 or limbs.max() > most:
        raise PeerViolationError("the summed count has a limb outside what the survivors' counts can add up to")
    return sum(int(limb) << (parameters.limb_bits * i) for i, limb in enumerate(limbs))
