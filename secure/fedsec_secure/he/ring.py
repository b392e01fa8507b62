"""What the coordinator does with ciphertexts: integers modulo q, without a key and without TenSEAL.

A frame is a seed and c0, as little-endian words; an upload is its frames, one after the other. Everything is checked to
be in range before it is added: a frame has no other structure that a hostile byte could change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedsec_secure.codec import Buffer
from fedsec_secure.errors import CodecError, LocalMisuseError
from fedsec_secure.he.parameters import SEED_BYTES, BfvParameters
from fedsec_secure.numeric.keystream import CHUNK_WORDS, MaskStreams, WordSource
from fedsec_secure.numeric.lanes import Words

Seeds = npt.NDArray[np.uint8]
FRAMES = 8
"""That are read at a time: 256 KiB."""


@dataclass(frozen=True)
class Ring:
    """Z_q, elementwise on arrays of uint64 below q, all in place but for scratch of the same length."""

    parameters: BfvParameters
    _q: np.uint64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_q", np.uint64(self.parameters.modulus))

    def add(self, total: Words, other: Words) -> None:
        """``total`` becomes total + other mod q, in place."""
        np.add(total, other, out=total)  # below 2^61
        self._reduce_once(total)

    def add_weighted(self, total: Words, other: Words, weight: int) -> None:
        """``total`` becomes total + weight * other mod q, in place, for a weight from -capacity to capacity.

        The product may pass 2^64. Its quotient by q fits a float64 well, and may be off by one: the remainder, computed
        modulo 2^64, is then off by q.
        """
        # Check 109 (wrong decryption): no single weight is past the bound of all.
        if abs(weight) > self.parameters.capacity:
            raise LocalMisuseError(f"expected a weight up to {self.parameters.capacity}, found one outside")
        quotient = other.astype(np.float64)
        quotient *= abs(weight) / self.parameters.modulus
        products = other * np.uint64(abs(weight))
        products -= quotient.astype(np.uint64) * self._q
        # In [-q, 2 q) modulo 2^64: what is negative is above 2^63.
        np.minimum(products, products + self._q, out=products)
        self._reduce_once(products)
        if weight < 0:
            np.subtract(self._q, products, out=products)  # in (0, q]
            self._reduce_once(products)
        self.add(total, products)

    def add_plain(self, total: Words, plain: Words) -> None:
        """``total`` becomes an encryption of what it was plus ``plain`` mod t, in place. ``plain`` is overwritten."""
        plain &= np.uint64(self.parameters.plain_modulus - 1)
        plain *= np.uint64(self.parameters.multiple)  # k (t - 1) < q
        self.add(total, plain)

    def check(self, values: Words) -> None:
        """CodecError unless all are below q."""
        # Check 110 (hostile ciphertext): a residue is in range, and nothing else is accepted.
        if values.size and values.max() >= self._q:
            raise CodecError("a ciphertext has a coefficient that is no residue")

    def _reduce_once(self, values: Words) -> None:
        """From [0, 2 q) to [0, q): below q the subtraction wraps to something larger."""
        np.minimum(values, values - self._q, out=values)


@dataclass(frozen=True)
class SumFrames:
    """A sum of ciphertexts, block for block: the addends' seeds, in order, and the sum of their c0.

    ``c0``: uint64[blocks, degree]; ``seeds``: uint8[blocks, addends, 64].
    """

    c0: Words = field(repr=False)
    seeds: Seeds = field(repr=False)

    @property
    def addends(self) -> int:
        """How many ciphertexts are in the sum."""
        return int(self.seeds.shape[1])

    def parts(self) -> list[Buffer]:
        """Seeds, then c0."""
        return [self.seeds.reshape(-1).data, self.c0.reshape(-1).view(np.uint8).data]

    @classmethod
    def decode(cls, data: Buffer, parameters: BfvParameters, words: int, addends: int) -> SumFrames:
        """Strict inverse: a view into ``data``. CodecError for another length, or a coefficient outside Z_q."""
        expected, found = parameters.sum_bytes(words, addends), memoryview(data).nbytes
        # Check 111 (hostile ciphertext): its length follows from the plan alone.
        if addends < 1 or found != expected:
            raise CodecError(f"an encrypted sum of {addends} has {expected} bytes, found {found}")
        blocks = parameters.blocks(words)
        flat = np.frombuffer(data, dtype=np.uint8)
        head = blocks * addends * SEED_BYTES
        c0: Words = flat[head:].view("<u8").reshape(blocks, parameters.degree)
        Ring(parameters).check(c0.reshape(-1))
        return cls(c0, flat[:head].reshape(blocks, addends, SEED_BYTES))


def check_frames(source: WordSource, parameters: BfvParameters, words: int) -> None:
    """CodecError unless an encrypted upload of ``words`` words is all residues. Memory: a few frames.

    To be asked of each upload by itself: once it is in a sum, whose coefficient it was is not known any more.
    """
    ring, blocks, head = Ring(parameters), parameters.blocks(words), SEED_BYTES // 8
    buffer: Words = np.empty((FRAMES, head + parameters.degree), dtype="<u8")
    for start in range(0, blocks, FRAMES):
        frames = buffer[: min(FRAMES, blocks - start)]
        source.read_into(frames.reshape(-1))
        ring.check(frames[:, head:])


def sum_frames(
    sources: Sequence[WordSource], parameters: BfvParameters, words: int, weights: Sequence[int] | None = None
) -> SumFrames:
    """The sum of encrypted uploads of ``words`` words each, which are read front to back, one after the other.

    ``weights``: integers, one an upload; left out, all 1. Memory: the result, and a few frames.
    Raises CodecError for a coefficient outside Z_q, ConfigError for weights past the capacity.
    """
    given = [1] * len(sources) if weights is None else list(weights)
    if len(given) != len(sources):
        raise LocalMisuseError(f"expected a weight for each of {len(sources)} uploads, found {len(given)}")
    parameters.check_weights(sum(abs(w) for w in given))
    ring, blocks = Ring(parameters), parameters.blocks(words)
    c0: Words = np.zeros((blocks, parameters.degree), dtype="<u8")
    seeds: Seeds = np.empty((blocks, len(sources), SEED_BYTES), dtype=np.uint8)
    head = SEED_BYTES // 8
    buffer: Words = np.empty((FRAMES, head + parameters.degree), dtype="<u8")
    for index, (source, weight) in enumerate(zip(sources, given, strict=True)):
        for start in range(0, blocks, FRAMES):
            part = c0[start : start + FRAMES]
            frames = buffer[: len(part)]
            source.read_into(frames.reshape(-1))
            seeds[start : start + len(part), index] = frames[:, :head].view(np.uint8)
            values = frames[:, head:]
            ring.check(values)
            if weight == 1:
                ring.add(part, values)
            else:
                ring.add_weighted(part, values, weight)
    return SumFrames(c0, seeds)


def add_masks(total: SumFrames, parameters: BfvParameters, words: int, streams: MaskStreams) -> None:
    """The sum becomes one of inputs without the masks that ``streams`` take away, in place; no key is needed for it."""
    ring, flat = Ring(parameters), total.c0.reshape(-1)
    buffer: Words = np.empty(CHUNK_WORDS, dtype="<u8")
    for start in range(0, words, CHUNK_WORDS):
        plain = buffer[: min(CHUNK_WORDS, words - start)]
        streams.begin(len(plain))
        plain[:] = 0
        streams.add_to(plain)
        ring.add_plain(flat[start : start + len(plain)], plain)
