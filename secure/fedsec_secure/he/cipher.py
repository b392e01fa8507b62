"""Encryption and decryption at a site, by SEAL through TenSEAL. Single-threaded, and holds the interpreter's lock.

SEAL reads and writes files by name: here they are in anonymous memory that has no name of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from fedsec_secure.errors import LocalMisuseError, VerificationError
from fedsec_secure.he.parameters import STANDARD, BfvParameters
from fedsec_secure.he.ring import Ring, SumFrames, sum_frames
from fedsec_secure.he.seal_bytes import SealBytes, members_of
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.secrets import KEY_BYTES, SecretBytes, derive

_TESTED = 3
"""Ciphertexts of the self-test."""


class _Memory:
    """A file without a name, which SEAL opens through this process's own table of files."""

    def __init__(self) -> None:
        self._handle = os.memfd_create("fedsec-seal", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._handle}"

    def put(self, data: bytes) -> str:
        os.ftruncate(self._handle, len(data))
        os.pwrite(self._handle, data, 0)
        return self.path

    def take(self) -> bytes:
        return os.pread(self._handle, os.fstat(self._handle).st_size, 0)

    def close(self) -> None:
        os.close(self._handle)


class BfvCipher:
    """Encrypts and decrypts under one key.

    Args:
        key: 32 bytes. Who has them has the secret polynomial, which SEAL draws from them.
        parameters: of the encryption.

    Randomness of encryptions, seeds among them, is SEAL's, which takes it from the operating system for each one.
    """

    def __init__(self, key: SecretBytes, parameters: BfvParameters = STANDARD) -> None:
        if len(key) != KEY_BYTES:
            raise LocalMisuseError(f"an encryption key has {KEY_BYTES} bytes, found {len(key)}")
        self.parameters = parameters
        self._memory = _Memory()
        stretched = derive(key, "fedsec v1 bfv secret key", length=64).reveal()
        words = [int.from_bytes(stretched[i : i + 8], "little") for i in range(0, 64, 8)]
        secret = seal.KeyGenerator(_context(parameters, words)).secret_key()
        self._context = _context(parameters)
        self._encryptor = seal.Encryptor(self._context, secret)
        self._decryptor = seal.Decryptor(self._context, secret)
        self._evaluator = seal.Evaluator(self._context)
        self._encryptor.encrypt_symmetric(seal.Plaintext("0")).save(self._memory.path)
        parms_id = bytes(members_of(self._memory.take(), 1 << 20)[:32])
        self._bytes = SealBytes(parameters, parms_id)
        self._nothing: Words = np.zeros(parameters.degree, dtype="<u8")

    def close(self) -> None:
        """Forget the key, as far as Python can."""
        self._memory.close()
        del self._encryptor, self._decryptor

    def encrypt(self, words: Words) -> bytes:
        """Words modulo t as frames: a seed and c0 a block; after the last word zeros."""
        t = np.uint64(self.parameters.plain_modulus - 1)
        n = self.parameters.degree
        frames: list[bytes | memoryview] = []
        block: Words = np.empty(n, dtype="<u8")
        for start in range(0, len(words), n):
            part = words[start : start + n]
            np.bitwise_and(part, t, out=block[: len(part)])
            block[len(part) :] = 0
            frames.extend(self._encrypted(block))
        return b"".join(frames)

    def _encrypted(self, block: Words) -> tuple[bytes, memoryview]:
        plain = seal.Plaintext()
        plain.load(self._context, self._memory.put(self._bytes.plaintext(block)))
        self._encryptor.encrypt_symmetric(plain).save(self._memory.path)
        seed, c0 = self._bytes.split_ciphertext(self._memory.take())
        return seed, memoryview(c0)

    def decrypt(self, total: SumFrames, weights: Sequence[int] | None = None) -> Words:
        """The sum modulo t: uint64[blocks * N], each word's 46 bits sign-extended, so that lanes unpack.

        ``weights``: of the addends, if not all 1. Whatever the frames hold, the result is some sum: whether it is the
        right one, a tag has to say.
        """
        blocks, n = total.c0.shape
        given = [1] * total.addends if weights is None else list(weights)
        if len(given) != total.addends:
            raise LocalMisuseError(f"expected a weight for each of {total.addends} addends, found {len(given)}")
        found: Words = np.empty(blocks * n, dtype="<u8")
        for index in range(blocks):
            found[index * n : (index + 1) * n] = self._decrypted(total, index, given)
        unused = np.int64(64 - self.parameters.plain_bits)
        signed = found.view(np.int64)
        signed <<= unused
        signed >>= unused
        return found

    def _decrypted(self, total: SumFrames, index: int, weights: list[int]) -> Words:
        """(c0, a_0) + (0, (w_0 - 1) a_0) + (0, w_1 a_1) + ...: c0 has its weights already."""
        summed = self._loaded(total.seeds[index, 0].tobytes(), total.c0[index])
        for addend, weight in enumerate([weights[0] - 1, *weights[1:]]):
            if weight:
                other = self._loaded(total.seeds[index, addend].tobytes(), self._nothing)
                if abs(weight) != 1:
                    # By its size alone: under a single prime SEAL multiplies wrongly by what stands for less than zero.
                    self._evaluator.multiply_plain_inplace(other, seal.Plaintext(f"{abs(weight):X}"))
                join = self._evaluator.add_inplace if weight > 0 else self._evaluator.sub_inplace
                join(summed, other)
        plain = seal.Plaintext()
        self._decryptor.decrypt(summed, plain)
        plain.save(self._memory.path)
        return self._bytes.coefficients(self._memory.take())

    def _loaded(self, seed: bytes, c0: Words) -> Any:
        found = seal.Ciphertext(self._context)
        found.load(self._context, self._memory.put(self._bytes.ciphertext(seed, c0)))
        return found


def self_test(parameters: BfvParameters = STANDARD) -> None:
    """Encrypt, weigh up to the capacity, take masks away, decrypt: VerificationError where one number comes out wrong.

    The library that is installed here, with keys of its own, before it is given anything that counts.
    """
    generator = np.random.default_rng()
    t, n, largest = parameters.plain_modulus, parameters.degree, parameters.capacity
    inputs = generator.integers(0, t, (_TESTED, n), dtype=np.uint64)
    inputs[0], mask = t - 1, generator.integers(0, t, n, dtype=np.uint64)
    for weights in ([1] * _TESTED, [largest - 3, 2, -1]):
        cipher = BfvCipher(SecretBytes.random(), parameters)
        uploads = [ArraySource(np.frombuffer(cipher.encrypt(one), dtype="<u8")) for one in inputs]
        total = sum_frames(uploads, parameters, n, weights)
        Ring(parameters).add_plain(total.c0[0], mask.copy())
        found = cipher.decrypt(total, weights) & np.uint64(t - 1)
        expected = mask.copy()
        for one, weight in zip(inputs, weights, strict=True):
            expected += one * np.uint64(weight % (1 << 64))
        cipher.close()
        # Check 112 (wrong decryption): what is installed here decrypts what it encrypted.
        if not np.array_equal(found, expected & np.uint64(t - 1)):
            raise VerificationError(
                "the encryption library does not decrypt its own sums: nothing is encrypted with it"
            )


def _context(parameters: BfvParameters, seed: list[int] | None = None) -> Any:
    """``seed``: eight words that everything random comes from; left out, the operating system's randomness."""
    made = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    made.set_poly_modulus_degree(parameters.degree)
    made.set_coeff_modulus([seal.Modulus(parameters.modulus)])
    made.set_plain_modulus(parameters.plain_modulus)
    if seed is not None:
        made.set_random_generator(seal.Blake2xbPRNGFactory(seed))
    context = seal.SEALContext(made, False, seal.SEC_LEVEL_TYPE.TC128)
    first = context.first_context_data()
    # Check 113 (weak lattice): SEAL has not dropped or changed a prime.
    if not context.parameters_set() or first.total_coeff_modulus_bit_count() != parameters.modulus.bit_length():
        raise VerificationError(f"SEAL does not take these parameters: {context.parameters_error_message()}")
    return context
