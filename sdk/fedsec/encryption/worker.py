"""A process that holds the encryption key of one run, and nothing else: ``python -m fedsec.encryption.worker``.

It reads its key and then requests from standard input, and ends with it. What a peer sent is parsed in here, under
limits on memory, files and processes.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import IO

import numpy as np

from fedsec.encryption.messages import (
    DECRYPT,
    DONE,
    ENCRYPT,
    FAILED,
    KEY,
    LENGTH,
    MOST_BYTES,
    SIZES,
    read_exactly,
    write_all,
)
from fedsec_secure.codec import Buffer
from fedsec_secure.he.cipher import BfvCipher, self_test
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames
from fedsec_secure.secrets import SecretBytes

_MEMORY = 1 << 31
_LARGEST_FILE = 1 << 20
"""Files in memory among them: one SEAL object has some 64 KiB."""


def limit() -> None:
    """No core file, no large file, no process, bounded memory."""
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer requests until ``source`` ends. Every failure is the same one byte."""
    self_test()
    cipher = BfvCipher(SecretBytes(read_exactly(source, KEY)))
    write_all(sink, DONE, LENGTH.pack(0))
    while kind := source.read(1):
        (length,) = LENGTH.unpack(read_exactly(source, LENGTH.size))
        if length > MOST_BYTES:
            return
        body = read_exactly(source, length)
        try:
            reply = _answer(cipher, kind, body)
        except Exception:
            # Whatever SEAL throws, and whatever it says: nothing of it leaves.
            write_all(sink, FAILED, LENGTH.pack(0))
        else:
            write_all(sink, DONE, LENGTH.pack(memoryview(reply).nbytes), reply)


def _answer(cipher: BfvCipher, kind: bytes, body: bytes) -> Buffer:
    if kind == ENCRYPT:
        return cipher.encrypt(np.frombuffer(body, dtype="<u8"))
    if kind != DECRYPT:
        raise ValueError("unknown request")
    words, addends, count = SIZES.unpack_from(body)
    weights = list(struct.unpack_from(f"<{count}i", body, SIZES.size)) if count else None
    frames = memoryview(body)[SIZES.size + 4 * count :]
    total = SumFrames.decode(frames, STANDARD, words, addends)
    return cipher.decrypt(total, weights).view(np.uint8).data


def main() -> None:
    """On standard input and output, which nothing else may write to."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    limit()
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
