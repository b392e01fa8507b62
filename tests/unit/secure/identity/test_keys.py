"""Ed25519 identities: what a key file holds, who may read it, and which public keys are no keys."""

import base64
import copy
import os
import pickle
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity import keys as keys_module
from fedsec_secure.identity import pkcs8
from fedsec_secure.identity.keys import PublicKey, SigningKey
from fedsec_secure.identity.pkcs8 import decode_private_key

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P

# RFC 8032 section 7.1, test 2.
RFC_PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
RFC_SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.fixture
def fast_scrypt(monkeypatch):
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 1 << 10)


def test_rfc_8032_vector_verifies_and_a_changed_message_does_not():
    key = PublicKey.from_hex(RFC_PUBLIC)
    key.verify(bytes.fromhex(RFC_SIGNATURE), b"\x72")
    with pytest.raises(VerificationError, match="does not hold"):
        key.verify(bytes.fromhex(RFC_SIGNATURE), b"\x73")


def test_every_flipped_bit_of_a_signature_is_refused():
    key = SigningKey.generate()
    signature = key.sign(b"data")
    for i in range(8 * len(signature)):
        bad = bytearray(signature)
        bad[i // 8] ^= 1 << (i % 8)
        with pytest.raises(VerificationError):
            key.public.verify(bytes(bad), b"data")


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signature_of_the_wrong_length_is_refused(length):
    with pytest.raises(VerificationError, match="64 bytes"):
        SigningKey.generate().public.verify(b"\x00" * length, b"data")


@pytest.mark.parametrize("raw", [b"", b"\x09" * 31, b"\x09" * 33])
def test_public_key_of_the_wrong_length_is_refused(raw):
    with pytest.raises(ConfigError, match="32 bytes"):
        PublicKey(raw)


@pytest.mark.parametrize("text", ["", "AB" * 32, "zz" * 32, "ab" * 31, " " + "ab" * 31 + "a"])
def test_hex_is_read_strictly(text):
    with pytest.raises(ConfigError, match="64 lower-case hex"):
        PublicKey.from_hex(text)


def edwards_add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P,
    )


def test_the_small_order_list_is_exactly_the_points_of_order_dividing_eight():
    y = keys_module._ORDER_8
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == x2
    point, orders = (x, y), []
    for _ in range(8):
        orders.append(point)
        point = edwards_add(point, (x, y))
    assert orders[7] == (0, 1)  # order divides 8 …
    assert orders[3] != (0, 1)  # … and is 8: the eight multiples are all the small-order points
    assert {y for _, y in orders} == set(keys_module._SMALL_ORDER_Y)


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", [*sorted(keys_module._SMALL_ORDER_Y), P, P + 1, P + 5, 2**255 - 1])
def test_small_order_and_non_canonical_keys_are_refused(y, sign):
    with pytest.raises(ConfigError, match="small order"):
        PublicKey((y | sign).to_bytes(32, "little"))


def test_public_keys_compare_hash_and_sort_by_value():
    a, b = SigningKey.generate().public, SigningKey.generate().public
    assert PublicKey.from_hex(a.hex) == a
    assert len({a, b, PublicKey(a.raw)}) == 2
    assert sorted([a, b]) == sorted([b, a], key=lambda k: k.raw)


def test_fingerprint_is_fixed_and_short_enough_to_read_out():
    # SHA-256("fedsec public key fingerprint v1\0" + key), first 160 bits; computed with sha256sum.
    assert PublicKey.from_hex(RFC_PUBLIC).fingerprint() == "d7ac 4f51 ad36 cf8c 67dd 9b8b e8a0 34c9 5fbe a26b"


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_saved_key_loads_again_with_mode_0600(tmp_path, passphrase, fast_scrypt):
    key = SigningKey.generate()
    old = os.umask(0)
    try:
        key.save(tmp_path / "k.pem", passphrase)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    assert SigningKey.load(tmp_path / "k.pem", passphrase).public == key.public
    assert [p.name for p in tmp_path.iterdir()] == ["k.pem"]


def test_encrypted_file_uses_scrypt_at_full_cost(tmp_path):
    key = SigningKey.generate()
    key.save(tmp_path / "k.pem", b"pw")
    pem = (tmp_path / "k.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED ")
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    assert bytes.fromhex("06092b06010401da47040b") in der
    assert (1 << 17).to_bytes(3, "big") in der
    assert SigningKey.load(tmp_path / "k.pem", b"pw").public == key.public


def test_wrong_missing_or_superfluous_passphrase(tmp_path, fast_scrypt):
    key = SigningKey.generate()
    key.save(tmp_path / "locked", b"right")
    key.save(tmp_path / "open")
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        SigningKey.load(tmp_path / "locked", b"wrong")
    with pytest.raises(ConfigError, match="is encrypted"):
        SigningKey.load(tmp_path / "locked")
    with pytest.raises(ConfigError, match="is not encrypted"):
        SigningKey.load(tmp_path / "open", b"right")
    with pytest.raises(ConfigError, match="empty"):
        key.save(tmp_path / "new", b"")


def test_an_existing_key_is_never_overwritten(tmp_path):
    first = SigningKey.generate()
    first.save(tmp_path / "k")
    with pytest.raises(ConfigError, match="never overwritten"):
        SigningKey.generate().save(tmp_path / "k")
    assert SigningKey.load(tmp_path / "k").public == first.public
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o602])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    SigningKey.generate().save(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(ConfigError, match="expected 0600"):
        SigningKey.load(tmp_path / "k")


def test_what_is_no_ed25519_key_is_refused(tmp_path):
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "x25519": X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "large": b"a" * 9000,
    }.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(ConfigError):
            SigningKey.load(tmp_path / name)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            SigningKey.load(missing)
    with pytest.raises(ConfigError, match="make the folder"):
        SigningKey.generate().save(tmp_path / "no" / "k")


def test_a_signing_key_does_not_leak_through_repr_pickle_or_copy():
    key = SigningKey.generate()
    assert repr(key) == f"SigningKey({key.public.fingerprint()})"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(key)


def test_secrets_derived_from_a_key_are_its_own_and_differ_by_label():
    a, b = SigningKey.generate(), SigningKey.generate()
    assert a.derive_secret("one") == a.derive_secret("one")
    assert len({k.derive_secret(label).reveal() for k in (a, b) for label in ("one", "two")}) == 4


def test_a_failed_write_leaves_no_half_key(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys_module.os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        SigningKey.generate().save(tmp_path / "k")
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_another_user_is_refused(tmp_path, monkeypatch):
    SigningKey.generate().save(tmp_path / "k")
    owner = (tmp_path / "k").stat().st_uid
    if owner == 0:
        os.chown(tmp_path / "k", 12345, -1)
    else:
        monkeypatch.setattr(keys_module.os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        SigningKey.load(tmp_path / "k")


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_an_ed25519_key_of_another_length_is_a_damaged_file(length):
    """OpenSSL answers such a file with an internal error."""
    inner = bytes([0x04, length]) + bytes(length)
    der = bytes.fromhex("020100300506032b6570") + bytes([0x04, len(inner)]) + inner
    body = base64.b64encode(bytes([0x30, len(der)]) + der).decode()
    pem = f"-----BEGIN PRIVATE {'KEY'}-----\n{body}\n-----END PRIVATE {'KEY'}-----\n"
    with pytest.raises(ConfigError, match="does not open"):
        decode_private_key(pem.encode(), None, "site.key")
