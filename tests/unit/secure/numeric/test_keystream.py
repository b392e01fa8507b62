"""AES-256 in counter mode, against the standard's vectors and against the block cipher itself."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.numeric.keystream import CHUNK_WORDS, ArraySource, Keystream, MaskStreams
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


@pytest.mark.parametrize("threads", [1, 2])
def test_streams_are_added_and_subtracted_modulo_two_to_the_64(threads):
    keys = [bytes([i]) * 32 for i in range(5)]
    secrets = [SecretBytes(k) for k in keys]
    out = np.full(100, 2**64 - 1, dtype=np.uint64)
    with MaskStreams(secrets[:3], secrets[3:], threads) as streams:
        for chunk in (out[:60], out[60:]):
            streams.begin(len(chunk))
            streams.add_to(chunk)
    by_definition = [
        (2**64 - 1 + int(a) + int(b) + int(c) - int(d) - int(e)) % 2**64
        for a, b, c, d, e in zip(*(words(k, 100) for k in keys), strict=True)
    ]
    assert out.tolist() == by_definition


def test_chunks_are_begun_and_added_in_turn():
    with MaskStreams([SecretBytes(bytes(32))] * 3, [], 2) as streams:
        streams.begin(4)
        with pytest.raises(LocalMisuseError, match="not added yet"):
            streams.begin(4)
        streams.add_to(np.zeros(4, dtype=np.uint64))
        streams.begin(4)  # left open: the helper ends all the same


def test_a_helper_that_fails_is_heard(monkeypatch):
    """An error on the other thread is no silent gap in a mask."""

    def fail(self, out):
        raise MemoryError("no room")

    with MaskStreams([SecretBytes(bytes(32))] * 2, [], 2) as streams:
        monkeypatch.setattr(Keystream, "read_into", fail)
        streams.begin(4)
        with pytest.raises(MemoryError, match="no room"):
            streams.add_to(np.zeros(4, dtype=np.uint64))


def test_a_source_ends_where_its_array_ends():
    source, out = ArraySource(np.arange(5, dtype=np.uint64)), np.empty(3, dtype=np.uint64)
    source.read_into(out)
    assert out.tolist() == [0, 1, 2]
    with pytest.raises(LocalMisuseError, match="past its end"):
        source.read_into(out)
