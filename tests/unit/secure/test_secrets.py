"""Secrets do not leak by accident, and HKDF is that of RFC 5869 under an unambiguous info string."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.secrets import SecretBytes, derive

SECRET = SecretBytes(b"correct horse battery staple 123")


def hkdf(secret: bytes, info: bytes, length: int, salt: bytes = b"") -> bytes:
    """RFC 5869 from HMAC alone."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    out, block = b"", b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def test_rfc_5869_vectors():
    """Test cases 1 and 3 of appendix A hold for the reference above; :func:`derive` is compared with it below."""
    case_1 = hkdf(b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42, bytes(range(13)))
    assert case_1.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    case_3 = hkdf(b"\x0b" * 22, b"", 42)
    assert case_3.hex() == ("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")


@given(st.binary(min_size=1, max_size=64), st.lists(st.binary(max_size=9), max_size=3), st.integers(1, 200))
def test_derive_is_hkdf_over_label_and_parts(secret, parts, length):
    info = b"\x00\x05label" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    assert derive(SecretBytes(secret), "label", *parts, length=length).reveal() == hkdf(secret, info, length)


@given(st.lists(st.binary(max_size=4), max_size=3), st.lists(st.binary(max_size=4), max_size=3))
def test_other_parts_give_other_keys(one, two):
    same = derive(SECRET, "x", *one) == derive(SECRET, "x", *two)
    assert same == (one == two)


def test_other_labels_and_secrets_give_other_keys():
    keys = [
        derive(SECRET, "a", b"b"),
        derive(SECRET, "ab"),
        derive(SECRET, "a", b"", b"b"),
        derive(SecretBytes(b"another"), "a", b"b"),
    ]
    assert len({k.reveal() for k in keys}) == 4


def test_a_secret_shows_itself_nowhere():
    for text in (repr(SECRET), str(SECRET), f"{SECRET}", f"{SECRET!r:>60}", f"{[SECRET]}"):
        assert "horse" not in text
        assert "redacted" in text
    with pytest.raises(TypeError):
        pickle.dumps(SECRET)
    with pytest.raises(TypeError):
        copy.deepcopy(SECRET)
    with pytest.raises(TypeError):
        copy.copy(SECRET)
    with pytest.raises(TypeError):
        hash(SECRET)
    with pytest.raises(AttributeError):
        SECRET._value = b"x"
    with pytest.raises(AttributeError):
        SECRET.other = b"x"
    with pytest.raises(TypeError):
        bytes(SECRET)
    with pytest.raises(TypeError):
        iter(SECRET)


def test_equality_is_by_value_and_between_secrets_only():
    assert SecretBytes(b"abc") == SecretBytes(b"abc")
    assert SecretBytes(b"abc") != SecretBytes(b"abd")
    assert SecretBytes(b"abc") != b"abc"
    assert len(SecretBytes(b"abc")) == 3


@pytest.mark.parametrize("value", [b"", "text", bytearray(b"x"), None, 5])
def test_a_secret_is_made_from_bytes(value):
    with pytest.raises(LocalMisuseError):
        SecretBytes(value)


def test_random_secrets_differ():
    assert len({hashlib.sha256(SecretBytes.random().reveal()).digest() for _ in range(50)}) == 50
    assert len(SecretBytes.random(16)) == 16
