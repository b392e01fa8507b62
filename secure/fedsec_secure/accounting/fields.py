"""Canonical JSON (RFC 8785) read strictly: a value, or CodecError and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NoReturn

import rfc8785

from fedsec_secure.errors import CodecError

Json = Mapping[str, "Json"] | list["Json"] | str | int | float | bool | None
LARGEST_INTEGER = (1 << 53) - 1
"""JSON numbers are IEEE doubles: above this, neighbouring integers share one."""


def dumps(value: Json) -> bytes:
    """The RFC 8785 bytes."""
    return rfc8785.dumps(value)


def loads(data: bytes, *, most: int, what: str) -> Fields:
    """The fields of one JSON object of at most ``most`` bytes.

    Whoever reads them compares the value's encoding with ``data`` afterwards: that refuses every other text of the same
    value, duplicate keys included, which parsers resolve differently.
    """
    if len(data) > most:
        raise CodecError(f"{what}: {len(data)} bytes found, at most {most} are read")
    try:
        value = json.loads(data.decode("ascii"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise CodecError(f"{what}: no JSON in {len(data)} bytes") from None
    return Fields(value, what)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Fields:
    """The fields of an object, each taken once; :meth:`done` refuses what nobody took."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise CodecError(f"{what}: an object expected, {type(value).__name__} found")
        self._left: dict[str, object] = dict(value)
        self._what = what

    def _take(self, name: str) -> object:
        if name not in self._left:
            raise CodecError(f"{self._what}: the field {name} is missing")
        return self._left.pop(name)

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise CodecError(f"{self._what}: {name}: expected {expected}")

    def integer(self, name: str, *, least: int = 0, most: int = LARGEST_INTEGER) -> int:
        """An integer from ``least`` to ``most``."""
        value = self._take(name)
        if type(value) is not int or not least <= value <= most:
            self._refuse(name, f"an integer from {least} to {most}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._take(name)
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
            self._refuse(name, "a finite number")
        return float(value)  # type: ignore[arg-type]

    def text(self, name: str) -> str:
        """A string."""
        value = self._take(name)
        if not isinstance(value, str):
            self._refuse(name, "a string")
        return value

    def raw(self, name: str, size: int) -> bytes:
        """``size`` bytes, as lower-case hexadecimal digits."""
        value = self.text(name)
        if len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
            self._refuse(name, f"{2 * size} hexadecimal digits")
        return bytes.fromhex(value)

    def fields(self, name: str) -> Fields:
        """An object."""
        return Fields(self._take(name), f"{self._what}, {name}")

    def optional(self, name: str) -> Fields | None:
        """An object or null."""
        value = self._take(name)
        return None if value is None else Fields(value, f"{self._what}, {name}")

    def items(self, name: str, *, most: int) -> list[Fields]:
        """A list of at most ``most`` objects."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > most:
            self._refuse(name, f"a list of at most {most}")
        return [Fields(item, f"{self._what}, {name}[{i}]") for i, item in enumerate(value)]

    def done(self) -> None:
        """Refuse unknown fields."""
        if self._left:
            raise CodecError(f"{self._what}: {len(self._left)} unknown fields")
