"""Startup kits for the coordinator and every site of a plan, by NVFlare's own provisioner."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from fedsec.engines.nvflare.workspace import USER
from fedsec.spool import private_folder
from fedsec_secure.errors import ConfigError, TransportError
from fedsec_secure.identity.roster import COORDINATOR

PROJECT = "fedsec"
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
ADMIN = "admin"
"""Folder of the console's kit, inside the coordinator's."""


class _Quiet:
    """NVFlare tells of each file that it makes; only what goes wrong is of interest."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def info(self, text: str) -> None:
        """Nothing."""

    debug = warning = info

    def error(self, text: str) -> None:
        """Kept."""
        self.errors.append(text)


def provision(sites: Sequence[str], host: str, port: int, out: Path, valid_days: int = 360) -> None:
    """A root, and kits with keys and certificates of it: ``OUT/coordinator`` and ``OUT/SITE``, mode 0700.

    The root's private key is not kept: for other sites, or other dates, make new kits for all.

    Args:
        sites: as the plan names them.
        host: what sites call the server: a name or an IPv4 address. port: the one port that it listens on.
        out: a folder that is not there yet, or empty. valid_days: of all certificates.

    Raises ConfigError where `fedsec[nvflare]` is not installed, ``host`` is no name or ``out`` is not empty.
    """
    _require_host(host, sites)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; kits are made into a new folder")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} is not empty; kits are made into a new folder. Where an earlier try was stopped half-way, remove "
            "it: keys that nobody should use lie in it"
        )
    try:
        from nvflare.lighter.spec import Project
    except ImportError:
        raise ConfigError("the distributed engine is not installed: docs/deploy.md says how") from None
    project = Project(PROJECT, "kits of fedsec", props={"api_version": 3})
    project.set_server(host, PROJECT, {"fed_learn_port": port, "admin_port": port, "default_host": host})
    for site in sites:
        project.add_client(site, PROJECT, {})
    project.add_admin(USER, PROJECT, {"role": "project_admin"})
    mask = os.umask(0o077)
    try:
        # In the new folder: where this is killed, no key lies anywhere else.
        with TemporaryDirectory(prefix=".made-", dir=private_folder(out)) as work:
            made = _made(project, work, valid_days)
            _take(made / host, out / COORDINATOR)
            _take(made / USER, out / COORDINATOR / ADMIN)
            for site in sites:
                _take(made / site, out / site)
    finally:
        os.umask(mask)


def _require_host(host: str, sites: Sequence[str]) -> None:
    """It is the name in the server's certificate, where a common name has at most 64 characters (RFC 5280)."""
    labels = host.split(".")
    if len(host) > 64 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ConfigError(
            f"expected the server's name or IPv4 address, such as hub.example.org, in at most 64 characters, without "
            f"https:// and without a port; found {host!r}"
        )
    if host in sites:
        raise ConfigError(f"{host} is the name of a site in the plan; expected the server's name or address")


def _made(project: object, work: str, valid_days: int) -> Path:
    import nvflare.lighter
    from nvflare.lighter.constants import CtxKey
    from nvflare.lighter.impl.cert import CertBuilder
    from nvflare.lighter.impl.static_file import StaticFileBuilder
    from nvflare.lighter.impl.workspace import WorkspaceBuilder
    from nvflare.lighter.provisioner import Provisioner

    template = Path(nvflare.lighter.__file__).parent / "templates" / "master_template.yml"
    builders = [
        WorkspaceBuilder([str(template)]),
        StaticFileBuilder(config_folder="config", scheme="grpc"),
        CertBuilder(valid_days),
    ]
    quiet = _Quiet()
    context = Provisioner(work, builders).provision(project, logger=quiet)
    if quiet.errors or context.get(CtxKey.BUILD_ERROR):
        raise TransportError(f"NVFlare's provisioner failed: {'; '.join(quiet.errors)}")
    return Path(context.get(CtxKey.CURRENT_PROD_DIR))


def _take(made: Path, target: Path) -> None:
    """Only what is used of a kit: certificates, key, address. No scripts."""
    startup = private_folder(private_folder(target) / "startup")
    for path in sorted((made / "startup").iterdir()):
        if path.suffix in (".crt", ".key", ".pem", ".json"):
            shutil.copyfile(path, startup / path.name)
    if (made / "local" / "resources.json.default").is_file() and (made / "startup" / "fed_admin.json").is_file():
        shutil.copyfile(made / "local" / "resources.json.default", private_folder(target / "local") / "resources.json")
