"""SEAL through TenSEAL: sums come out exact up to the capacity, seeds are fresh, a key is a function of its bytes."""

import os

import numpy as np
import pytest

from fedsec_secure.errors import LocalMisuseError, VerificationError
from fedsec_secure.he import cipher as module
from fedsec_secure.he.cipher import BfvCipher, self_test
from fedsec_secure.he.parameters import SEED_BYTES, STANDARD, BfvParameters
from fedsec_secure.he.ring import Ring, sum_frames
from fedsec_secure.he.seal_bytes import SealBytes, members_of
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.secrets import SecretBytes

N, T = STANDARD.degree, STANDARD.plain_modulus
RNG = np.random.default_rng(0)


@pytest.fixture
def cipher():
    made = BfvCipher(SecretBytes.random())
    yield made
    made.close()


def source(frames: bytes) -> ArraySource:
    return ArraySource(np.frombuffer(frames, dtype="<u8"))


def words(count: int) -> np.ndarray:
    return RNG.integers(0, 2**64, count, dtype=np.uint64)


def signed(values: np.ndarray) -> np.ndarray:
    """Modulo t, in [-t/2, t/2), as uint64."""
    reduced = [int(v) % T for v in values]
    return np.array([v - T if v >= T // 2 else v for v in reduced], dtype=np.int64).view(np.uint64)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_sum_is_exact(cipher, count):
    inputs = [words(N + 17) for _ in range(count)]
    uploads = [cipher.encrypt(one) for one in inputs]
    assert {len(u) for u in uploads} == {STANDARD.upload_bytes(N + 17)}
    total = sum_frames([source(u) for u in uploads], STANDARD, N + 17)
    found = cipher.decrypt(total)
    assert np.array_equal(found[: N + 17], signed(sum(i.astype(object) for i in inputs)))
    assert not found[N + 17 :].any()


@pytest.mark.parametrize("weights", [[1, 1], [2, 1], [-1, 1], [STANDARD.capacity - 1, -1], [-3, STANDARD.capacity - 3]])
def test_a_weighted_sum_is_exact(cipher, weights):
    inputs = [words(N), np.full(N, T - 1, dtype=np.uint64)]
    total = sum_frames([source(cipher.encrypt(one)) for one in inputs], STANDARD, N, weights)
    expected = sum(w * i.astype(object) for w, i in zip(weights, inputs, strict=True))
    assert np.array_equal(cipher.decrypt(total, weights), signed(expected))


def test_as_many_ciphertexts_as_the_capacity_with_a_mask_taken_away(cipher):
    """Fresh noise of each, and a wrap modulo t for each: nothing is near the bound by construction of the bound."""
    same = np.full(N, T - 1, dtype=np.uint64)
    uploads = [source(cipher.encrypt(same)) for _ in range(STANDARD.capacity)]
    total = sum_frames(uploads, STANDARD, N)
    mask = words(N)
    Ring(STANDARD).add_plain(total.c0[0], mask.copy())
    assert np.array_equal(cipher.decrypt(total), signed(STANDARD.capacity * same.astype(object) + mask.astype(object)))


def test_far_past_the_capacity_seal_decrypts_wrongly_and_says_nothing(cipher, monkeypatch):
    """Why the bound is checked: nothing else would say so."""
    one = words(N)
    weight = 20 * STANDARD.capacity
    monkeypatch.setattr(BfvParameters, "capacity", property(lambda self: 10 * weight))
    total = sum_frames([source(cipher.encrypt(one))], STANDARD, N, [weight])
    found = cipher.decrypt(total, [weight])
    assert not np.array_equal(found, signed(weight * one.astype(object)))


def test_seeds_and_ciphertexts_are_never_the_same():
    """The same words, the same key: in one cipher, in another, and in processes that were forked from one."""
    key, one = SecretBytes.random(), words(N)
    ciphers = [BfvCipher(key) for _ in range(2)]
    frames = [c.encrypt(one) for c in ciphers for _ in range(10)]
    for _ in range(4):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, ciphers[0].encrypt(one)[:SEED_BYTES])
            os._exit(0)
        os.waitpid(child, 0)
        frames.append(os.read(read, SEED_BYTES))
        os.close(read), os.close(write)
    assert len({f[:SEED_BYTES] for f in frames}) == len(frames)
    for c in ciphers:
        c.close()


def test_the_key_is_a_function_of_its_bytes_and_another_key_opens_nothing(cipher):
    key, one = SecretBytes.random(), words(N)
    first, second = BfvCipher(key), BfvCipher(SecretBytes(key.reveal()))
    total = sum_frames([source(first.encrypt(one))], STANDARD, N)
    assert np.array_equal(second.decrypt(total), signed(one))
    assert (cipher.decrypt(total) == signed(one)).mean() < 0.01
    with pytest.raises(LocalMisuseError, match="32 bytes, found 16"):
        BfvCipher(SecretBytes.random(16))
    with pytest.raises(LocalMisuseError, match="a weight for each of 1 addends, found 2"):
        second.decrypt(total, [1, 1])


def test_the_self_test_passes_and_can_fail(monkeypatch):
    self_test()
    monkeypatch.setattr(module, "sum_frames", lambda s, p, w, weights: sum_frames(s, p, w, [1, *weights[1:]]))
    with pytest.raises(VerificationError, match="does not decrypt its own sums"):
        self_test()


def test_parameters_that_seal_refuses(monkeypatch):
    monkeypatch.setattr(BfvParameters, "modulus", property(lambda self: (self.multiple + 1 << self.plain_bits) + 1))
    with pytest.raises(VerificationError, match="does not take these parameters"):
        BfvCipher(SecretBytes.random())


class TestSealBytes:
    layout = SealBytes(STANDARD, bytes(32))

    def test_shapes_are_checked(self):
        with pytest.raises(LocalMisuseError, match="uint64"):
            self.layout.plaintext(np.zeros(N - 1, dtype="<u8"))
        with pytest.raises(LocalMisuseError, match="uint64"):
            self.layout.ciphertext(bytes(64), np.zeros(N, dtype=np.int64))
        with pytest.raises(LocalMisuseError, match="64 bytes, found 63"):
            self.layout.ciphertext(bytes(63), np.zeros(N, dtype="<u8"))

    def test_what_is_laid_out_is_split_again(self):
        seed, c0 = bytes(range(64)), words(N)
        data = self.layout.ciphertext(seed, c0)
        found = self.layout.split_ciphertext(data)
        assert (found[0], bytes(found[1])) == (seed, c0.tobytes())
        assert np.array_equal(self.layout.coefficients(self.layout.plaintext(c0)), c0)

    @pytest.mark.parametrize(
        "broken",
        [
            lambda d: d[:-1],
            lambda d: b"\0" + d[1:],
            lambda d: d[:5] + b"\x01" + d[6:],  # zlib: nobody asked for it
            lambda d: d[:16] + b"\1" + d[17:],  # of other parameters
        ],
    )
    def test_another_layout_is_refused(self, broken):
        data = self.layout.ciphertext(bytes(64), words(N))
        with pytest.raises(LocalMisuseError, match="another layout"):
            self.layout.split_ciphertext(broken(data))

    def test_a_plaintext_with_more_coefficients_is_refused(self):
        wide = SealBytes(BfvParameters(8192, STANDARD.multiple, 46), bytes(32))
        data = wide.plaintext(words(8192))
        with pytest.raises(LocalMisuseError, match="another layout"):
            self.layout.coefficients(data)
        assert len(members_of(data, 1 << 20)) == len(data) - 16
