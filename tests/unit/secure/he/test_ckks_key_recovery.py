"""Why CKKS is not offered: decrypted results beside their ciphertexts give its key away, and nothing of BFV's.

The attack of Li and Micciancio (EUROCRYPT 2021, ePrint 2020/1533) on TenSEAL's CKKS with NVFlare 2.9's parameters. A
CKKS decryption is the phase p = c0 + c1 s itself, noise included, as floating-point numbers from which its integers can
be read again: a linear equation in which only s is unknown. TenSEAL shows the real parts of the slots, which are those
of half of p + conj(p), conj being X -> 1/X: two decryptions make two equations for s and conj(s).

BFV decrypts to the plaintext exactly, and the noise stays unknown: the same equations are wrong by it.
"""

import numpy as np
import pytest
import tenseal.sealapi as seal

from fedsec.attacks.opened_sums import CIPHERTEXT, PLAINTEXT, Bfv, Ckks, conj, key_from, saved
from fedsec_secure.he import cipher as module
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import sum_frames
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.secrets import SecretBytes, derive

RNG = np.random.default_rng(0)
SITES = 3


def test_two_decrypted_sums_of_ckks_give_the_key_and_it_opens_one_sites_upload(tmp_path):
    """NVFlare's parameters, through TenSEAL as NVFlare calls it; the attacker through SEAL, without a key."""
    ckks, rounds = Ckks(tmp_path), []
    for _ in range(2):
        updates = RNG.standard_normal((SITES, ckks.degree // 2)) * 0.01
        uploads = [ckks.encrypt(update) for update in updates]
        rounds.append(ckks.equations(uploads[0] + uploads[1] + uploads[2]))
    key = np.array([key_from(*pair, q) for *pair, q in zip(*rounds, ckks.primes, strict=True)])
    assert np.array_equal(key, ckks.true_key()), "exactly the key, modulo both primes"
    assert np.abs(ckks.open(uploads[1], key) - updates[1]).max() < 1e-6
    key[0, 0] = (key[0, 0] + 1) % ckks.primes[0]
    assert np.abs(ckks.open(uploads[1], key) - updates[1]).max() > 1, "and no other key does"


class TestBfv:
    """Our sums, decrypted and shown."""

    q, n = STANDARD.modulus, STANDARD.degree

    @pytest.fixture
    def key(self):
        return SecretBytes.random()

    @pytest.fixture
    def cipher(self, key):
        made = BfvCipher(key)
        yield made
        made.close()

    def transformed(self, cipher, seed, polynomial, tmp_path) -> np.ndarray:
        """(a polynomial, the one of a seed), transformed by SEAL."""
        loaded = cipher._loaded(bytes(seed), polynomial)
        cipher._evaluator.transform_to_ntt_inplace(loaded)
        return saved(loaded, tmp_path, CIPHERTEXT).reshape(2, self.n)

    def ciphertext(self, cipher, total, tmp_path) -> tuple[np.ndarray, np.ndarray]:
        """(c0, c1) of a sum's one block: c1 adds up what the seeds stand for."""
        both = [self.transformed(cipher, seed, total.c0[0], tmp_path) for seed in total.seeds[0]]
        return both[0][0], sum(a for _, a in both) % self.q

    def opened(self, cipher, upload, key, tmp_path) -> np.ndarray:
        """One upload's words, with a key that was computed."""
        c0, c1 = self.ciphertext(cipher, upload, tmp_path)
        phase = np.array((c0 + c1 * key) % self.q, dtype="<u8")
        data = bytearray(cipher._bytes.ciphertext(bytes(64), phase))
        data[16 + 32] = True  # in the order of transforms
        (tmp_path / "phase").write_bytes(data)
        loaded = seal.Ciphertext(cipher._context)
        loaded.load(cipher._context, str(tmp_path / "phase"))
        cipher._evaluator.transform_from_ntt_inplace(loaded)
        found = saved(loaded, tmp_path, CIPHERTEXT)[: self.n]
        rounded = (2 * STANDARD.plain_modulus * found + self.q) // (2 * self.q)
        return (rounded % STANDARD.plain_modulus).astype(np.uint64)

    def test_two_decrypted_sums_give_nothing_that_opens_an_upload(self, cipher, key, tmp_path):
        stretched = np.frombuffer(derive(key, "fedsec v1 bfv secret key", length=64).reveal(), dtype="<u8")
        generator = seal.KeyGenerator(module._context(STANDARD, stretched.tolist()))
        true = saved(generator.secret_key(), tmp_path, PLAINTEXT)
        shown, with_noise = [], []
        for _ in range(2):
            inputs = RNG.integers(0, STANDARD.plain_modulus, (SITES, self.n), dtype=np.uint64)
            uploads = [ArraySource(np.frombuffer(cipher.encrypt(one), dtype="<u8")) for one in inputs]
            total = sum_frames(uploads, STANDARD, self.n)
            words = cipher.decrypt(total) & np.uint64(STANDARD.plain_modulus - 1)
            assert np.array_equal(words, inputs.sum(axis=0) % STANDARD.plain_modulus)
            c0, c1 = self.ciphertext(cipher, total, tmp_path)
            phase, _ = self.transformed(cipher, bytes(64), words * np.uint64(STANDARD.multiple), tmp_path)
            for equations, known in ((shown, phase), (with_noise, c0 + c1 * true)):
                equations.append((c1, (known + conj(known) - c0 - conj(c0)) % self.q))
        upload = sum_frames([ArraySource(np.frombuffer(cipher.encrypt(inputs[1]), dtype="<u8"))], STANDARD, self.n)
        # Were the noise shown too, as CKKS shows it, this key would be found as well.
        found = key_from(*with_noise, self.q)
        assert np.array_equal(found, true)
        assert Bfv(tmp_path).is_key(found)
        assert np.array_equal(self.opened(cipher, upload, found, tmp_path), inputs[1])
        guessed = key_from(*shown, self.q)
        assert (guessed == true).mean() < 0.01
        assert not Bfv(tmp_path).is_key(guessed)
        assert (self.opened(cipher, upload, guessed, tmp_path) == inputs[1]).mean() < 0.01
