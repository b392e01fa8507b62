"""Fingerprints in words: the standard's own encoding of the fingerprint's first 128 bits."""

import hashlib
from pathlib import Path

import mnemonic
from hypothesis import given
from hypothesis import strategies as st

from fedsec.plan.spoken import spoken
from fedsec_secure.identity.keys import PublicKey, SigningKey

WORDS = (Path(mnemonic.__file__).parent / "wordlist" / "english.txt").read_text().split()


def by_definition(key: PublicKey) -> str:
    """BIP-39, bit by bit: entropy, then its SHA-256's first four bits, eleven bits a word."""
    entropy = bytes.fromhex(key.fingerprint().replace(" ", "")[:32])
    bits = int.from_bytes(entropy, "big") << 4 | hashlib.sha256(entropy).digest()[0] >> 4
    return " ".join(WORDS[bits >> (11 * place) & 2047] for place in range(11, -1, -1))


@given(st.integers(0, 2**32))
def test_the_words_are_those_of_the_standard(seed):
    key = PublicKey(hashlib.sha256(b"base point multiple %d" % seed).digest()[:31] + b"\x12")
    assert spoken(key) == by_definition(key)


def test_another_key_has_other_words():
    first, second = (SigningKey.generate().public for _ in range(2))
    assert len(spoken(first).split()) == 12
    assert spoken(first) != spoken(second)
    assert spoken(first) == spoken(PublicKey.from_hex(first.hex))


def test_four_letters_tell_a_word():
    assert len({word[:4] for word in WORDS}) == len(WORDS) == 2048
