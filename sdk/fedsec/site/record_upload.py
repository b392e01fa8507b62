"""Writing an upload: the words as they are made, then the signed head in front of them, then fsync and rename."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from fedsec.spool import replacing
from fedsec_secure.codec import SIGNATURE_BYTES, Buffer, Sign, seal_head
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.keystream import CHUNK_WORDS, WordSource
from fedsec_secure.numeric.lanes import Words


class UploadWriter:
    """A half-written upload. The head's length is known before its content, so the words go straight to their place."""

    def __init__(self, out: IO[bytes], kind: str, me: SiteId, words: int) -> None:
        self.head = b""
        self._out = out
        self._kind, self._me, self._words = kind, me, words
        self._space = len(seal_head(kind, me, bytes(32), 0, bytes(32), lambda _: bytes(SIGNATURE_BYTES)))
        out.write(bytes(self._space))

    def write(self, part: Buffer) -> None:
        """Append."""
        self._out.write(part)

    def copy_from(self, source: WordSource, context: bytes, sign: Sign) -> None:
        """All of an encoder's words, unmasked, and the head over them."""
        digest = hashlib.sha256()
        buffer: Words = np.empty(CHUNK_WORDS, dtype="<u8")
        for start in range(0, self._words, CHUNK_WORDS):
            chunk = buffer[: min(CHUNK_WORDS, self._words - start)]
            source.read_into(chunk)
            digest.update(chunk.data)
            self.write(chunk.data)
        self.head = seal_head(self._kind, self._me, context, 8 * self._words, digest.digest(), sign)

    def finish(self) -> None:
        """Put the head in its place and make the bytes durable."""
        if len(self.head) != self._space:
            raise LocalMisuseError("an upload was closed without its signed head")
        self._out.seek(0)
        self._out.write(self.head)
        self._out.flush()
        os.fsync(self._out.fileno())


@contextmanager
def write_upload(path: Path, kind: str, me: SiteId, words: int) -> Iterator[UploadWriter]:
    """The file appears at ``path`` whole and durable, or not at all."""
    with replacing(path) as out:
        upload = UploadWriter(out, kind, me, words)
        yield upload
        upload.finish()
