"""Signed envelopes: DSSE (Dead Simple Signing Envelope v1.0.2), written and read in exactly one way.

The signature covers the payload's bytes and its type (DSSE's PAE), and is checked before anyone parses the payload.
Of the many JSON texts that hold the same envelope only the canonical one (RFC 8785, signatures sorted by key id,
padded standard base64) is accepted: a changed byte is an error, wherever it stands.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import rfc8785
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as SslibVerificationError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # the library's public names, without an __all__
    Key,
    SecretsHandler,
    Signature,
    Signer,
    SSlibKey,
)

from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError, VerificationError
from fedsec_secure.identity.keys import SIGNATURE_BYTES, PublicKey, SigningKey

MAX_ENVELOPE_BYTES = 1 << 20
_MAX_SIGNATURES = 64


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _SignatureFields(_Strict):
    keyid: str
    sig: str


class _EnvelopeFields(_Strict):
    payload: str
    payloadType: str  # noqa: N815  # DSSE's own name for it
    signatures: list[_SignatureFields]


@dataclass(frozen=True)
class Opened:
    """A payload under signatures that all hold, and who made them."""

    payload: bytes
    signers: frozenset[PublicKey]


class _KeySigner(Signer):
    """A `SigningKey` behind securesystemslib's signer interface, so that the private half never leaves it."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @property
    def public_key(self) -> Key:
        return _library_key(self._key.public)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> NoReturn:
        raise LocalMisuseError("a SigningKey is loaded with SigningKey.load, not from a URI")

    def sign(self, payload: bytes) -> Signature:
        return Signature(self._key.public.hex, self._key.sign(payload).hex())


def sign_envelope(payload_type: str, payload: bytes, *keys: SigningKey) -> bytes:
    """Sign ``payload`` under ``payload_type`` with every key; the envelope as canonical JSON.

    Raises:
        LocalMisuseError: no key, the same key twice, or an envelope that no one would accept for its size.
    """
    if not keys or len({k.public for k in keys}) != len(keys) or len(keys) > _MAX_SIGNATURES:
        raise LocalMisuseError(f"an envelope takes 1 to {_MAX_SIGNATURES} different keys; found {len(keys)} keys")
    envelope = Envelope(payload, payload_type, {})
    for key in keys:
        envelope.sign(_KeySigner(key))
    return _written(envelope)


def add_signature(data: bytes, key: SigningKey) -> bytes:
    """The envelope with one more signature over the same payload; open it first, for nothing in it is checked here.

    Raises:
        CodecError: the bytes are not the canonical form of an envelope.
        LocalMisuseError: the key has signed it before, or the envelope is full.
    """
    envelope = _parse(data)
    if key.public.hex in envelope.signatures or len(envelope.signatures) == _MAX_SIGNATURES:
        raise LocalMisuseError(f"an envelope takes 1 to {_MAX_SIGNATURES} signatures, one a key")
    envelope.sign(_KeySigner(key))
    return _written(envelope)


def _written(envelope: Envelope) -> bytes:
    envelope.signatures = dict(sorted(envelope.signatures.items()))
    data = rfc8785.dumps(envelope.to_dict())
    if len(data) > MAX_ENVELOPE_BYTES:
        raise LocalMisuseError(f"the envelope has {len(data)} bytes; at most {MAX_ENVELOPE_BYTES} are allowed")
    return data


def open_envelope(data: bytes, payload_type: str, trusted: Iterable[PublicKey], threshold: int = 1) -> bytes:
    """The payload's bytes, once everything that can be checked without parsing them holds.

    Checks, in order: 1 size and JSON form; 2 the type is the expected one (no document passes for another kind);
    3 every signature is by a trusted key (no stranger rides along); 4 enough of them; 5 every one of them holds.

    Args:
        data: the envelope.
        payload_type: the only type that is accepted.
        trusted: the keys that may sign.
        threshold: how many different trusted keys must have signed, at least 1.

    Raises:
        CodecError: the bytes are not the canonical form of an envelope.
        VerificationError: one of the checks 2 to 5 failed; the message has its number.
    """
    return open_signed(data, payload_type, trusted, threshold).payload


def open_signed(data: bytes, payload_type: str, trusted: Iterable[PublicKey], threshold: int = 1) -> Opened:
    """As `open_envelope`, with the keys that signed: at least ``threshold`` of the trusted ones, and no others."""
    keys = {k.hex: k for k in trusted}
    if not 1 <= threshold <= len(keys):
        raise LocalMisuseError(f"threshold {threshold} cannot be met by {len(keys)} trusted keys")
    envelope = _parse_as(data, payload_type)
    strangers = [keyid for keyid in envelope.signatures if keyid not in keys]
    if strangers:
        raise VerificationError(
            f"envelope check 3: signed by {len(strangers)} key(s) that are not trusted here; expected only pinned keys"
        )
    if len(envelope.signatures) < threshold:
        raise VerificationError(f"envelope check 4: expected {threshold} signatures, found {len(envelope.signatures)}")
    return _verified(envelope, keys)


def open_claimed(data: bytes, payload_type: str) -> Opened:
    """The payload, and keys that the envelope names itself, each of which did sign it. Whether those may is not known
    yet: the caller decides it from ``signers``, before anything that the payload says counts.

    For documents that bring their key along, such as a key's own revocation. Checks 1, 2 and 5 of `open_envelope`, and
    at least one signature; raises what that raises.
    """
    envelope = _parse_as(data, payload_type)
    if not envelope.signatures:
        raise VerificationError("envelope check 4: expected a signature, found 0")
    try:
        keys = {keyid: PublicKey.from_hex(keyid) for keyid in envelope.signatures}
    except ConfigError as e:
        raise VerificationError(f"envelope check 3: {e}") from e
    return _verified(envelope, keys)


def claimed_type(data: bytes) -> str:
    """The type that an envelope claims, before any signature is checked: for choosing a reader, never for deciding.

    CodecError where the bytes are not the canonical form of an envelope.
    """
    return str(_parse(data).payload_type)


def _verified(envelope: Envelope, keys: Mapping[str, PublicKey]) -> Opened:
    """Envelope check 5."""
    signers = [_library_key(keys[keyid]) for keyid in envelope.signatures]
    try:
        envelope.verify(signers, len(signers))
    except (SslibVerificationError, UnsupportedAlgorithm, ValueError) as e:
        raise VerificationError("envelope check 5: a signature does not hold over these bytes") from e
    return Opened(envelope.payload, frozenset(keys[keyid] for keyid in envelope.signatures))


def _parse_as(data: bytes, payload_type: str) -> Envelope:
    """Envelope checks 1 and 2."""
    envelope = _parse(data)
    if envelope.payload_type != payload_type:
        raise VerificationError(f"envelope check 2: expected type {payload_type}, found another one")
    return envelope


def _library_key(key: PublicKey) -> Key:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(key.raw), keyid=key.hex)


def _parse(data: bytes) -> Envelope:
    """Envelope check 1: bounded, and byte for byte the canonical form; CodecError otherwise."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise CodecError(f"envelope of {len(data)} bytes; at most {MAX_ENVELOPE_BYTES} are read")
    try:
        fields = _EnvelopeFields.model_validate(json.loads(data))
        payload = base64.b64decode(fields.payload, validate=True)
        signatures = {
            s.keyid: Signature(s.keyid, base64.b64decode(s.sig, validate=True).hex()) for s in fields.signatures
        }
        envelope = Envelope(payload, fields.payloadType, signatures)
        canonical = rfc8785.dumps(envelope.to_dict())
    except ValidationError as e:
        where = ".".join(str(part) for part in e.errors()[0]["loc"])
        raise CodecError(f"not an envelope: field {where or '(top)'}: {e.errors()[0]['type']}") from e
    except (ValueError, RecursionError, binascii.Error, rfc8785.CanonicalizationError) as e:
        raise CodecError(f"not an envelope: {type(e).__name__} in {len(data)} bytes of JSON") from e
    # Covers duplicate keys, spaces, escapes, loose base64 and repeated key ids at once.
    if canonical != data or list(signatures) != sorted(signatures):
        raise CodecError("not an envelope in canonical form (RFC 8785, signatures sorted by key id)")
    if len(signatures) > _MAX_SIGNATURES:
        raise CodecError(f"{len(signatures)} signatures; at most {_MAX_SIGNATURES} are read")
    for signature in signatures.values():
        if len(signature.signature) != 2 * SIGNATURE_BYTES:
            raise CodecError(f"a signature has {len(signature.signature) // 2} bytes; expected {SIGNATURE_BYTES}")
    return envelope
