"""Drafts, policies and site files as TOML that people write: read strictly, written with comments.

A message names the file, the field, what was expected and what was found. What is signed is never the TOML but the
canonical JSON that it compiles to (`document`).
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import tomlkit
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from tomlkit.items import Table

from fedsec.plan.model import Draft
from fedsec.plan.specs import Strict
from fedsec_secure.errors import ConfigError

MAX_TOML_BYTES = 1 << 20
_PHRASES = (
    (r"^Input should be ", ""),
    (r"^\w+ should match pattern ", "text of the form "),
    (r"^\w+ should have ", ""),
)
"""Of pydantic, which begins a sentence where ours goes on after "expected"."""
_MAX_PROBLEMS = 8
_MAX_SHOWN = 60

M = TypeVar("M", bound=Strict)


def read_toml(path: Path, kind: type[M], source: str | None = None) -> M:
    """Parse a TOML file into ``kind``; ConfigError with file, field, expected and found for anything else.

    ``source`` stands for the path in errors that leave the machine.
    """
    source = source or str(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"cannot read {source}: {e.strerror}") from e
    return parse_toml(data, kind, source)


def parse_toml(data: bytes, kind: type[M], source: str) -> M:
    """Parse TOML bytes; ``source`` stands for the file in errors (ConfigError)."""
    if len(data) > MAX_TOML_BYTES:
        raise ConfigError(f"{source} has {len(data)} bytes; at most {MAX_TOML_BYTES} are read")
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise ConfigError(f"{source}: expected UTF-8 text; byte {e.start} is none") from e
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise ConfigError(f"{source}: not TOML: {e}") from e
    return validate(value, kind, source)


def validate(value: Mapping[str, Any], kind: type[M], source: str) -> M:
    """Check TOML-like data against the type, strictly; ConfigError with every problem (at most eight are shown)."""
    try:
        return kind.model_validate_json(json.dumps(value, default=_plain))
    except ValidationError as e:
        raise ConfigError("\n".join(_problems(e, kind, source))) from e
    except (TypeError, RecursionError) as e:
        raise ConfigError(f"{source}: {e}") from e


def override(draft: Draft, assignments: Iterable[str]) -> Draft:
    """The draft with ``field=value`` assignments applied, for instance ``training.learning_rate=1e-3``.

    A value is TOML (``[1, 2]``, ``true``, ``"text"``); text needs no quotes where the field takes text. All are
    applied before the result is checked, so that fields which must agree can change together.

    Raises:
        ConfigError: an unknown field, a value of the wrong type, or a draft that does not hold together.
    """
    value = draft.model_dump(mode="json")
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: expected FIELD=VALUE, for instance rounds=3")
        _assign(value, name.strip(), text.strip())
    return validate(value, Draft, "--set")


def write_toml(document: Strict, heading: str) -> str:
    """Commented TOML: the docstring of each field and the choices it has; fields that are None are left out."""
    out = tomlkit.document()
    for line in heading.splitlines():
        out.add(tomlkit.comment(line))
    out.add(tomlkit.nl())
    _fill(out, document)
    return tomlkit.dumps(out)


def _plain(value: object) -> str:
    """TOML's date-times as RFC 3339 text; its dates and times without a zone say no moment and are refused."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.isoformat()
    raise TypeError(f"found a {type(value).__name__} without a time zone; write 2027-01-31T12:00:00Z")


def _problems(error: ValidationError, kind: type[BaseModel], source: str) -> list[str]:
    problems = error.errors(include_url=False)
    lines = [f"{source}: {_problem(p, kind)}" for p in problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"{source}: and {len(problems) - _MAX_PROBLEMS} more problems")
    return lines


def _problem(problem: Any, kind: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    field = ".".join(location)
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(location[-1], _field_names(kind, location[:-1]), 1)
        return f"{field}: unknown field" + (f"; did you mean {close[0]}?" if close else "")
    if problem["type"] == "missing":
        return f"{field}: this field is missing"
    message = problem["msg"].removeprefix("Value error, ")
    for theirs, ours in _PHRASES:
        message = re.sub(theirs, ours, message)
    if problem["type"] == "value_error":
        return f"{field}: {message}" if field else message
    found = repr(problem["input"])
    return f"{field}: expected {message}; found {found if len(found) <= _MAX_SHOWN else found[:_MAX_SHOWN] + '…'}"


def _field_names(kind: type[BaseModel], path: Iterable[str]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        kind = inner
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a field, also of an optional one."""
    for choice in (annotation, *get_args(annotation)):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def _takes_text(annotation: Any) -> bool:
    """Whether a field's bare value is text: a string, a constrained string, a choice of words, or an optional one."""
    if annotation is str:
        return True
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    choices = [c for c in get_args(annotation) if c is not type(None)]
    return get_origin(annotation) not in (tuple, dict) and any(_takes_text(c) for c in choices)


def _assign(value: dict[str, Any], name: str, text: str) -> None:
    parts = name.split(".")
    target, kind = value, Draft
    inner: type[BaseModel] = kind
    for part in parts[:-1]:
        field = inner.model_fields.get(part)
        found = _model_in(field.annotation) if field else None
        # A table that the draft does not have begins empty; one that an earlier assignment made a number is none.
        table = {} if target.get(part) is None else target[part]
        if found is None or not isinstance(table, dict):
            raise ConfigError(f"--set {name}: {part} is no table of a plan; expected {_listed(inner)}")
        target[part] = table
        inner, target = found, table
    field = inner.model_fields.get(parts[-1])
    if field is None:
        close = difflib.get_close_matches(parts[-1], list(inner.model_fields), 1)
        hint = f"did you mean {close[0]}?" if close else f"expected {_listed(inner)}"
        raise ConfigError(f"--set {name}: unknown field; {hint}")
    target[parts[-1]] = _parse_value(field, name, text)


def _listed(kind: type[BaseModel]) -> str:
    return "one of " + ", ".join(kind.model_fields)


def _parse_value(field: FieldInfo, name: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}\n")
    except tomllib.TOMLDecodeError as e:
        if _takes_text(field.annotation) and text and text[0] not in "\"'":
            return text
        raise ConfigError(
            f'--set {name}: expected a TOML value, as 3, 1e-5, true or ["one", "two"]; found {text or "nothing"}'
        ) from e
    if set(parsed) != {"value"}:
        raise ConfigError(f"--set {name}: expected one value")
    # Sixty-four digits that happen to look like a number are still a digest.
    return text if _takes_text(field.annotation) and not isinstance(parsed["value"], str) else parsed["value"]


def _fill(table: tomlkit.TOMLDocument | Table, document: BaseModel) -> None:
    """Plain values first: in TOML, what follows a table's heading belongs to that table."""
    plain = document.model_dump(mode="json")
    tables = []
    for name, field in type(document).model_fields.items():
        value = getattr(document, name)
        if isinstance(value, BaseModel):
            tables.append((name, value))
        elif value is not None:
            _comment(table, field)
            table.add(name, _item(plain[name], value))
    for name, value in tables:
        inner = tomlkit.table()
        _fill(inner, value)
        table.add(tomlkit.nl())
        table.add(name, inner)


def _item(plain: Any, value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return tomlkit.item(value)
    if isinstance(plain, list) and plain and isinstance(plain[0], dict):
        rows = tomlkit.array()
        for row in plain:
            inline = tomlkit.inline_table()
            inline.update({k: v for k, v in row.items() if v is not None})
            rows.append(inline)
        return rows.multiline(True)
    return tomlkit.item(plain)


def _comment(table: tomlkit.TOMLDocument | Table, field: FieldInfo) -> None:
    for line in (field.description or "").splitlines():
        table.add(tomlkit.comment(line.strip()))
    choices = [c for a in (field.annotation, *get_args(field.annotation)) for c in _choices(a)]
    if len(choices) > 1:
        table.add(tomlkit.comment("one of: " + ", ".join(choices)))


def _choices(annotation: Any) -> list[str]:
    return [str(c) for c in get_args(annotation)] if get_origin(annotation) is Literal else []
