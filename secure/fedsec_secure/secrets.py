"""Secret bytes that do not leak by accident, and the key derivation that every label goes through.

Python cannot wipe memory for sure: copies may live on in freed objects, in swap and in core dumps. What this class
does prevent is a secret in a log line, a traceback, a pickle or a timing-dependent comparison.
"""

from __future__ import annotations

import hmac
import os
from typing import Any, NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsec_secure.errors import LocalMisuseError

KEY_BYTES = 32


class SecretBytes:
    """An immutable secret: redacted ``repr``, constant-time ``==``, no hash, no pickle, no copy."""

    __slots__ = ("_value",)

    _value: bytes

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes) or not value:
            raise LocalMisuseError("a secret is made from non-empty bytes")
        object.__setattr__(self, "_value", value)

    @classmethod
    def random(cls, length: int = KEY_BYTES) -> SecretBytes:
        """``length`` bytes from the operating system."""
        return cls(os.urandom(length))

    def reveal(self) -> bytes:
        """The bytes themselves. Every call is a place to review."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("SecretBytes is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes, redacted>)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")

    def __format__(self, spec: str) -> str:
        return repr(self)


def derive(secret: SecretBytes, label: str, *parts: bytes, length: int = KEY_BYTES) -> SecretBytes:
    """HKDF-SHA256 (RFC 5869) without salt; ``info`` is the label and the parts, each with its length in front.

    The lengths make the encoding injective: no two different (label, parts) give one info string.
    """
    name = label.encode("ascii")
    info = len(name).to_bytes(2, "big") + name
    for part in parts:
        info += len(part).to_bytes(4, "big") + part
    return SecretBytes(HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret.reveal()))
