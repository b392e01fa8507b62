"""AES-256 in counter mode, against the standard's vectors and against the block cipher itself."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.numeric.keystream import CHUNK_WORDS, ArraySource, Keystream, add_streams
from fedsec_secure.secrets import SecretBytes

# NIST SP 800-38A, F.1.5 (ECB-AES256) and F.5.5 (CTR-AES256): one key, two modes.
KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")


def ecb(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def words(key: bytes, *counts: int) -> np.ndarray:
    stream, parts = Keystream(SecretBytes(key)), []
    for count in counts:
        out = np.empty(count, dtype="<u8")
        stream.read_into(out)
        parts.append(out)
    return np.concatenate(parts)


def test_nist_vectors_of_the_block_cipher_and_its_counter_mode():
    assert ecb(KEY, PLAIN).hex() == "f3eed1bdb5d2a03c064b5a7e3db181f8"
    counter = bytes(range(0xF0, 0x100))
    ctr = bytes(a ^ b for a, b in zip(PLAIN, ecb(KEY, counter), strict=True))
    assert ctr.hex() == "601ec313775789a5b7a7f504bbf3d228"
    # NIST known answer: AES-256, zero key, zero block. The first counter block of a stream is zero.
    assert words(bytes(32), 2).tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_a_stream_is_the_cipher_over_counters_from_zero():
    expected = b"".join(ecb(KEY, i.to_bytes(16, "big")) for i in range(300))
    assert words(KEY, 600).tobytes() == expected


def test_reads_continue_where_the_last_one_stopped():
    np.testing.assert_array_equal(words(KEY, 1, 7, CHUNK_WORDS, 3), words(KEY, CHUNK_WORDS, 11))


def test_bounds_of_a_read_and_a_key():
    with pytest.raises(LocalMisuseError, match="at most"):
        words(KEY, CHUNK_WORDS + 1)
    with pytest.raises(LocalMisuseError, match="32 bytes"):
        Keystream(SecretBytes(bytes(16)))


def test_streams_are_added_and_subtracted_modulo_two_to_the_64():
    keys = [bytes([i]) * 32 for i in range(3)]
    out = np.full(100, 2**64 - 1, dtype=np.uint64)
    streams = [Keystream(SecretBytes(k)) for k in keys]
    add_streams(out, streams[:2], streams[2:], np.empty(100, dtype="<u8"))
    by_definition = [
        (2**64 - 1 + int(a) + int(b) - int(c)) % 2**64 for a, b, c in zip(*(words(k, 100) for k in keys), strict=True)
    ]
    assert out.tolist() == by_definition


def test_a_source_ends_where_its_array_ends():
    source, out = ArraySource(np.arange(5, dtype=np.uint64)), np.empty(3, dtype=np.uint64)
    source.read_into(out)
    assert out.tolist() == [0, 1, 2]
    with pytest.raises(LocalMisuseError, match="past its end"):
        source.read_into(out)
