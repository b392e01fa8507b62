"""Ed25519 identities (RFC 8032): who signs a site's messages, who approves plans, who drives a run.

A private key lives in one PKCS#8 file of mode 0600 (`pkcs8.py` protects it under a passphrase) and in one
``SigningKey`` object, which cannot be pickled, copied or printed. Python cannot wipe memory for sure, so a key stays
readable to whoever can read the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.pkcs8 import decode_private_key, encode_private_key
from fedsec_secure.secrets import SecretBytes, derive

SIGNATURE_BYTES = 64
_KEY_BYTES = 32
_KEY_FILE_LIMIT = 8192
_FINGERPRINT_DOMAIN = b"fedsec public key fingerprint v1\x00"

_P = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y coordinates of the eight points of small order. With such a "public key" one signature fits many messages, so
# nobody could be held to what it seems to have signed (Chalkias et al., "Taming the many EdDSAs", 2020).
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


@dataclass(frozen=True, order=True, slots=True)
class PublicKey:
    """An Ed25519 public key: 32 raw bytes, canonical and not of small order.

    Raises:
        ConfigError: the bytes are no acceptable public key.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.raw, bytes) or len(self.raw) != _KEY_BYTES:
            found = len(self.raw) if isinstance(self.raw, bytes) else type(self.raw).__name__
            raise ConfigError(f"an Ed25519 public key has {_KEY_BYTES} bytes; found {found}")
        y = int.from_bytes(self.raw, "little") & ((1 << 255) - 1)
        if y >= _P or y in _SMALL_ORDER_Y:
            raise ConfigError(
                f"public key {self.hex[:8]}… is not canonical or has small order, so a signature under it proves "
                "nothing; ask its owner for a key made by `fedsec keys new`"
            )

    @classmethod
    def from_hex(cls, text: str) -> PublicKey:
        """Parse 64 lower-case hex digits, as plans and site files write a key; ConfigError otherwise."""
        if len(text) != 2 * _KEY_BYTES or not set(text) <= set("0123456789abcdef"):
            raise ConfigError(f"a public key is written as 64 lower-case hex digits; found {len(text)} characters")
        return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        """64 lower-case hex digits."""
        return self.raw.hex()

    def verify(self, signature: bytes, data: bytes) -> None:
        """Check a 64-byte Ed25519 signature over ``data``; VerificationError when it does not hold."""
        if len(signature) != SIGNATURE_BYTES:
            raise VerificationError(f"an Ed25519 signature has {SIGNATURE_BYTES} bytes; found {len(signature)}")
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError) as e:
            raise VerificationError(f"the signature does not hold under key {self.hex[:8]}…") from e

    def fingerprint(self) -> str:
        """160 bits of SHA-256 over the key in ten groups of four hex digits, for comparing by telephone."""
        digest = hashlib.sha256(_FINGERPRINT_DOMAIN + self.raw).hexdigest()[:40]
        return " ".join(digest[i : i + 4] for i in range(0, 40, 4))


class SigningKey:
    """An Ed25519 private key. Shows its fingerprint only; refuses to be pickled or copied."""

    __slots__ = ("_key", "public")

    public: PublicKey

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's random source."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature over ``data``."""
        return self._key.sign(data)

    def derive_secret(self, label: str) -> SecretBytes:
        """A 32-byte secret that whoever holds this key can make again: HKDF(private key; label), one use a label."""
        return derive(SecretBytes(self._key.private_bytes_raw()), label)

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the key as PKCS#8 PEM, mode 0600; with a passphrase encrypted (scrypt, AES-256-CBC).

        The file appears whole or not at all, and an existing file is never overwritten.

        Raises:
            ConfigError: the file exists, its folder does not, or the passphrase is empty.
        """
        _create_private(path, encode_private_key(self._key, passphrase))

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> SigningKey:
        """Read a key that `save` (or any PKCS#8 tool) wrote.

        Raises:
            ConfigError: no file, readable by others, owned by someone else, not an Ed25519 key, or wrong passphrase.
        """
        return cls(decode_private_key(_read_private(path), passphrase, path.name))

    def __repr__(self) -> str:
        return f"SigningKey({self.public.fingerprint()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey is not pickled: it stays in its file and this process")

    def __copy__(self) -> NoReturn:
        raise TypeError("a SigningKey is not copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a SigningKey is not copied")


def _create_private(path: Path, data: bytes) -> None:
    """Create ``path`` with mode 0600 and the whole of ``data``, or fail without a trace."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as e:
        raise ConfigError(f"cannot write a key into {path.parent}: {e.strerror}; make the folder first") from e
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A hard link fails where the name is taken; a rename would replace the key that is there.
        os.link(temporary, path)
    except FileExistsError as e:
        raise ConfigError(f"{path} exists; a key is never overwritten: move it away or choose another name") from e
    except OSError as e:
        raise ConfigError(f"cannot write the key {path}: {e.strerror}") from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _read_private(path: Path) -> bytes:
    """The bytes of a key file that nobody else can read."""
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ConfigError(f"{path} is not a regular file; expected a PKCS#8 key")
            if os.name == "posix":
                if info.st_mode & 0o077:
                    raise ConfigError(
                        f"{path} has mode {stat.S_IMODE(info.st_mode):04o}, so others may have read this key; "
                        f"expected 0600. If nobody has: chmod 600 {path}; if in doubt, make a new key"
                    )
                if info.st_uid not in (os.geteuid(), 0):
                    raise ConfigError(f"{path} belongs to another user (uid {info.st_uid}); expected your own key")
            data = file.read(_KEY_FILE_LIMIT + 1)
    except OSError as e:
        raise ConfigError(f"cannot read the key {path}: {e.strerror}; make one with `fedsec keys new {path}`") from e
    if len(data) > _KEY_FILE_LIMIT:
        raise ConfigError(f"{path} is larger than {_KEY_FILE_LIMIT} bytes; expected one PKCS#8 PEM key")
    return data
