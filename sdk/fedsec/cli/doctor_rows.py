"""A row of `fedsec doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Row:
    """One check and what it found."""

    check: str
    status: Status
    found: str
