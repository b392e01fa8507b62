"""Startup kits and TLS servers on loopback, with a real certificate authority."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def name_of(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass
class Authority:
    """A root that issues what it is told to."""

    name: str = "root"
    days: tuple[float, float] = (-1, 400)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.certificate = self._sign(name_of(self.name), self.key, self.days, (), ca=True)

    def issue(
        self, folder: Path, stem: str, common: str, hosts: tuple[str, ...] = (), days: tuple[float, float] = (-1, 360)
    ) -> None:
        """Write STEM.crt, STEM.key and rootCA.pem."""
        key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(parents=True, exist_ok=True)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{stem}.key").write_bytes(private)
        (folder / f"{stem}.key").chmod(0o600)
        pem = serialization.Encoding.PEM
        signed = self._sign(name_of(common), key, days, hosts, ca=False)
        (folder / f"{stem}.crt").write_bytes(signed.public_bytes(pem))
        (folder / "rootCA.pem").write_bytes(self.certificate.public_bytes(pem))

    def _sign(self, subject, key, days, hosts, ca):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name_of(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([alternative(h) for h in hosts]), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())


def alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def site_kit(
    folder: Path, authority: Authority, target: str, common: str = "site-a", scheme: str = "grpc", **options
) -> Path:
    authority.issue(folder / "startup", "client", common, **options)
    settings = {"servers": [{"service": {"target": target, "scheme": scheme}}]}
    (folder / "startup" / "fed_client.json").write_text(json.dumps(settings))
    return folder


def provisioned(folder: Path, host: str, port: int, sites: tuple[str, ...] = ("site-a",)) -> dict[str, Path]:
    """Kits by NVFlare's own provisioner: the server under its host's name, and each site."""
    from nvflare.lighter.prov_utils import prepare_builders
    from nvflare.lighter.provision import prepare_project
    from nvflare.lighter.provisioner import Provisioner

    implementation = "nvflare.lighter.impl"
    server = {"name": host, "type": "server", "org": "o", "fed_learn_port": port, "default_host": host}
    project = {
        "api_version": 3,
        "name": "fedsec",
        "participants": [server, *({"name": s, "type": "client", "org": "o"} for s in sites)],
        "builders": [
            {"path": f"{implementation}.workspace.WorkspaceBuilder", "args": {}},
            {"path": f"{implementation}.static_file.StaticFileBuilder", "args": {"scheme": "grpc"}},
            {"path": f"{implementation}.cert.CertBuilder"},
        ],
    }
    Provisioner(str(folder), prepare_builders(project)).provision(prepare_project(project))
    made = folder / "fedsec" / "prod_00"
    return {name: made / name for name in (host, *sites)}


@contextmanager
def tls_server(folder: Path, roots: Path, greeting: bytes = b"x", mutual: bool = True) -> Iterator[int]:
    """A TLS server on 127.0.0.1 with server.crt of ``folder``; its port. It greets whoever it accepts."""
    import socket

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(roots)
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            try:
                accepted.settimeout(5)
                with context.wrap_socket(accepted, server_side=True) as tls:
                    if greeting:
                        tls.sendall(greeting)
                        tls.recv(1)
            except OSError:
                accepted.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


@dataclass
class RunningProxy:
    port: int
    process: subprocess.Popen[str]

    def seen(self) -> list[str]:
        """Ends it; the requests that it got."""
        self.process.terminate()
        return self.process.communicate()[0].splitlines()


@contextmanager
def connect_proxy(*options: str) -> Iterator[RunningProxy]:
    """examples/three_hospitals/connect_proxy.py as a process."""
    program = Path(__file__).resolve().parents[1] / "examples" / "three_hospitals" / "connect_proxy.py"
    process = subprocess.Popen([sys.executable, str(program), *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield RunningProxy(int(process.stdout.readline()), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
