"""Invented clinical words, built from morphemes: the vocabulary of the synthetic notes.

No term is copied from anywhere: drugs are an invented beginning with a usual stem, diseases are a root with a suffix
or a body adjective with a lesion, and so on. Every type has hundreds of terms. Each hospital draws from its own slice
(its specialties) and from a part that all share.

Training and test never share a term: a term belongs to the side that the SHA-256 of its *core* (without laterality and
severity) names, and its written form must name the same side.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

Split = Literal["train", "test"]

TYPES = ("Drug", "Dose", "Problem", "Procedure", "Test", "Anatomy")
"""The common label set; every hospital annotates a part of it."""

SLICES = 5
_SHARED = 5
"""Part of the vocabulary that all hospitals use, beside five slices of one hospital each."""

_WORDS: Mapping[str, list[str]] = tomllib.loads(
    resources.files("fedsec.data").joinpath("synthetic_terms.toml").read_text("utf-8")
)


@dataclass(frozen=True)
class Term:
    """One term: ``core`` decides the side and the slice, ``text`` is how it is written in full."""

    core: str
    text: str


def split_of(text: str) -> Split:
    """Which side a string belongs to, ignoring case: about a quarter of all strings are for tests."""
    return "test" if _digest("side", text)[0] % 4 == 0 else "train"


def slice_of(core: str) -> int:
    """0 to 4: the hospital whose speciality the term is; 5: used by all."""
    return _digest("slice", core)[0] % (SLICES + 1)


def draw(kind: str, split: Split, hospital: int, rng: random.Random) -> Term:
    """A term of the type ``kind`` from the hospital's slice or the shared one, on the side ``split``."""
    while True:
        term = _BUILDERS[kind](rng)
        if split_of(term.core) == split_of(term.text) == split and (
            kind == "Dose" or slice_of(term.core) in (hospital, _SHARED)
        ):
            return term


def _digest(purpose: str, text: str) -> bytes:
    return hashlib.sha256(f"fedsec synthetic terms 1|{purpose}|{' '.join(text.casefold().split())}".encode()).digest()


def _pick(rng: random.Random, words: str) -> str:
    return rng.choice(_WORDS[words])


def _maybe(rng: random.Random, share: float, words: list[str]) -> str:
    return rng.choice(words) + " " if rng.random() < share else ""


def _drug(rng: random.Random) -> Term:
    core = _pick(rng, "drug_starts") + _pick(rng, "drug_ends")
    return Term(core, core)


def _problem(rng: random.Random) -> Term:
    if rng.random() < 0.4:
        core = _pick(rng, "roots") + _pick(rng, "disease_ends")
    else:
        core = f"{_pick(rng, 'adjectives')} {_pick(rng, 'lesions')}"
    return Term(core, _maybe(rng, 0.3, _WORDS["severities"]) + core)


def _procedure(rng: random.Random) -> Term:
    if rng.random() < 0.5:
        core = _pick(rng, "roots") + _pick(rng, "procedure_ends")
    else:
        core = f"{_pick(rng, 'adjectives')} {_pick(rng, 'operations')}"
    return Term(core, _maybe(rng, 0.3, _WORDS["approaches"]) + core)


def _test(rng: random.Random) -> Term:
    if rng.random() < 0.5:
        analyte = _pick(rng, "analyte_starts") + _pick(rng, "analyte_ends")
        return Term(analyte, f"{_pick(rng, 'specimens')} {analyte}")
    core = f"{_pick(rng, 'adjectives')} {_pick(rng, 'scans')}"
    return Term(core, core)


def _anatomy(rng: random.Random) -> Term:
    core = f"{_pick(rng, 'places')} {_pick(rng, 'structures')}"
    return Term(core, _maybe(rng, 0.5, ["left", "right"]) + core)


def _dose(rng: random.Random) -> Term:
    core = f"{_pick(rng, 'amounts')} {_pick(rng, 'units')} {_pick(rng, 'routes')} {_pick(rng, 'times')}"
    return Term(core, core)


_BUILDERS = {
    "Drug": _drug,
    "Dose": _dose,
    "Problem": _problem,
    "Procedure": _procedure,
    "Test": _test,
    "Anatomy": _anatomy,
}
