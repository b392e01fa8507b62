"""AES-256-CTR keystreams as streams of 64-bit words, added in place and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.secrets import KEY_BYTES, SecretBytes

CHUNK_WORDS = 1 << 15
"""256 KiB: large enough that calls cost little beside the work, small enough that a chunk and the keystream stay in a
core's second-level cache together."""
_ZEROS = memoryview(bytes(CHUNK_WORDS * 8))


class Keystream:
    """The little-endian words of AES-256-CTR(key, counter block 0) over zeros, in order and once.

    The key must be fresh for one stream (every key here comes from HKDF with the whole round in its info string), which
    is why a zero initial counter block is safe.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: SecretBytes) -> None:
        if len(key) != KEY_BYTES:
            raise LocalMisuseError(f"a keystream key has {KEY_BYTES} bytes, found {len(key)}")
        self._cipher: CipherContext = Cipher(algorithms.AES(key.reveal()), modes.CTR(bytes(16))).encryptor()

    def read_into(self, out: Words) -> None:
        """Fill ``out`` (contiguous, at most CHUNK_WORDS words) with the next words."""
        if len(out) > CHUNK_WORDS:
            raise LocalMisuseError(f"at most {CHUNK_WORDS} words a chunk, asked for {len(out)}")
        self._cipher.update_into(_ZEROS[: 8 * len(out)], out.view(np.uint8).data)


class WordSource(Protocol):
    """A vector of uint64 words that is read once, front to back, without holding it in memory."""

    def read_into(self, out: Words) -> None:
        """Fill ``out`` with the next ``len(out)`` words."""
        ...


class ArraySource:
    """A WordSource over an array that is in memory anyway."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._at = 0

    def read_into(self, out: Words) -> None:
        """Fill ``out`` with the next words."""
        end = self._at + len(out)
        if end > len(self._words):
            raise LocalMisuseError("a word source was read past its end")
        out[:] = self._words[self._at : end]
        self._at = end


def add_streams(out: Words, plus: Sequence[Keystream], minus: Sequence[Keystream], scratch: Words) -> None:
    """``out += sum(plus) - sum(minus)`` mod 2^64 over the next ``len(out)`` words of each stream.

    ``scratch`` (as long as ``out``) is overwritten; one for all streams, so that it never leaves the cache.
    """
    for stream in plus:
        stream.read_into(scratch)
        np.add(out, scratch, out=out)
    for stream in minus:
        stream.read_into(scratch)
        np.subtract(out, scratch, out=out)
