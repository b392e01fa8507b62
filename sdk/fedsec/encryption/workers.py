"""Encrypting and decrypting in workers, a chunk each, in order: as many at a time as there are processors.

Memory here: the chunks that are under way. A site's process never holds an object of the encryption library.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import IO, Self

import numpy as np

from fedsec.encryption.messages import DECRYPT, DONE, ENCRYPT, LENGTH, SIZES, read_exactly, write_all
from fedsec.storage import is_storage
from fedsec_secure.codec import Buffer
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.secrets import SecretBytes

_BLOCKS = 64
"""Of a chunk that is decrypted: 2 MiB of a sum and as much of words."""
UNOPENED = "the encrypted sum does not open to a sum of what the sites uploaded"
"""The one message for every failure: which it was depends on the key."""


_ENDED = "an encryption worker ended before its time; nothing of this upload is kept: ask again"


class _Worker:
    def __init__(self, key: SecretBytes) -> None:
        command = [sys.executable, "-I", "-m", "fedsec.encryption.worker"]
        quiet = {k: v for k, v in os.environ.items() if k in {"PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR"}}
        quiet |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        write_all(self._in, key.reveal())

    def ask(self, kind: bytes, *parts: Buffer) -> None:
        length = sum(memoryview(part).nbytes for part in parts)
        write_all(self._in, kind, LENGTH.pack(length), *parts)

    def reply(self) -> bytes:
        """OSError or EOFError where the worker failed, or is no more."""
        status = read_exactly(self._out, 1)
        (length,) = LENGTH.unpack(read_exactly(self._out, LENGTH.size))
        body = read_exactly(self._out, length)
        if status != DONE:
            raise OSError("the worker failed")
        return body

    def close(self) -> None:
        for pipe in (self._in, self._out):
            try:
                pipe.close()
            except OSError:  # it is gone already
                continue
        self._process.kill()
        self._process.wait()


class EncryptionWorkers:
    """Workers with one key. Closed, they are gone, and the key with them.

    Args:
        key: 32 bytes.
        count: how many; left out, as there are processors.
        progress: called with the number of words that are done, of an update or a sum, after each chunk. What it raises
            is dropped: a terminal that is gone must not look like a sum that does not open, which ends a run.

    Raises:
        LocalMisuseError: they do not start: the encryption library is missing, or fails its own test.
    """

    def __init__(
        self, key: SecretBytes, count: int | None = None, progress: Callable[[int], None] = lambda words: None
    ) -> None:
        self._progress = _unfailing(progress)
        self._stack = ExitStack()
        self._workers: list[_Worker] = []
        try:
            for _ in range(count or len(os.sched_getaffinity(0))):
                worker = _Worker(key)
                self._stack.callback(worker.close)
                self._workers.append(worker)
            for worker in self._workers:
                worker.reply()
        except (OSError, EOFError) as e:
            self.close()
            raise LocalMisuseError(
                "the encryption library does not run here: `python -m fedsec.encryption.worker < /dev/null` says why"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._stack.close()

    def encrypting(self, write: Callable[[Buffer], None]) -> Encrypting:
        """Words in, frames out to ``write``, in order."""
        return Encrypting(self._workers, write, self._progress)

    def decrypt(self, total: SumFrames, words: int, weights: Sequence[int] | None = None) -> Words:
        """The sum's words, uint64[words], sign-extended. PeerViolationError, always the same, where it does not open:
        these workers are then closed.

        ``weights``: of the addends, if not all 1.
        """
        given = () if weights is None else tuple(weights)
        found: Words = np.empty(len(total.c0) * STANDARD.degree, dtype="<u8")
        at = 0

        def take(reply: bytes) -> None:
            nonlocal at
            part = np.frombuffer(reply, dtype="<u8")
            found[at : at + len(part)] = part
            at += len(part)
            self._progress(min(at, words))

        steps = _InOrder(self._workers, take)
        try:
            for request in _parts_of(total, given):
                steps.ask(DECRYPT, *request)
            steps.finish()
        except (OSError, EOFError, ValueError):
            at = -1
        # Check 114 (decryption oracle): whatever failed, it looks the same from outside.
        if at != len(found) or words > len(found) or found[words:].any():
            self.close()
            raise PeerViolationError(UNOPENED) from None
        return found[:words]


class _InOrder:
    """Requests go out to workers in turn, replies come back in order. A worker is asked again only after its reply was
    read: neither side then waits for the other for ever.
    """

    def __init__(self, workers: Sequence[_Worker], take: Callable[[bytes], None]) -> None:
        self._take = take
        self._busy: deque[_Worker] = deque()
        self._idle = deque(workers)

    def ask(self, kind: bytes, *parts: Buffer) -> None:
        if not self._idle:
            self._reply()
        worker = self._idle.popleft()
        worker.ask(kind, *parts)
        self._busy.append(worker)

    def finish(self) -> None:
        while self._busy:
            self._reply()

    def _reply(self) -> None:
        worker = self._busy.popleft()
        self._take(worker.reply())
        self._idle.append(worker)


class Encrypting:
    """Encrypts what is written, chunk by chunk. All chunks but the last are whole blocks."""

    def __init__(
        self, workers: Sequence[_Worker], write: Callable[[Buffer], None], progress: Callable[[int], None]
    ) -> None:
        self._steps = _InOrder(workers, write)
        self._progress = progress
        self._words = 0

    def write(self, chunk: Words) -> None:
        """The next words modulo t, uint64, which may be overwritten afterwards. LocalMisuseError if a worker ended."""
        try:
            self._steps.ask(ENCRYPT, chunk.view(np.uint8).data)
        except (OSError, EOFError) as e:
            if is_storage(e):  # the upload's file, not the worker's pipe
                raise
            raise LocalMisuseError(_ENDED) from e
        self._words += len(chunk)
        self._progress(self._words)

    def finish(self) -> None:
        """Wait for the last frames. LocalMisuseError if a worker ended."""
        try:
            self._steps.finish()
        except (OSError, EOFError) as e:
            if is_storage(e):
                raise
            raise LocalMisuseError(_ENDED) from e


def _unfailing(progress: Callable[[int], None]) -> Callable[[int], None]:
    def told(words: int) -> None:
        with suppress(Exception):
            progress(words)

    return told


def _parts_of(total: SumFrames, weights: Sequence[int]) -> Iterator[Sequence[Buffer]]:
    packed = struct.pack(f"<{len(weights)}i", *weights)
    for start in range(0, len(total.c0), _BLOCKS):
        part = SumFrames(total.c0[start : start + _BLOCKS], total.seeds[start : start + _BLOCKS])
        sizes = SIZES.pack(part.c0.size, total.addends, len(weights))
        yield sizes, packed, *part.parts()
