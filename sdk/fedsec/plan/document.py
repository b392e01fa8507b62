"""Signed documents as files: canonical JSON (RFC 8785), read back only in exactly that form."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TypeVar

import rfc8785
from pydantic import ValidationError

from fedsec.plan.cost import distributed_step, with_noise
from fedsec.plan.model import Draft, Plan, Roster
from fedsec.plan.specs import Strict
from fedsec.plan.toml import validate
from fedsec_secure.errors import CodecError, ConfigError

MAX_DOCUMENT_BYTES = 1 << 20

M = TypeVar("M", bound=Strict)


def canonical(document: Strict) -> bytes:
    """RFC 8785 bytes of the document: one document, one text. CodecError for a number that JSON cannot hold exactly."""
    try:
        return rfc8785.dumps(document.model_dump(mode="json", by_alias=True))
    except rfc8785.CanonicalizationError as e:
        raise CodecError(f"a number in this {type(document).__name__} has no canonical form: {e}") from None


def digest(document: Strict) -> bytes:
    """SHA-256 of the canonical bytes, 32 bytes."""
    return hashlib.sha256(canonical(document)).digest()


def parse_canonical(data: bytes, kind: type[M], source: str) -> M:
    """Read canonical JSON; CodecError for another type, an unknown field, or any other text of the same document.

    Comparing with the canonical form also refuses duplicate keys, which JSON parsers resolve differently.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CodecError(f"{source} has {len(data)} bytes; at most {MAX_DOCUMENT_BYTES} are read")
    try:
        document = kind.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(top)"
        raise CodecError(f"{source} is no {kind.__name__}: {where}: {first['msg']}") from e
    if canonical(document) != data:
        raise CodecError(f"{source} is not canonical JSON (RFC 8785); read it as `fedsec` wrote it, unedited")
    return document


def compile_plan(draft: Draft, roster: Roster) -> Plan:
    """Add the noise and the roster and check the whole; ConfigError says which fields do not fit which, or that the
    sites could not add up so much noise.
    """
    value = {**with_noise(draft).model_dump(mode="json"), "roster": roster.model_dump(mode="json")}
    plan = validate(value, Plan, f"plan {draft.name}")
    if plan.dp.mode == "distributed":
        distributed_step(plan)
    return plan


def load_plan(path: Path) -> Plan:
    """A compiled plan (``plan.json``); ConfigError for none or a draft, CodecError when it was edited."""
    if path.suffix == ".toml":
        raise ConfigError(f"{path} is a draft; expected a compiled plan (plan.json), as `fedsec plan compile` makes it")
    try:
        data = read_bounded(path, MAX_DOCUMENT_BYTES)
    except OSError as e:
        raise ConfigError(f"cannot read the plan {path}: {e.strerror}") from e
    return parse_canonical(data, Plan, str(path))


def read_bounded(path: Path, most: int) -> bytes:
    """The whole of a regular file; CodecError for anything else there, or for more than ``most`` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CodecError(f"expected a regular file, found something else: {path}")
    with path.open("rb") as file:
        data = file.read(most + 1) if status.st_size <= most else b""
    if max(status.st_size, len(data)) > most:
        raise CodecError(f"{path} has {max(status.st_size, len(data))} bytes; at most {most} are read")
    return data


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` as a whole (mode 0600), so that a reader sees the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
