"""A small smoke run, made once for all tests that look at one."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

SMOKE = Path(__file__).parents[3] / "examples" / "smoke"
SMALL = ("rounds=2", "training.examples_per_round=2", "evaluation.public_tests=[]")
RUN_ID = "one"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fedsec-smoke-")


@functools.cache
def finished_run() -> Path:
    """The run folder; the working set is beside it, in ``run-sites``. To be copied, not changed."""
    out = Path(_folder().name) / "run"
    options = ["--sites", SMOKE / "sites", "--out", out, "--init", "--quiet", "--run-id", RUN_ID]
    options += [part for setting in SMALL for part in ("--set", setting)]
    command = [sys.executable, "-c", "from fedsec.cli import main; main()", "run", SMOKE / "plan.toml", *options]
    subprocess.run(list(map(str, command)), check=True)
    return out
