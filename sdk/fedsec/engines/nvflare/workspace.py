"""The folder that an NVFlare process starts from, written by whoever starts it, every time anew.

What a job may bring is decided here, and by nobody else: one class, no code, no commands, no logs that leave the site.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from fedsec.engines.nvflare.job import CONTROLLER, EXECUTOR
from fedsec.ops.kit import Kit
from fedsec.spool import private_folder, write_durably
from fedsec_secure.errors import ConfigError

USER: Final = "coordinator@fedsec.example"
"""Who submits jobs: the coordinator's console."""
BEAT_SECONDS: Final = 5.0
"""How often a site's engine tells the server that it is there."""
_CLIENT_PARTS: Final = {
    "resource_manager": ("nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager", {
        "num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300,
    }),
    "resource_consumer": ("nvflare.app_common.resource_consumers.gpu_resource_consumer.GPUResourceConsumer", {}),
    "process_launcher": ("nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher", {}),
}  # fmt: skip
_RIGHTS: Final = {
    "submit_job": "any", "manage_job": "any", "view": "any", "clone_job": "none", "download_job": "none",
    "operate": "none", "shell_commands": "none", "byoc": "none", "server-predeployed-flwr": "none",
}  # fmt: skip
"""Of the one user: no code of its own in a job (byoc), no commands on a site's machine."""


def client_workspace(kit: Kit, site: str, folder: Path) -> list[str]:
    """Write a site's workspace; the arguments that its engine is started with."""
    startup = _fresh(folder, kit)
    _write(startup / "fed_client.json", {
        "format_version": 2,
        "servers": [{
            "name": kit.project,
            "service": {"target": f"{kit.host}:{kit.port}", "scheme": "grpc"},
            "identity": kit.identity,
        }],
        "client": {
            "ssl_private_key": "client.key", "ssl_cert": "client.crt", "ssl_root_cert": "rootCA.pem",
            "fqsn": site, "is_leaf": True, "connection_security": "mtls",
        },
    })  # fmt: skip
    _write(folder / "local" / "resources.json", {
        **_allowed([EXECUTOR, *(path for path, _ in _CLIENT_PARTS.values())]),
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "compression": "Gzip"},
        "components": _parts(_CLIENT_PARTS),
    })  # fmt: skip
    return _arguments("client", folder, f"uid={site}", f"heart_beat_interval={BEAT_SECONDS}")


def server_workspace(kit: Kit, folder: Path, bind: str | None) -> list[str]:
    """Write the server's workspace; the arguments that it is started with. ``bind``: an address, or None for all."""
    startup = _fresh(folder, kit)
    target = f"{bind}:{kit.port}" if bind else f"{kit.host}:{kit.port}"
    _write(startup / "fed_server.json", {
        "format_version": 2,
        "servers": [{
            "name": kit.project,
            "service": {"target": target, "scheme": "grpc"},
            "admin_server": kit.identity, "admin_port": kit.port,
            "ssl_private_key": "server.key", "ssl_cert": "server.crt", "ssl_root_cert": "rootCA.pem",
            "connection_security": "mtls",
        }],
    })  # fmt: skip
    storage = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "job_scheduler": ("nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler", {"max_jobs": 16}),
        "job_manager": ("nvflare.apis.impl.job_def_manager.SimpleJobDefManager", {
            "uri_root": str(folder / "jobs"), "job_store_id": "job_store",
        }),
        "job_store": (storage, {}),
        "process_launcher": ("nvflare.app_common.job_launcher.server_process_launcher.ServerProcessJobLauncher", {}),
    }  # fmt: skip
    kept = {"path": storage, "args": {"root_dir": str(folder / "snapshots"), "uri_root": "/"}}
    persistor = "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor"
    _write(folder / "local" / "resources.json", {
        **_allowed([CONTROLLER, persistor, *(path for path, _ in parts.values())]),
        "servers": [{
            "admin_storage": "transfer", "max_num_clients": 1000, "heart_beat_timeout": 600, "admin_timeout": 10.0,
            "download_job_url": "http://localhost/",
        }],
        "snapshot_persistor": {"path": persistor, "args": {"uri_root": "/", "storage": kept}},
        "components": _parts(parts),
    })  # fmt: skip
    return _arguments("server", folder)


def console_workspace(admin: Path, folder: Path) -> Path:
    """A copy of the console's kit, which NVFlare writes into; the copy's folder.

    ConfigError where there is none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if not (admin / "startup" / "fed_admin.json").is_file():
        raise ConfigError(
            f"{admin} is no kit of the console; `fedsec coordinator provision` makes it with the server's"
        )
    for part in ("startup", "local"):
        for path in sorted((admin / part).iterdir()):
            write_durably(private_folder(folder / part) / path.name, [path.read_bytes()])
    for part in ("tmp", "home"):
        private_folder(folder / part)
    return folder


def _fresh(folder: Path, kit: Kit) -> Path:
    """An empty workspace with the kit's certificates. Jobs of earlier processes are forgotten: the journal has more."""
    if kit.scheme != "grpc":
        raise ConfigError(
            f"{kit.folder}: expected a kit of scheme grpc, the one that goes through proxies; found {kit.scheme}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    startup = private_folder(private_folder(folder) / "startup")
    for name in ("local", "tmp", "home"):
        private_folder(folder / name)
    for path in kit.files():
        write_durably(startup / path.name, [path.read_bytes()])
    _write(folder / "local" / "authorization.json", {
        "format_version": "1.0", "permissions": {"project_admin": _RIGHTS},
    })  # fmt: skip
    _write(folder / "local" / "log_config.json", {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {
            "()": "nvflare.fuel.utils.log_utils.BaseFormatter",
            "fmt": "%(asctime)s - %(name)s - %(levelname)s - %(fl_ctx)s - %(message)s",
        }},
        "handlers": {"file": {
            "class": "logging.handlers.RotatingFileHandler", "formatter": "line", "filename": "log.txt",
            "mode": "a", "maxBytes": 1 << 22, "backupCount": 2,
        }},
        "loggers": {"root": {"level": "INFO", "handlers": ["file"]}},
    })  # fmt: skip
    # Job processes connect to their parent on this machine only; no process listens for others.
    _write(folder / "local" / "comm_config.json", {
        "allow_adhoc_conns": False,
        "internal": {"scheme": "tcp", "resources": {"host": "127.0.0.1", "connection_security": "clear"}},
    })  # fmt: skip
    return startup


def _allowed(classes: list[str]) -> dict[str, object]:
    return {"format_version": 2, "class_list_enforcement_mode": "enforce", "class_allow_list": classes}


def _parts(parts: dict[str, tuple[str, dict[str, Any]]]) -> list[dict[str, object]]:
    return [{"id": name, "path": path, "args": args} for name, (path, args) in parts.items()]


def _arguments(role: str, folder: Path, *more: str) -> list[str]:
    module = f"nvflare.private.fed.app.{role}.{role}_train"
    said = ["secure_train=true", *more, "org=fedsec", "config_folder=config"]
    return [module, "-m", str(folder), "-s", f"fed_{role}.json", "--set", *said]


def _write(path: Path, value: object) -> None:
    write_durably(path, [json.dumps(value, indent=1).encode()])
