"""What the fuzzer needs to know of one decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedsec_secure.errors import CodecError


@dataclass(frozen=True)
class Target:
    """A decoder, good inputs for it, and all that it may raise. ``encode`` gives a value's only encoding."""

    read: Callable[[bytes], object]
    good: Sequence[bytes]
    errors: tuple[type[Exception], ...] = (CodecError,)
    encode: Callable[[Any], bytes] | None = None


def method(name: str) -> Callable[[object], bytes]:
    """The value's own encoder."""
    return lambda value: getattr(value, name)()
