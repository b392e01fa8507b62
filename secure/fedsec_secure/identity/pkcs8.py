"""PKCS#8 files for Ed25519 keys, encrypted by PBES2 with scrypt (RFC 8018 section 6.2, RFC 7914 section 7).

``cryptography`` reads that form but writes only PBKDF2 with 2048 rounds, which a graphics card tries by the hundred
thousand a second. So the envelope is put together here from the library's scrypt, AES and DER encoder; reading stays
with the library.
"""

from __future__ import annotations

import os
from base64 import encodebytes

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import ObjectIdentifier

from fedsec_secure.errors import ConfigError

SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1
"""128 MiB and about half a second a try: OWASP's first choice for scrypt."""

_PBES2 = ObjectIdentifier("1.2.840.113549.1.5.13")
_SCRYPT = ObjectIdentifier("1.3.6.1.4.1.11591.4.11")
_AES_256_CBC = ObjectIdentifier("2.16.840.1.101.3.4.1.42")


@asn1.sequence
class _ScryptParameters:
    salt: bytes
    cost: int
    block_size: int
    parallelization: int


@asn1.sequence
class _KeyDerivation:
    algorithm: ObjectIdentifier
    parameters: _ScryptParameters


@asn1.sequence
class _Encryption:
    algorithm: ObjectIdentifier
    iv: bytes


@asn1.sequence
class _Pbes2Parameters:
    key_derivation: _KeyDerivation
    encryption: _Encryption


@asn1.sequence
class _Algorithm:
    algorithm: ObjectIdentifier
    parameters: _Pbes2Parameters


@asn1.sequence
class _EncryptedPrivateKeyInfo:
    algorithm: _Algorithm
    data: bytes


def encode_private_key(key: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    """PEM of the key, encrypted when there is a passphrase; ConfigError for an empty one."""
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if not passphrase:
        raise ConfigError("the passphrase is empty; give one of at least one byte, or none at all")
    salt, iv = os.urandom(16), os.urandom(16)
    derived = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)
    padder = PKCS7(128).padder()
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(iv)).encryptor()
    data = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    scrypt = _ScryptParameters(salt=salt, cost=SCRYPT_N, block_size=SCRYPT_R, parallelization=SCRYPT_P)
    parameters = _Pbes2Parameters(
        key_derivation=_KeyDerivation(algorithm=_SCRYPT, parameters=scrypt),
        encryption=_Encryption(algorithm=_AES_256_CBC, iv=iv),
    )
    info = _EncryptedPrivateKeyInfo(algorithm=_Algorithm(algorithm=_PBES2, parameters=parameters), data=data)
    body = encodebytes(asn1.encode_der(info))
    return b"-----BEGIN ENCRYPTED " + b"PRIVATE KEY-----\n" + body + b"-----END ENCRYPTED " + b"PRIVATE KEY-----\n"


def decode_private_key(pem: bytes, passphrase: bytes | None, name: str) -> Ed25519PrivateKey:
    """The Ed25519 key in a PKCS#8 PEM; ``name`` stands for the file in errors (ConfigError)."""
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as e:
        needed = "is encrypted; give its passphrase" if passphrase is None else "is not encrypted; give no passphrase"
        raise ConfigError(f"the key {name} {needed}") from e
    except (ValueError, UnsupportedAlgorithm, InternalError) as e:  # the last: a key of another length
        hint = "the passphrase is wrong or the file is damaged" if passphrase else "expected one PKCS#8 PEM key"
        raise ConfigError(f"the key {name} does not open: {hint}") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the key {name} is a {type(key).__name__}; expected Ed25519, as `fedsec keys new` makes")
    return key
