"""`fedsec doctor`: is this machine ready? One row a check: ok, warn (works, but), fail (will not)."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedsec.cli.doctor_rows import Row, Status
from fedsec.cli.output import Json, out, print_json
from fedsec_secure.errors import ConfigError, FedsecError

if TYPE_CHECKING:
    from fedsec.plan.sitefile import Site

_PACKAGES = ("torch", "transformers", "peft", "cryptography", "pydantic", "numpy", "securesystemslib", "rfc8785")
_SMALL_DISK, _TIGHT_DISK = 1 << 30, 4 << 30
_EARLIEST = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    sites: Annotated[Path | None, typer.Option(help="A folder of sites: check their keys and approvals too.")] = None,
    site: Annotated[
        Path | None, typer.Option(help="A site.toml: check this site's key, papers, startup kit and way to the server.")
    ] = None,
    coordinator: Annotated[
        Path | None, typer.Option(help="A coordinator.toml: check its key, startup kit and server.")
    ] = None,
    json: Json = False,
) -> None:
    """Check versions, keys, clock, disk, network, threads, torch, bitsandbytes, encryption, model and corpora.

    With --site or --coordinator also what the distributed engine needs: DNS, proxy, TLS, certificates, GPU, versions.
    """
    checks: list[Callable[[], list[Row]]] = [
        _python, _packages, _torch, _bitsandbytes, _encryption, _model, _corpora, _threads, _clock, _disk, _network,
    ]  # fmt: skip
    if sites is not None:
        checks.append(partial(site_rows, sites))
    if site is not None:
        checks.append(partial(_serving_site, site))
    if coordinator is not None:
        checks.append(partial(_serving_coordinator, coordinator))
    rows = [row for check in checks for row in _of(check)]
    worst: Status = next((s for s in ("fail", "warn") if any(r.status == s for r in rows)), "ok")
    if json:
        print_json({"status": worst, "rows": [asdict(r) for r in rows]})
    else:
        table = Table(title="fedsec doctor", title_justify="left")
        for column in ("check", "status"):
            table.add_column(column)
        table.add_column("found", overflow="fold")
        for row in rows:
            table.add_row(row.check, Text(row.status, style=_STYLES[row.status]), Text(row.found))
        out.print(table)
    if worst == "fail":
        raise typer.Exit(1)


def _of(check: Callable[[], list[Row]]) -> list[Row]:
    """What cannot even be looked at fails, and the other checks are shown."""
    try:
        return check()
    except OSError as e:
        if e.filename is None:
            raise
        return [Row("files", "fail", f"{e.filename}: {e.strerror}; this account cannot use it so")]


def _python() -> list[Row]:
    good = sys.version_info >= (3, 11)
    return [Row("python", "ok" if good else "fail", f"{platform.python_version()} on {platform.platform(terse=True)}")]


def _packages() -> list[Row]:
    rows = []
    for name in ("fedsec", *_PACKAGES):
        try:
            rows.append(Row(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(Row(name, "fail", "not installed; run: make install"))
    return rows


def _torch() -> list[Row]:
    try:
        import torch
    except ImportError as e:
        return [Row("torch device", "fail", f"torch does not import: {e}")]
    if torch.cuda.is_available():
        return [Row("torch device", "ok", f"CUDA: {torch.cuda.get_device_name(0)}")]
    return [
        Row("torch device", "ok", f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    ]


def _bitsandbytes() -> list[Row]:
    from fedsec.plan.specs import ModelSpec
    from fedsec.training.quantise import require_quantisation

    try:
        require_quantisation(ModelSpec(base="a-model", quantisation="nf4"))
    except ConfigError as e:
        return [Row("bitsandbytes", "warn", str(e))]
    return [
        Row("bitsandbytes", "ok", f"{importlib.metadata.version('bitsandbytes')}: nf4 and int8 bases can be loaded")
    ]


def _encryption() -> list[Row]:
    """What each worker does before it takes a key: sums with weights at the bound come out as they should."""
    from fedsec.encryption.workers import EncryptionWorkers
    from fedsec_secure.he.parameters import STANDARD
    from fedsec_secure.secrets import SecretBytes

    try:
        EncryptionWorkers(SecretBytes.random(), 1).close()
    except FedsecError as e:
        return [Row("encryption", "warn", f"modes he-mask and he do not run here: {e}")]
    bound = f"sums of weights up to {STANDARD.capacity} decrypt as they should"
    return [Row("encryption", "ok", f"TenSEAL {importlib.metadata.version('tenseal')}: {bound}")]


def _model() -> list[Row]:
    from fedsec.training.gguf_cache import cache_root, smollm2_file

    try:
        file = smollm2_file()
    except ConfigError as e:
        return [Row("smollm2-135m", "warn", str(e))]
    return [
        Row("smollm2-135m", "ok", f"{file.name}, {file.stat().st_size / 1e6:.0f} MB; converted into {cache_root()}")
    ]


def _corpora() -> list[Row]:
    root = os.environ.get("FEDSEC_DATA")
    if root is None:
        return [Row("FEDSEC_DATA", "warn", "not set; only the examples on real corpora need it")]
    folder = Path(root)
    if not folder.is_dir():
        return [Row("FEDSEC_DATA", "fail", f"{root} is no folder")]
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    return [Row("FEDSEC_DATA", "ok" if names else "warn", f"{root}: {', '.join(names) or 'empty'}")]


def _threads() -> list[Row]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is not None and asked.isdigit() and int(asked) > cores:
        return [Row("threads", "warn", f"OMP_NUM_THREADS={asked} on {cores} cores: slower than {cores}")]
    return [Row("threads", "ok", f"{cores} cores, OMP_NUM_THREADS={asked or 'not set'}")]


def _clock() -> list[Row]:
    now = datetime.datetime.now(datetime.UTC)
    if not _EARLIEST <= now < _LATEST:
        return [
            Row("clock", "fail", f"{now:%Y-%m-%d %H:%M} UTC cannot be right; approvals would not be judged rightly")
        ]
    return [Row("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC; compare it: approvals expire by this clock")]


def _disk() -> list[Row]:
    from fedsec.training.gguf_cache import cache_root

    rows = []
    for name, path in (("disk here", Path.cwd()), ("disk cache", cache_root())):
        existing = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        status: Status = "fail" if free < _SMALL_DISK else "warn" if free < _TIGHT_DISK else "ok"
        rows.append(Row(name, status, f"{free / 1e9:.1f} GB free at {existing}"))
    return rows


def _network() -> list[Row]:
    found = [n for n in ("HTTPS_PROXY", "https_proxy") if n in os.environ]
    proxy = f"; a proxy is set ({', '.join(found)})" if found else ""
    return [Row("network", "ok", f"`fedsec run` needs none: one process, and models are local{proxy}")]


def _serving_site(path: Path) -> list[Row]:
    """What `fedsec site join` needs on this machine."""
    from fedsec.cli.doctor_machine import engine_rows, gpu_rows, site_disk_rows
    from fedsec.cli.doctor_network import network_rows
    from fedsec.plan.sitefile import load_site

    try:
        site = load_site(path)
    except FedsecError as e:
        return [Row("site", "fail", str(e))]
    own, disk = partial(_site_rows, site.name, site), partial(site_disk_rows, site)
    network = partial(network_rows, site.engine_path, "site", site.name)
    return [row for check in (own, engine_rows, gpu_rows, disk, network) for row in _of(check)]


def _serving_coordinator(path: Path) -> list[Row]:
    """What `fedsec coordinator serve` needs on this machine."""
    from fedsec.cli.doctor_machine import engine_rows
    from fedsec.cli.doctor_network import network_rows
    from fedsec.plan.coordinatorfile import load_coordinator

    try:
        coordinator = load_coordinator(path)
    except FedsecError as e:
        return [Row("coordinator", "fail", str(e))]
    network = partial(network_rows, coordinator.engine_path, "coordinator")
    own = _key_row("coordinator key", coordinator.key_path)
    return [own, *(row for check in (engine_rows, network) for row in _of(check))]


def site_rows(folder: Path) -> list[Row]:
    """Key and approval of every site of a folder."""
    from fedsec.plan.sitefile import load_sites

    try:
        sites = load_sites(folder)
    except FedsecError as e:
        return [Row("sites", "fail", str(e))]
    return [row for name, site in sites.items() for row in _site_rows(name, site)]


def _site_rows(name: str, site: Site) -> list[Row]:
    missing = [p.name for p in (site.policy_path, site.approval_path) if not p.is_file()]
    papers = (
        Row(f"{name} papers", "fail", f"missing: {', '.join(missing)}; nothing runs at this site")
        if missing
        else Row(f"{name} papers", "ok", "policy and approval are there (verified when a run starts)")
    )
    return [_key_row(f"{name} key", site.key_path), papers]


def _key_row(check: str, path: Path) -> Row:
    """Permissions only where a passphrase keeps us out; otherwise the key itself."""
    from fedsec_secure.identity.keys import SigningKey

    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if b"ENCRYPTED" in path.read_bytes()[:64]:
            private = mode & 0o077 == 0
            return Row(check, "ok" if private else "fail", f"encrypted, mode {mode:04o}")
        return Row(check, "ok", SigningKey.load(path).public.fingerprint())
    except OSError as e:
        return Row(check, "fail", f"{path}: {e.strerror}")
    except FedsecError as e:
        return Row(check, "fail", str(e))
