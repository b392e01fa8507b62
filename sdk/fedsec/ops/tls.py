"""A TLS handshake as the engine makes it, with the kit's own certificate and root, and a name for each way it fails."""

from __future__ import annotations

import datetime
import socket
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fedsec.ops.kit import Kit, read_certificate
from fedsec_secure.errors import ConfigError, VerificationError

# OpenSSL's X509_V_ERR_*: what the server showed is refused here.
_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64
_WRONG_ROOT = frozenset({2, 7, 18, 19, 20, 21})
# What the server says in its alerts about what it was shown.
_ALERTS = {
    "CERTIFICATE_EXPIRED": "the server refuses the kit's certificate as expired: ask the coordinator for a new kit",
    "UNKNOWN_CA": "the server refuses the kit's certificate: it is signed by another root than the server's",
    "DECRYPT_ERROR": "the server refuses the kit's certificate: it is signed by another root of the same name",
    "BAD_CERTIFICATE": "the server refuses the kit's certificate",
    "CERTIFICATE_REQUIRED": "the server wants a certificate and was shown none",
    "CERTIFICATE_UNKNOWN": "the server refuses the kit's certificate",
}
_QUIET_SECONDS = 2.0


def handshake(kit: Kit, opened: socket.socket) -> x509.Certificate:
    """The server's certificate, once both sides accept each other. VerificationError names what is wrong.

    With TLS 1.3 a server judges the client's certificate after the handshake: its first bytes, or its silence, show it.
    """
    context = _context(kit)
    try:
        with context.wrap_socket(opened, server_hostname=kit.host) as tls:
            shown = tls.getpeercert(binary_form=True)
            assert shown is not None  # verify_mode asks for one
            tls.settimeout(_QUIET_SECONDS)
            try:
                closed = not tls.recv(1)
            except TimeoutError:
                closed = False
            if closed:
                raise VerificationError("the server closed the connection after the handshake: is this its engine?")
            return x509.load_der_x509_certificate(shown)
    except ssl.SSLCertVerificationError as e:
        raise VerificationError(_judged_here(e, kit)) from None
    except ssl.SSLError as e:
        raise VerificationError(_judged_there(e)) from None


def _context(kit: Kit) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(kit.root)
        context.load_cert_chain(kit.certificate, kit.key)
    except (ssl.SSLError, OSError) as e:
        mixed = isinstance(e, ssl.SSLError) and e.reason == "KEY_VALUES_MISMATCH"
        what = "are not a pair" if mixed else "or the root cannot be read"
        raise ConfigError(
            f"{kit.certificate.name} and {kit.key.name} of {kit.folder} {what}: take the kit anew"
        ) from None
    return context


def _judged_here(error: ssl.SSLCertVerificationError, kit: Kit) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "expired: the server's certificate, or its root's, is over (or this clock is ahead)"
    if code == _NOT_YET:
        return "not valid yet: the server's certificate begins later than this clock says"
    if code in (_NAME, _ADDRESS):
        return f"wrong name: the server's certificate is not for {kit.host}, which the kit dials"
    if code in _WRONG_ROOT:
        return (
            "wrong root: the server's certificate is not signed by the kit's rootCA.pem: an inspecting proxy between, "
            "or a kit of another federation"
        )
    return f"the server's certificate is refused: {error.verify_message}"


def _judged_there(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    for alert, said in _ALERTS.items():
        if reason.endswith(alert):
            return said
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "what answers there speaks no TLS"
    return f"no TLS connection: {reason.lower().replace('_', ' ') or 'closed without a reason'}"


def days_left(certificate: x509.Certificate, now: datetime.datetime) -> float:
    """Days until the end of validity, negative after it. VerificationError before its beginning."""
    if now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise VerificationError(f"not valid before {begins}, and it is {now:%Y-%m-%d %H:%M} by this clock")
    return (certificate.not_valid_after_utc - now) / datetime.timedelta(days=1)


def require_issued(kit: Kit) -> None:
    """VerificationError where the kit's certificate is not signed by the kit's own root."""
    try:
        read_certificate(kit.certificate).verify_directly_issued_by(read_certificate(kit.root))
    except (InvalidSignature, ValueError, TypeError):
        said = f"wrong root: {kit.certificate.name} is not signed by the rootCA.pem beside it; take the kit anew"
        raise VerificationError(said) from None


def require_name(kit: Kit, site: str | None) -> None:
    """VerificationError where the kit's certificate is for another participant than ``site`` (None: not asked)."""
    names = read_certificate(kit.certificate).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    found = str(names[0].value) if names else "nobody"
    if site is not None and found != site:
        raise VerificationError(f"wrong kit: expected one for {site}; found {found[:63]!r}: take this site's own")
