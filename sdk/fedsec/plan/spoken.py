"""Fingerprints in words: what two people compare by telephone before a key goes into a roster."""

from __future__ import annotations

from functools import cache

from mnemonic import Mnemonic

from fedsec_secure.identity.keys import PublicKey

_BYTES = 16


@cache
def _words() -> Mnemonic:
    return Mnemonic("english")


def spoken(key: PublicKey) -> str:
    """Twelve words of BIP-39's English list: the fingerprint's first 128 bits, and four check bits.

    No secret, although wallets write theirs in the same words. To make a key with the same words as another's takes
    2^128 tries; no two words of the list share their first four letters.
    """
    return spoken_bytes(bytes.fromhex(key.fingerprint()))


def spoken_bytes(fingerprint: bytes) -> str:
    """The same of a fingerprint (16 bytes or more) of something else."""
    return str(_words().to_mnemonic(fingerprint[:_BYTES]))
