"""What a site's process and its workers say to each other: fixed-size numbers, then bytes of known length."""

from __future__ import annotations

import struct
from typing import IO, Final

from fedsec_secure.codec import Buffer
from fedsec_secure.secrets import KEY_BYTES

ENCRYPT, DECRYPT = b"E", b"D"
DONE, FAILED = b"\0", b"\1"
"""A failure has no reason: what went wrong inside depends on the key."""
LENGTH: Final = struct.Struct("<Q")
SIZES: Final = struct.Struct("<QHi")
"""Words, addends, and how many weights follow as int32."""
MOST_BYTES: Final = 1 << 28
KEY: Final = KEY_BYTES


def read_exactly(source: IO[bytes], count: int) -> bytes:
    """EOFError where the other side ended before."""
    data = source.read(count)
    if len(data) != count:
        raise EOFError(f"expected {count} bytes, found {len(data)}")
    return data


def write_all(sink: IO[bytes], *parts: Buffer) -> None:
    """All parts, at once."""
    for part in parts:
        sink.write(part)
    sink.flush()
