"""Shamir's secret sharing (1979) of 32-byte secrets over the prime field of 2^256 + 297.

The prime is the smallest above 2^256, so every 32-byte string is a field element; a share is one element in 33 bytes.
"""

from __future__ import annotations

import secrets as os_random
from collections.abc import Mapping
from functools import lru_cache

from fedsec_secure.errors import CodecError, LocalMisuseError, PeerViolationError
from fedsec_secure.secrets import SecretBytes

PRIME = (1 << 256) + 297
SHARE_BYTES = 33
SECRET_BYTES = 32


def encode_share(value: int) -> bytes:
    """A field element in 33 bytes, big-endian."""
    return value.to_bytes(SHARE_BYTES, "big")


def decode_share(data: bytes) -> int:
    """Strict inverse: exactly 33 bytes, below the prime."""
    value = int.from_bytes(data, "big")
    if len(data) != SHARE_BYTES or value >= PRIME:
        raise CodecError("a share is 33 bytes and below the field's prime")
    return value


def split(secret: SecretBytes, threshold: int, count: int) -> dict[int, bytes]:
    """Shares for x = 1..count, any ``threshold`` of which give the secret back. Coefficients come from the OS."""
    if not 1 <= threshold <= count or len(secret) != SECRET_BYTES:
        raise LocalMisuseError(f"cannot split a {len(secret)}-byte secret {threshold} of {count}")
    coefficients = [int.from_bytes(secret.reveal(), "big")]
    coefficients += [os_random.randbelow(PRIME) for _ in range(threshold - 1)]
    return {x: encode_share(_evaluate(coefficients, x)) for x in range(1, count + 1)}


def _evaluate(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


@lru_cache(maxsize=1024)
def _lagrange_at_zero(xs: tuple[int, ...]) -> tuple[int, ...]:
    weights = []
    for i in xs:
        numerator, denominator = 1, 1
        for j in xs:
            if j != i:
                numerator = numerator * j % PRIME
                denominator = denominator * (j - i) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def combine(shares: Mapping[int, bytes], threshold: int) -> SecretBytes:
    """The secret from at least ``threshold`` shares, x -> share. Uses the ``threshold`` smallest x.

    Raises PeerViolationError where the shares do not come from one 32-byte secret as far as that can be seen here: the
    caller compares the result with what the dealer advertised.
    """
    if len(shares) < threshold or any(x < 1 for x in shares):
        raise LocalMisuseError(f"{threshold} shares are needed to recover a secret, {len(shares)} are here")
    xs = tuple(sorted(shares)[:threshold])
    weights = _lagrange_at_zero(xs)
    value = sum(w * decode_share(shares[x]) for x, w in zip(xs, weights, strict=True)) % PRIME
    # Check 53 (bad share): shares of one 32-byte secret.
    if value >> 256:
        raise PeerViolationError("the shares of one secret do not fit together")
    return SecretBytes(value.to_bytes(SECRET_BYTES, "big"))
