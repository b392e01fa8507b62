"""AES-256-CTR keystreams as streams of 64-bit words, added in place and in chunks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


class MaskStreams:
    """Keystreams that are added to, or subtracted from, one vector, chunk by chunk and front to back.

    With two threads a chunk's streams are shared between the caller and a helper, who takes them while the caller still
    does something else (AES and the additions let go of the interpreter). Sums of integers: the result is the same.
    Memory: O(chunk), twice with a helper.
    """

    def __init__(self, plus: Sequence[SecretBytes], minus: Sequence[SecretBytes], threads: int | None = None) -> None:
        self._streams = [(np.add, Keystream(k)) for k in plus] + [(np.subtract, Keystream(k)) for k in minus]
        self._scratch: Words = np.empty(CHUNK_WORDS, dtype="<u8")
        several = len(self._streams) > 1 and (threads or cores()) > 1
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="masks") if several else None
        self._theirs: Words = np.empty((2, CHUNK_WORDS if several else 0), dtype="<u8")
        self._left: deque[tuple[np.ufunc, Keystream]] = deque()
        self._pending: Future[None] | None = None

    def __enter__(self) -> MaskStreams:
        return self

    def __exit__(self, *_: object) -> None:
        if self._helper is not None:
            self._left.clear()
            self._helper.shutdown()

    def begin(self, count: int) -> None:
        """The next chunk has ``count`` words (at most CHUNK_WORDS): the helper may start."""
        if self._left or self._pending is not None:
            raise LocalMisuseError("the streams of the last chunk were not added yet")
        self._left.extend(self._streams)
        if self._helper is not None:
            self._pending = self._helper.submit(self._help, count)

    def add_to(self, chunk: Words) -> None:
        """``chunk`` (as long as was said at the beginning) += sum(plus) - sum(minus) mod 2^64."""
        self._take(chunk, self._scratch[: len(chunk)])
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
            np.add(chunk, self._theirs[0, : len(chunk)], out=chunk)

    def _help(self, count: int) -> None:
        total, scratch = self._theirs[0, :count], self._theirs[1, :count]
        total[:] = 0
        self._take(total, scratch)

    def _take(self, out: Words, scratch: Words) -> None:
        """Streams that nobody took yet, one at a time, until none is left. A deque's popleft is thread-safe."""
        while True:
            try:
                add, stream = self._left.popleft()
            except IndexError:
                return
            stream.read_into(scratch)
            add(out, scratch, out=out)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
