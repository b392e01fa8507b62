"""Fingerprints in words: what two people compare by telephone before a key goes into a roster."""

from __future__ import annotations

from functools import cache

from mnemonic import Mnemonic

from fedsec_secure.identity.keys import PublicKey

_HEX_DIGITS = 32


@cache
def _words() -> Mnemonic:
    return Mnemonic("english")


def spoken(key: PublicKey) -> str:
    """Twelve words of BIP-39's English list: the fingerprint's first 128 bits, and four check bits.

    No secret, although wallets write theirs in the same words. To make a key with the same words as another's takes
    2^128 tries; no two words of the list share their first four letters.
    """
    digits = key.fingerprint().replace(" ", "")[:_HEX_DIGITS]
    return str(_words().to_mnemonic(bytes.fromhex(digits)))
