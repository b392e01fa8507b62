"""Model libraries ask no hub and take no code from one, whatever is installed beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_LOADED = """
import importlib.util, json, os, sys
import fedsec.training.lora
import bitsandbytes, huggingface_hub.constants, peft, transformers
print(json.dumps({
    "offline": huggingface_hub.constants.HF_HUB_OFFLINE,
    "found": importlib.util.find_spec("kernels") is not None,
    "ran": "FEDSEC_TEST_KERNELS" in os.environ,
}))
"""
_KERNELS = 'import os\nos.environ["FEDSEC_TEST_KERNELS"] = "1"\ndef get_kernel(*a, **k): raise SystemExit("asked")\n'


def loaded(tmp_path: Path, **environment: str) -> dict[str, bool]:
    """In a process where a package `kernels` could be imported."""
    (tmp_path / "kernels.py").write_text(_KERNELS)
    inherited = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env=inherited | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_hub_is_asked_and_no_kernels_are_taken_from_one(tmp_path):
    assert loaded(tmp_path) == {"offline": True, "found": False, "ran": False}


def test_a_hub_can_be_allowed_for_models_and_never_for_code(tmp_path):
    assert loaded(tmp_path, HF_HUB_OFFLINE="0") == {"offline": False, "found": False, "ran": False}


def test_without_this_the_package_would_be_found(tmp_path):
    """So that the tests above can fail."""
    (tmp_path / "kernels.py").write_text(_KERNELS)
    code = "import importlib.util; print(importlib.util.find_spec('kernels') is not None)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
