"""The rows of `fedsec doctor` about a machine that serves for long: GPU, engine, space where a process writes."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from packaging.specifiers import SpecifierSet

from fedsec.cli.doctor_rows import Row, Status
from fedsec.engines.nvflare.fence import version as landlock_version
from fedsec.plan.sitefile import Site
from fedsec_secure.errors import ConfigError

_ENGINE = {"nvflare": SpecifierSet(">=2.9,<2.10"), "grpcio": SpecifierSet(">=1.60")}
_SMALL_DISK, _TIGHT_DISK = 1 << 30, 4 << 30


def engine_rows() -> list[Row]:
    """Whether the distributed engine is here, in the versions that it is tested with."""
    rows = []
    for name, wanted in _ENGINE.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows.append(Row(name, "fail", "not installed: requirements/nvflare.txt has it, docs/deploy.md says how"))
            continue
        good = found in wanted
        rows.append(Row(name, "ok" if good else "fail", found if good else f"expected {wanted}; found {found}"))
    return [*rows, _fence_row()]


def _fence_row() -> Row:
    try:
        version = landlock_version()
    except ConfigError as e:
        return Row("fence", "fail", str(e))
    if version:
        return Row("fence", "ok", f"Landlock, version {version}: the engine's processes see their own folder only")
    return Row("fence", "warn", "no Landlock (Linux 5.13): the engine's processes could read what this account can")


def site_disk_rows(site: Site) -> list[Row]:
    """Space for a site's record and uploads, and for its ledger."""
    return space_rows({"disk state": site.state_path, "disk ledger": site.ledger_path.parent})


def space_rows(folders: Mapping[str, Path]) -> list[Row]:
    """Free space by folder: an answer that cannot be written down is not sent."""
    rows = []
    for name, path in folders.items():
        existing = next(p for p in (path, *path.resolve().parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
            what = "is no folder" if not existing.is_dir() else "cannot be written to by this account"
            rows.append(Row(name, "fail", f"{existing} {what}"))
            continue
        free = shutil.disk_usage(existing).free
        status: Status = "fail" if free < _SMALL_DISK else "warn" if free < _TIGHT_DISK else "ok"
        rows.append(Row(name, status, f"{free / 1e9:.1f} GB free at {existing}"))
    return rows


def gpu_rows() -> list[Row]:
    """Name, memory, driver, and whether torch's build can use it."""
    import torch

    seen = _nvidia()
    build = f"torch {torch.__version__}, " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build")
    if torch.cuda.is_available():
        shown = seen or [_by_torch(i) for i in range(torch.cuda.device_count())]
        return [Row("GPU", "ok", f"{one}; {build}") for one in shown]
    if seen:
        wanted = "install torch's CUDA build" if torch.version.cuda is None else "the driver is too old for this build"
        return [Row("GPU", "warn", f"{seen[0]}, and torch does not use it ({build}): {wanted}")]
    return [Row("GPU", "ok", f"none; {build}")]


def _by_torch(index: int) -> str:
    import torch

    about = torch.cuda.get_device_properties(index)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


def _nvidia() -> list[str]:
    """Each GPU by the driver's own tool; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    fields = "--query-gpu=name,memory.total,driver_version"
    try:
        run = subprocess.run(  # noqa: S603 - found on the path, no argument from outside
            [program, fields, "--format=csv,noheader"], capture_output=True, text=True, timeout=15, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.split(", ") for line in run.stdout.splitlines()] if run.returncode == 0 else []
    return [f"{name}, {memory}, driver {driver}" for name, memory, driver in (x for x in lines if len(x) == 3)]
