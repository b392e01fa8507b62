"""The key from sums that were opened and shown beside their ciphertexts (Li and Micciancio, EUROCRYPT 2021, ePrint
2020/1533): on CKKS, with TenSEAL and NVFlare 2.9's parameters, and on this build's sums.

A CKKS decryption is the phase p = c0 + c1 s itself, noise included, as floating-point numbers from which its integers
can be read again: a linear equation in which only s is unknown. TenSEAL shows the real parts of the slots, which are
those of half of p + conj(p), conj being X -> 1/X: two decryptions make two equations for s and conj(s). BFV decrypts to
the plaintext exactly, and the noise stays unknown: the same equations are wrong by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal as ts
import tenseal.sealapi as seal

from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames
from fedsec_secure.he.seal_bytes import SealBytes, headed, members_of
from fedsec_secure.numeric.lanes import Words

Numbers = npt.NDArray[np.object_]
"""Python's integers."""
Equation = tuple[Numbers, Numbers]
"""(c1, c1 s + conj(c1 s)) modulo a prime, in the order of SEAL's transforms."""
CIPHERTEXT, PLAINTEXT = 32 + 41 + 16 + 8, 32 + 16 + 16 + 8
"""Bytes before the numbers of a saved object."""
_MOST = 1 << 20


def conj(values: Numbers) -> Numbers:
    """X -> 1/X in the order of SEAL's number-theoretic transforms.

    The value at root 2 i + 1 goes to root 2 (N - 1 - i) + 1; with their bits reversed, i and N - 1 - i mirror each
    other too.
    """
    return values[::-1]


def key_from(first: Equation, second: Equation, q: int) -> Numbers:
    """s modulo q from two equations."""
    (a, u), (b, v) = first, second
    determinant = (a * conj(b) - b * conj(a)) % q
    inverse = np.array([pow(int(d), -1, q) for d in determinant], dtype=object)
    found: Numbers = (u * conj(b) - v * conj(a)) * inverse % q
    return found


def saved(thing: Any, folder: Path, head: int) -> Numbers:
    """All numbers of an object of SEAL's."""
    thing.save(str(folder / "saved"))
    members = members_of((folder / "saved").read_bytes(), _MOST)
    return np.frombuffer(members, dtype="<u8", offset=head).astype(object)


class Ckks:
    """Sites that share a CKKS key, as NVFlare calls TenSEAL; and what whoever sees their sums makes of them, through
    SEAL and without the key.
    """

    degree, bits, scale = 8192, (60, 40, 40), 2.0**40

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        sizes, symmetric = list(self.bits), ts.ENCRYPTION_TYPE.SYMMETRIC
        self._sites = ts.context(ts.SCHEME_TYPE.CKKS, self.degree, coeff_mod_bit_sizes=sizes, encryption_type=symmetric)
        self._sites.global_scale = self.scale
        public = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        public.set_poly_modulus_degree(self.degree)
        primes = seal.CoeffModulus.Create(self.degree, sizes)
        public.set_coeff_modulus(primes)
        self._public = seal.SEALContext(public, True, seal.SEC_LEVEL_TYPE.TC128)
        self.primes: list[int] = [p.value() for p in primes[:-1]]
        """Of ciphertexts: the last one is for keys alone."""

    def encrypt(self, update: npt.NDArray[np.float64]) -> Any:
        """At a site: float64[degree / 2]."""
        return ts.ckks_vector(self._sites, update)

    def true_key(self) -> Numbers:
        """For the judge: by prime."""
        found = saved(self._sites.secret_key().data, self._folder, PLAINTEXT).reshape(-1, self.degree)
        return found[: len(self.primes)]

    def equations(self, total: Any) -> list[Equation]:
        """For each prime, from a sum and from what the sites show as its decryption."""
        plain = seal.Plaintext()
        # Twice: half of p + conj(p) need not have integers.
        seal.CKKSEncoder(self._public).encode(total.decrypt(), 2 * self.scale, plain)
        phases = saved(plain, self._folder, PLAINTEXT).reshape(-1, self.degree)
        c0, c1 = self._polynomials(total)
        return [(c1[i], (phases[i] - c0[i] - conj(c0[i])) % q) for i, q in enumerate(self.primes)]

    def open(self, upload: Any, key: Numbers) -> npt.NDArray[np.float64]:
        """One upload, under a key that was computed."""
        c0, c1 = self._polynomials(upload)
        phase = np.array([(c0[i] + c1[i] * key[i]) % q for i, q in enumerate(self.primes)], dtype="<u8")
        (ciphertext,) = upload.ciphertext()
        ciphertext.save(str(self._folder / "saved"))
        parms_id = bytes(members_of((self._folder / "saved").read_bytes(), _MOST)[:32])
        count = phase.size.to_bytes(8, "little")
        array = headed(count, phase.tobytes())
        (self._folder / "plain").write_bytes(headed(parms_id, count, np.float64(self.scale).tobytes(), array))
        plain = seal.Plaintext()
        plain.load(self._public, str(self._folder / "plain"))
        return np.array(seal.CKKSEncoder(self._public).decode_double(plain))

    def _polynomials(self, vector: Any) -> Numbers:
        """(c0, c1) of a vector's one ciphertext, by prime."""
        (ciphertext,) = vector.ciphertext()
        return saved(ciphertext, self._folder, CIPHERTEXT).reshape(2, -1, self.degree)


class Bfv:
    """This build's scheme, through SEAL and without the key."""

    degree, prime = STANDARD.degree, STANDARD.modulus

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        public = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        public.set_poly_modulus_degree(self.degree)
        public.set_coeff_modulus([seal.Modulus(self.prime)])
        public.set_plain_modulus(STANDARD.plain_modulus)
        self._public = seal.SEALContext(public, False, seal.SEC_LEVEL_TYPE.TC128)
        self._evaluator = seal.Evaluator(self._public)
        own = seal.Encryptor(self._public, seal.KeyGenerator(self._public).secret_key())
        own.encrypt_symmetric(seal.Plaintext("0")).save(str(folder / "saved"))
        parms_id = bytes(members_of((folder / "saved").read_bytes(), _MOST)[:32])
        self._bytes = SealBytes(STANDARD, parms_id)

    def equation(self, total: SumFrames, words: Words) -> Equation:
        """From the first block of a sum, and the words that it was shown to decrypt to."""
        plain = np.zeros(self.degree, dtype="<u8")
        plain[: len(words)] = words & np.uint64(STANDARD.plain_modulus - 1)
        phase, _ = self._transformed(bytes(64), plain * np.uint64(STANDARD.multiple))
        both = [self._transformed(seed.tobytes(), total.c0[0]) for seed in total.seeds[0]]
        c0, c1 = both[0][0], sum(a for _, a in both) % self.prime
        return c1, (phase + conj(phase) - c0 - conj(c0)) % self.prime

    def is_key(self, key: Numbers) -> bool:
        """Whether it is one: SEAL's have the coefficients -1, 0 and 1."""
        data = bytearray(self._bytes.ciphertext(bytes(64), key.astype("<u8")))
        data[16 + 32] = True  # in the order of transforms
        loaded = self._loaded(bytes(data))
        self._evaluator.transform_from_ntt_inplace(loaded)
        found = saved(loaded, self._folder, CIPHERTEXT)[: self.degree]
        return set(found.tolist()) <= {0, 1, self.prime - 1}

    def _transformed(self, seed: bytes, polynomial: Words) -> Numbers:
        """(a polynomial, the one of a seed), transformed."""
        loaded = self._loaded(self._bytes.ciphertext(seed, polynomial))
        self._evaluator.transform_to_ntt_inplace(loaded)
        return saved(loaded, self._folder, CIPHERTEXT).reshape(2, self.degree)

    def _loaded(self, data: bytes) -> Any:
        (self._folder / "loaded").write_bytes(data)
        found = seal.Ciphertext(self._public)
        found.load(self._public, str(self._folder / "loaded"))
        return found
