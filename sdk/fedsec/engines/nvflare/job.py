"""What a job is: two class names, and the sites. No code goes with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CONTROLLER: Final = "fedsec.engines.nvflare.relay_coordinator.RelayController"
EXECUTOR: Final = "fedsec.engines.nvflare.relay_site.RelayExecutor"
POLL_SECONDS: Final = 0.2
"""How often a site's engine asks for its task. NVFlare's default of 2 s would be the length of every start."""


def write_job(folder: Path, sites: Sequence[str], controller: str = CONTROLLER, executor: str = EXECUTOR) -> None:
    """Into an empty folder, as NVFlare takes it."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    _write(
        config / "config_fed_server.json",
        {
            "format_version": 2,
            "server": {"heart_beat_timeout": 600, "task_request_interval": POLL_SECONDS},
            "task_data_filters": [],
            "task_result_filters": [],
            "components": [],
            "workflows": [{"id": "relay", "path": controller, "args": {}}],
        },
    )
    _write(
        config / "config_fed_client.json",
        {
            "format_version": 2,
            "executors": [{"tasks": ["relay"], "executor": {"path": executor, "args": {}}}],
            "task_data_filters": [],
            "task_result_filters": [],
            "components": [],
        },
    )
    meta = {"name": "fedsec", "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["server", *sites]}}
    _write(folder / "meta.json", meta)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
