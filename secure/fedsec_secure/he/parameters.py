"""The numbers of the encryption, with security level and noise bound proved before anything is encrypted.

BFV (Brakerski 2012; Fan and Vercauteren, ePrint 2012/144) over Z_q[X] / (X^N + 1), symmetric: a ciphertext of m is
(c0, a) with c0 = -(a s + e) + round(q m / t) and a uniform, from a seed of 64 bytes. Here q = k t + 1 is a prime. Then
round(q m / t) is k m but for half a unit, a plaintext is added by adding k m, and a sum that wraps modulo t costs one
unit of noise: what the coordinator does are additions modulo q, exact and without a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fedsec_secure.errors import ConfigError

SEED_BYTES: Final = 64
LARGEST_ERROR: Final = 21
"""Of a fresh coefficient: SEAL draws e from a centred binomial distribution of 42 coins (`util/rlwe.cpp`)."""
_TABLE_2018: Final = MappingProxyType({1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881})
"""Albrecht et al., Homomorphic Encryption Security Standard (2018), table 1: log2 q for 128 bits, ternary secret."""
_TABLE_2024: Final = MappingProxyType({1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430, 32768: 868})
"""Bossuat et al., Security Guidelines for Implementing Homomorphic Encryption, ePrint 2024/463, table 5.2: the same."""


@dataclass(frozen=True)
class BfvParameters:
    """One prime modulus, a plaintext modulus that is a power of two, coefficients as plaintext slots.

    Attributes:
        degree: N, coefficients of a ciphertext's polynomial.
        multiple: k.
        plain_bits: log2 t.
    """

    degree: int
    multiple: int
    plain_bits: int

    def __post_init__(self) -> None:
        n, bits = self.degree, self.modulus.bit_length()
        # Check 107 (weak lattice): 128 bits of security by the older table and by the tighter, newer one.
        if n not in _TABLE_2018 or bits > min(_TABLE_2018[n], _TABLE_2024[n]):
            raise ConfigError(f"BFV: a modulus of {bits} bits at degree {n} is not in both tables for 128 bits")
        if not 1 <= self.plain_bits <= 58 or bits > 60 or self.modulus % (2 * n) != 1:
            raise ConfigError("BFV: expected q = k t + 1 of at most 60 bits, t a power of two, and 2 N in q - 1")

    @property
    def plain_modulus(self) -> int:
        """t."""
        return 1 << self.plain_bits

    @property
    def modulus(self) -> int:
        """q = k t + 1."""
        return (self.multiple << self.plain_bits) + 1

    @property
    def capacity(self) -> int:
        """The largest sum of absolute weights for which every decryption is right, whatever was encrypted.

        Proof: the weighted sum has the phase k m + v (mod q), with m the sum modulo t. Each ciphertext adds at most
        ``LARGEST_ERROR`` + 1/2 to v, times its weight, and each wrap modulo t one more, of which a weighted sum has at
        most the sum of absolute weights; taking recovered masks away is one more plaintext, and wraps once. SEAL gives
        round(t (k m + v) / q) = round(m - m / q + t v / q), which is m where abs(v) + m / t < q / 2t; q / 2t > k / 2.
        With W the sum: W (21 + 1/2 + 1) + 1 + 1 <= (k - 1) / 2.
        """
        return ((self.multiple - 1) // 2 - 2) * 2 // (2 * LARGEST_ERROR + 3)

    def check_weights(self, total: int) -> None:
        """ConfigError unless ciphertexts may be added with weights whose absolute values sum to ``total``."""
        # Check 108 (wrong decryption): SEAL decrypts wrongly past its bound and says nothing.
        if not 1 <= total <= self.capacity:
            raise ConfigError(
                f"encrypted sums are exact up to weights of {self.capacity} in all, found {total}: "
                "choose smaller weights or fewer sites"
            )

    @property
    def c0_bytes(self) -> int:
        """Of one polynomial as 64-bit words."""
        return 8 * self.degree

    def blocks(self, words: int) -> int:
        """Ciphertexts for so many words, each a coefficient."""
        return -(-words // self.degree)

    def upload_bytes(self, words: int) -> int:
        """Bytes of so many words, encrypted: a seed and a polynomial a block."""
        return self.blocks(words) * (SEED_BYTES + self.c0_bytes)

    def sum_bytes(self, words: int, addends: int) -> int:
        """Bytes of the sum of so many uploads: all their seeds and one polynomial a block."""
        return self.blocks(words) * (addends * SEED_BYTES + self.c0_bytes)


STANDARD: Final = BfvParameters(degree=4096, multiple=16339, plain_bits=46)
"""t = 2^46: a coefficient carries a word of two 23-bit lanes. q: the largest prime of 60 bits that is 1 modulo t."""
