"""Why CKKS is not offered: decrypted results beside their ciphertexts give its key away, and nothing of BFV's.

The attack of Li and Micciancio (EUROCRYPT 2021, ePrint 2020/1533) on TenSEAL's CKKS with NVFlare 2.9's parameters. A
CKKS decryption is the phase p = c0 + c1 s itself, noise included, as floating-point numbers from which its integers can
be read again: a linear equation in which only s is unknown. TenSEAL shows the real parts of the slots, which are those
of half of p + conj(p), conj being X -> 1/X: two decryptions make two equations for s and conj(s).

BFV decrypts to the plaintext exactly, and the noise stays unknown: the same equations are wrong by it.
"""

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal

from fedsec_secure.he import cipher as module
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import sum_frames
from fedsec_secure.he.seal_bytes import _headed, members_of
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.secrets import SecretBytes, derive

RNG = np.random.default_rng(0)
SITES = 3
_CIPHERTEXT, _PLAINTEXT = 32 + 41 + 16 + 8, 32 + 16 + 16 + 8
"""Bytes before the numbers of a saved object."""


def conj(values):
    """X -> 1/X in the order of SEAL's number-theoretic transforms.

    The value at root 2 i + 1 goes to root 2 (N - 1 - i) + 1; with their bits reversed, i and N - 1 - i mirror each
    other too.
    """
    return values[::-1]


def key_from(first, second, q: int) -> np.ndarray:
    """s modulo q from two pairs (c1, c1 s + conj(c1 s)), all in the order of SEAL's transforms."""
    (a, u), (b, v) = first, second
    determinant = (a * conj(b) - b * conj(a)) % q
    inverse = np.array([pow(int(d), -1, q) for d in determinant], dtype=object)
    return (u * conj(b) - v * conj(a)) * inverse % q


def saved(thing, tmp_path, head: int) -> np.ndarray:
    """All its numbers, as Python's integers."""
    thing.save(str(tmp_path / "saved"))
    members = members_of((tmp_path / "saved").read_bytes(), 1 << 20)
    return np.frombuffer(members, dtype="<u8", offset=head).astype(object)


class TestCkks:
    """NVFlare's parameters, through TenSEAL as NVFlare calls it; the attacker through SEAL, without a key."""

    n, bits, scale = 8192, (60, 40, 40), 2.0**40

    @pytest.fixture
    def site(self):
        sizes, symmetric = list(self.bits), ts.ENCRYPTION_TYPE.SYMMETRIC
        made = ts.context(ts.SCHEME_TYPE.CKKS, self.n, coeff_mod_bit_sizes=sizes, encryption_type=symmetric)
        made.global_scale = self.scale
        return made

    @pytest.fixture
    def public(self):
        """Context and primes of ciphertexts: the last is for keys alone."""
        made = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        made.set_poly_modulus_degree(self.n)
        primes = seal.CoeffModulus.Create(self.n, list(self.bits))
        made.set_coeff_modulus(primes)
        return seal.SEALContext(made, True, seal.SEC_LEVEL_TYPE.TC128), [p.value() for p in primes[:-1]]

    def polynomials(self, vector, tmp_path) -> np.ndarray:
        """(c0, c1) of a vector's one ciphertext, by prime."""
        (ciphertext,) = vector.ciphertext()
        return saved(ciphertext, tmp_path, _CIPHERTEXT).reshape(2, -1, self.n)

    def equations(self, total, released, public, tmp_path):
        """For each prime (c1, c1 s + conj(c1 s)), from a ciphertext and its decryption."""
        context, primes = public
        plain = seal.Plaintext()
        # Twice: half of p + conj(p) need not have integers.
        seal.CKKSEncoder(context).encode(released, 2 * self.scale, plain)
        phases = saved(plain, tmp_path, _PLAINTEXT).reshape(-1, self.n)
        c0, c1 = self.polynomials(total, tmp_path)
        return [(c1[i], (phases[i] - c0[i] - conj(c0[i])) % q) for i, q in enumerate(primes)]

    def opened(self, upload, key, public, tmp_path) -> np.ndarray:
        context, primes = public
        c0, c1 = self.polynomials(upload, tmp_path)
        phase = np.array([(c0[i] + c1[i] * key[i]) % q for i, q in enumerate(primes)], dtype="<u8")
        (ciphertext,) = upload.ciphertext()
        ciphertext.save(str(tmp_path / "saved"))
        parms_id = bytes(members_of((tmp_path / "saved").read_bytes(), 1 << 20)[:32])
        count = phase.size.to_bytes(8, "little")
        array = _headed(count, phase.tobytes())
        (tmp_path / "plain").write_bytes(_headed(parms_id, count, np.float64(self.scale).tobytes(), array))
        plain = seal.Plaintext()
        plain.load(context, str(tmp_path / "plain"))
        return np.array(seal.CKKSEncoder(context).decode_double(plain))

    def test_two_decrypted_sums_give_the_key_and_it_opens_one_sites_upload(self, site, public, tmp_path):
        rounds = []
        for _ in range(2):
            updates = RNG.standard_normal((SITES, self.n // 2)) * 0.01
            uploads = [ts.ckks_vector(site, update) for update in updates]
            total = uploads[0] + uploads[1] + uploads[2]
            rounds.append(self.equations(total, total.decrypt(), public, tmp_path))
        key = np.array([key_from(*pair, q) for *pair, q in zip(*rounds, public[1], strict=True)])
        true = saved(site.secret_key().data, tmp_path, _PLAINTEXT).reshape(-1, self.n)
        assert np.array_equal(key, true[: len(key)]), "exactly the key, modulo both primes"
        assert np.abs(self.opened(uploads[1], key, public, tmp_path) - updates[1]).max() < 1e-6
        key[0, 0] = (key[0, 0] + 1) % public[1][0]
        assert np.abs(self.opened(uploads[1], key, public, tmp_path) - updates[1]).max() > 1, "and no other key does"


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
        return saved(loaded, tmp_path, _CIPHERTEXT).reshape(2, self.n)

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
        found = saved(loaded, tmp_path, _CIPHERTEXT)[: self.n]
        rounded = (2 * STANDARD.plain_modulus * found + self.q) // (2 * self.q)
        return (rounded % STANDARD.plain_modulus).astype(np.uint64)

    def test_two_decrypted_sums_give_nothing_that_opens_an_upload(self, cipher, key, tmp_path):
        stretched = np.frombuffer(derive(key, "fedsec v1 bfv secret key", length=64).reveal(), dtype="<u8")
        generator = seal.KeyGenerator(module._context(STANDARD, stretched.tolist()))
        true = saved(generator.secret_key(), tmp_path, _PLAINTEXT)
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
        assert np.array_equal(self.opened(cipher, upload, found, tmp_path), inputs[1])
        guessed = key_from(*shown, self.q)
        assert (guessed == true).mean() < 0.01
        assert (self.opened(cipher, upload, guessed, tmp_path) == inputs[1]).mean() < 0.01
