"""The startup kit of one participant as NVFlare's provisioner lays it out: KIT/startup with settings and mTLS files."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from pydantic import BaseModel, Field, ValidationError

from fedsec.plan.document import MAX_DOCUMENT_BYTES, read_bounded
from fedsec_secure.errors import ConfigError

Role = Literal["site", "coordinator"]
_FILES: dict[Role, tuple[str, str, str]] = {
    "site": ("fed_client.json", "client.crt", "client.key"),
    "coordinator": ("fed_server.json", "server.crt", "server.key"),
}


class _Service(BaseModel):
    target: str
    scheme: str


class _Server(BaseModel):
    name: str = Field("fedsec", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    service: _Service
    identity: str = Field("", pattern=r"^[A-Za-z0-9.-]{0,253}$")


class _Settings(BaseModel):
    servers: list[_Server] = Field(min_length=1)


@dataclass(frozen=True)
class Kit:
    """Where a participant's engine connects to or listens, and what it shows for itself.

    Attributes:
        host, port: the server's name and port as the sites dial them.
        scheme: NVFlare's driver; only `grpc` goes through an HTTPS proxy.
        project: what NVFlare calls the federation.
        identity: the server's name in its certificate.
        certificate, key, root: the PEM files of mTLS.
    """

    role: Role
    folder: Path
    host: str
    port: int
    scheme: str
    project: str
    identity: str

    def files(self) -> tuple[Path, Path, Path]:
        """Certificate, key and root."""
        return self.certificate, self.key, self.root

    @property
    def certificate(self) -> Path:
        """This participant's certificate, PEM."""
        return self.folder / "startup" / _FILES[self.role][1]

    @property
    def key(self) -> Path:
        """Its private key, PEM."""
        return self.folder / "startup" / _FILES[self.role][2]

    @property
    def root(self) -> Path:
        """The root that every participant's certificate is signed by, PEM."""
        return self.folder / "startup" / "rootCA.pem"


def load_kit(folder: Path, role: Role) -> Kit:
    """The kit of a site or the coordinator; ConfigError where a file is missing or says something else."""
    path = folder / "startup" / _FILES[role][0]
    missing = [name for name in (*_FILES[role], "rootCA.pem") if not (folder / "startup" / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} is no startup kit of a {role}: expected startup/{', startup/'.join(missing)}; "
            "the coordinator makes kits with `fedsec coordinator provision`"
        )
    try:
        server = _Settings.model_validate(json.loads(read_bounded(path, MAX_DOCUMENT_BYTES))).servers[0]
        service = server.service
        host, _, port = service.target.rpartition(":")
        host = host.strip("[]")
        kit = Kit(role, folder, host, int(port), service.scheme, server.name, server.identity or host)
    except (ValueError, ValidationError):
        raise ConfigError(f"{path}: expected servers[0].service with a target HOST:PORT and a scheme") from None
    if not kit.host or not 0 < kit.port < 65536:
        raise ConfigError(f"{path}: expected a target HOST:PORT; found {service.target[:100]!r}")
    return kit


def read_certificate(path: Path) -> x509.Certificate:
    """ConfigError where the file holds none, or may not be read."""
    try:
        return x509.load_pem_x509_certificate(read_bounded(path, MAX_DOCUMENT_BYTES))
    except ValueError:
        raise ConfigError(f"{path}: expected a certificate in PEM") from None
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}; expected a file that this account can read") from None


def require_valid(kit: Kit) -> None:
    """ConfigError where the kit's files cannot be read, or its certificate or root does not hold today."""
    for path in kit.files():
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{path}: expected a file that this account can read; its owner is to change that")
    now = datetime.datetime.now(datetime.UTC)
    for path in (kit.certificate, kit.root):
        found = read_certificate(path)
        if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
            raise ConfigError(
                f"{path}: holds from {found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}, "
                f"and this clock says {now:%Y-%m-%d}: ask the coordinator for a new kit, or set the clock"
            )
