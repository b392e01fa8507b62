"""Which software ran, for attestations and certificates."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

_PACKAGES: Final = ("fedsec", "torch", "transformers", "peft", "numpy", "cryptography")


def software_versions() -> dict[str, str]:
    """Package -> version of what decides results and protection, Python itself included."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}
