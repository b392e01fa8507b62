"""Which values of a parameter every run of the tests tries, and which the slow tests only."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def sampled(values: Iterable[object], *quick: object) -> list[object]:
    """All of them in the slow lane, these in every; a tuple is a row of arguments."""
    return [value if value in quick else _slow(value) for value in values]


def _slow(value: object) -> object:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
