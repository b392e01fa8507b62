"""``coordinator.toml``: where the coordinator keeps what its runs need. Paths are relative to the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedsec.plan.sitefile import RelativePath
from fedsec.plan.specs import Strict
from fedsec.plan.toml import read_toml

COORDINATOR_FILE: Final = "coordinator.toml"


class CoordinatorFile(Strict):
    """A whole ``coordinator.toml``; an empty one is complete."""

    key: RelativePath = "coordinator.key"
    """The coordinator's signing key (mode 0600, without a passphrase)."""
    engine: RelativePath = "engine"
    """Startup kit of the distributed engine: `fedsec coordinator provision` makes it."""
    approvals: RelativePath = "approvals"
    """Folder of the sites' approvals of the plan, NAME.json each."""
    public: RelativePath = "public"
    """Folder of the plan's public test sets and validation set, NAME.toml each."""


@dataclass(frozen=True)
class Coordinator:
    """A coordinator file with the folder that its paths are relative to."""

    file: CoordinatorFile
    folder: Path

    @property
    def key_path(self) -> Path:
        """The signing key."""
        return self._resolve(self.file.key)

    @property
    def engine_path(self) -> Path:
        """The engine's startup kit, a folder."""
        return self._resolve(self.file.engine)

    @property
    def approvals_path(self) -> Path:
        """The folder of approvals."""
        return self._resolve(self.file.approvals)

    @property
    def public_path(self) -> Path:
        """The folder of public test sets."""
        return self._resolve(self.file.public)

    def _resolve(self, path: str) -> Path:
        return self.folder / Path(path).expanduser()


def load_coordinator(path: Path) -> Coordinator:
    """Read a ``coordinator.toml``; ConfigError with file and field."""
    return Coordinator(read_toml(path, CoordinatorFile), path.resolve().parent)


def coordinator_of(working_set: Path) -> Coordinator:
    """The coordinator of a working set, whose test sets lie beside its sites; the file itself may be left out."""
    folder = working_set / "coordinator"
    if (folder / COORDINATOR_FILE).is_file():
        return load_coordinator(folder / COORDINATOR_FILE)
    return Coordinator(IN_WORKING_SET, folder)


IN_WORKING_SET: Final = CoordinatorFile(public="../public")
"""Where things stand in a folder that `fedsec run --init` makes."""
