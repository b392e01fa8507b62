"""X25519 key agreement (RFC 7748) on raw keys of 32 bytes."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedsec_secure.errors import PeerViolationError
from fedsec_secure.secrets import SecretBytes


def x25519_public(secret: SecretBytes) -> bytes:
    """The raw 32-byte public key of a raw X25519 private key (RFC 7748)."""
    return X25519PrivateKey.from_private_bytes(secret.reveal()).public_key().public_bytes_raw()


def agree(secret: SecretBytes, public: bytes, peer: str) -> SecretBytes:
    """The X25519 shared secret; a public key of small order (an all-zero result) is refused."""
    try:
        shared = X25519PrivateKey.from_private_bytes(secret.reveal()).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise PeerViolationError(f"the X25519 key of {peer} has small order") from None
    return SecretBytes(shared)
