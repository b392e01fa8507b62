"""A startup kit as NVFlare's provisioner lays it out, of which only certificates, key, name and address are used.

Whoever made the kit decides nothing else: what a site's engine may do is written by the site itself (`workspace.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsec.plan.document import MAX_DOCUMENT_BYTES, read_bounded
from fedsec_secure.errors import ConfigError

PROJECT: Final = "fedsec"
STARTUP: Final = "startup"
_TARGET: Final = re.compile(r"^(?P<host>[A-Za-z0-9.-]{1,253}):(?P<port>[0-9]{1,5})$")


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore")  # NVFlare's own fields


class _Service(_Read):
    target: str = Field(pattern=_TARGET.pattern)
    scheme: Literal["grpc"]


class _Server(_Read):
    name: str = Field(max_length=64)
    service: _Service
    identity: str = Field("", max_length=253)


class _Servers(_Read):
    servers: tuple[_Server, ...] = Field(min_length=1, max_length=1)


@dataclass(frozen=True)
class Kit:
    """One participant's part: files in ``folder/startup``."""

    folder: Path
    role: Literal["client", "server"]
    project: str
    host: str
    port: int
    identity: str
    """The server's name in its certificate."""

    @classmethod
    def read(cls, folder: Path, role: Literal["client", "server"]) -> Kit:
        """ConfigError for a folder that is no kit of that role."""
        path = folder / STARTUP / f"fed_{role}.json"
        try:
            said = _Servers.model_validate_json(read_bounded(path, MAX_DOCUMENT_BYTES)).servers[0]
        except OSError:
            raise ConfigError(
                f"{folder} is no startup kit of a {role}: there is no {path.relative_to(folder)}. `fedsec coordinator "
                "provision` makes kits; each site gets its own"
            ) from None
        except ValidationError as e:
            where = ".".join(str(p) for p in e.errors()[0]["loc"])
            raise ConfigError(
                f"{path}: {where}: {e.errors()[0]['msg']}; expected one server over scheme grpc"
            ) from None
        missing = [name for name in _files(role) if not (folder / STARTUP / name).is_file()]
        if missing:
            raise ConfigError(f"{folder / STARTUP} lacks {', '.join(missing)}: ask for the whole kit")
        match = _TARGET.match(said.service.target)
        assert match is not None  # the pattern of the field
        return cls(folder, role, said.name, match["host"], int(match["port"]), said.identity or match["host"])

    def files(self) -> dict[str, Path]:
        """Certificate, key and root, by the names that NVFlare gives them."""
        return {name: self.folder / STARTUP / name for name in _files(self.role)}


def _files(role: str) -> tuple[str, str, str]:
    return f"{role}.crt", f"{role}.key", "rootCA.pem"
