"""Synthetic notes of five invented hospitals: deterministic, ours to ship, and unlike each other as real ones are.

Each hospital writes its own kind of note, annotates its own part of the common label set, draws from its own slice of
the vocabulary and has its own noise. No hospital teaches everything: who wants to read all five needs all five.
Terms and sentence templates of the test side never occur on the training side, at any hospital.
Nothing here is protective: the seeded generator makes toys, not secrets.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from fedsec.data.schema import Document, Entity, Relation
from fedsec.data.synthetic_terms import TYPES, Split, Term, draw, split_of
from fedsec_secure.errors import ConfigError

STYLES = ("harbour", "northgate", "clifton", "westlake", "priory")

_SLOT = re.compile(r"\{(?P<type>[A-Z][a-z]+)(?::(?P<name>[a-z]))?\}|<(?P<filler>[a-z]+)>")
_TYPO_WORD = re.compile(r"[a-z]{5,}")


@dataclass(frozen=True)
class Template:
    """A sentence with slots. ``links`` are (relation, head slot name, tail slot name)."""

    text: str
    links: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Noise:
    """Shares, between 0 and 1, of sentences or mentions that a habit of the hospital touches."""

    typo: float = 0.0
    """Sentences with one letter pair swapped outside the mentions."""
    shout: float = 0.0
    """Mentions in capitals."""
    lower: float = 0.0
    """Sentences written without capitals."""
    shorthand: float = 0.0
    """Mentions with their usual modifiers abbreviated."""


@dataclass(frozen=True)
class HospitalStyle:
    """What a hospital writes and what it annotates; ``relation_types`` None: it annotates no relations."""

    name: str
    title: str
    index: int
    entity_types: tuple[str, ...]
    relation_types: tuple[str, ...] | None
    sections: tuple[str, ...]
    templates: Mapping[Split, tuple[Template, ...]]
    fillers: Mapping[str, tuple[str, ...]]
    noise: Noise


_NOISE = {
    "harbour": Noise(typo=0.05),
    "northgate": Noise(typo=0.1, lower=0.8, shorthand=0.8),
    "clifton": Noise(shout=0.15, shorthand=0.3),
    "westlake": Noise(shout=0.05, shorthand=0.5),
    "priory": Noise(typo=0.15, shout=0.05),
}

_SHORTHAND = {
    "acute": "ac",
    "chronic": "chr",
    "severe": "sev",
    "recurrent": "rec",
    "left": "L",
    "right": "R",
    "anterior": "ant",
    "posterior": "post",
    "proximal": "prox",
    "laparoscopic": "lap",
    "emergency": "emerg",
    "ultrasound": "US",
    "angiogram": "angio",
    "serum": "S-",
    "plasma": "P-",
    "daily": "od",
    "nightly": "nocte",
}


def hospital(style: str | int) -> HospitalStyle:
    """A hospital by name or by its place in ``STYLES``.

    Raises:
        ConfigError: there is no such hospital.
    """
    if isinstance(style, int):
        if not 0 <= style < len(STYLES):
            raise ConfigError(f"synthetic hospitals are numbered 0 to {len(STYLES) - 1}, not {style}")
        return _hospitals()[STYLES[style]]
    if style not in STYLES:
        raise ConfigError(f"no synthetic hospital {style!r}; there are: {', '.join(STYLES)}")
    return _hospitals()[style]


def make_site(style: str | int, split: Split, sentences: int, seed: int) -> list[Document]:
    """Annotated notes of one hospital with exactly ``sentences`` sentences in all, three to six a note.

    Args:
        style: name or number of the hospital.
        split: ``train`` or ``test``; the two share no term, no template and no patient.
        sentences: how many, at least 1.
        seed: same seed, same bytes, on every machine.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"the split of synthetic notes is 'train' or 'test', not {split!r}")
    if sentences < 1:
        raise ConfigError(f"synthetic notes need at least 1 sentence, not {sentences}")
    where = hospital(style)
    rng = random.Random(_seed(where.name, split, seed))  # noqa: S311 - toys, not secrets
    documents: list[Document] = []
    patient = 0
    while sentences:
        patient += not documents or rng.random() < 0.7  # some patients have several notes
        count = min(sentences, rng.randint(3, 6))
        name = f"{where.name}-{split}-{seed}"
        documents.append(_note(where, split, rng, count, f"{name}-n{len(documents) + 1:04d}", f"{name}-p{patient:04d}"))
        sentences -= count
    return documents


def public_test_sets(seed: int, sentences: int = 20) -> dict[str, list[Document]]:
    """One test set a hospital, labelled with that hospital's own label set."""
    return {name: make_site(name, "test", sentences, seed) for name in STYLES}


def entity_types() -> tuple[str, ...]:
    """All labels of the five hospitals, in the order in which prompts name them."""
    return TYPES


def relation_types() -> tuple[str, ...]:
    """All relation labels of the five hospitals."""
    return ("treats", "causes", "affects")


class _Text:
    """A note under construction: text and mentions grow together, so that offsets are right by construction."""

    def __init__(self) -> None:
        self.text = ""
        self.entities: list[Entity] = []

    def words(self, words: str) -> None:
        self.text += words

    def mention(self, kind: str, words: str) -> str:
        mention = Entity(
            id=f"T{len(self.entities) + 1}",
            type=kind,
            start=len(self.text),
            end=len(self.text) + len(words),
            text=words,
        )
        self.entities.append(mention)
        self.text += words
        return mention.id


def _note(
    where: HospitalStyle, split: Split, rng: random.Random, count: int, document_id: str, patient_id: str
) -> Document:
    note = _Text()
    relations: list[Relation] = []
    section = rng.randrange(len(where.sections))
    for number in range(count):
        if number:
            note.words("\n")
        if number == 0 or rng.random() < 0.2:
            note.words(where.sections[section % len(where.sections)] + ": ")
            section += 1
        else:
            note.words("- ")
        _sentence(note, relations, where, split, rng)
    kept = tuple(e for e in note.entities if e.type in where.entity_types)
    ids = {e.id for e in kept}
    annotated = tuple(r for r in relations if r.type in (where.relation_types or ()) and {r.head, r.tail} <= ids)
    return Document(
        document_id=document_id,
        patient_id=patient_id,
        text=note.text,
        entities=kept,
        relations=None if where.relation_types is None else annotated,
    )


def _sentence(note: _Text, relations: list[Relation], where: HospitalStyle, split: Split, rng: random.Random) -> None:
    template = rng.choice(where.templates[split])
    lower = rng.random() < where.noise.lower
    typo = rng.random() < where.noise.typo
    named: dict[str, str] = {}
    used: set[str] = set()
    position = 0
    for slot in _SLOT.finditer(template.text):
        plain = template.text[position : slot.start()]
        if typo and _TYPO_WORD.search(plain):
            plain, typo = _swap_letters(plain, rng), False
        note.words(plain.lower() if lower else plain)
        position = slot.end()
        if slot["filler"]:
            words = rng.choice(where.fillers[slot["filler"]])
            note.words(words if slot.start() or lower else words[0].upper() + words[1:])
            continue
        words = _written(slot["type"], where, split, rng, used, lower)
        identity = note.mention(slot["type"], words)
        if slot["name"]:
            named[slot["name"]] = identity
    rest = template.text[position:]
    note.words(rest.lower() if lower else rest)
    relations.extend(Relation(type=kind, head=named[h], tail=named[t]) for kind, h, t in template.links)


def _written(kind: str, where: HospitalStyle, split: Split, rng: random.Random, used: set[str], lower: bool) -> str:
    """A term as this hospital writes it: never twice in a sentence, never a string of the other side."""
    term = draw(kind, split, where.index, rng)
    while term.core in used:
        term = draw(kind, split, where.index, rng)
    used.add(term.core)
    words = _habits(term, where.noise, rng)
    if split_of(words) != split:
        words = term.text
    return words.lower() if lower else words


def _habits(term: Term, noise: Noise, rng: random.Random) -> str:
    words = term.text
    if rng.random() < noise.shorthand:
        words = " ".join(_SHORTHAND.get(w, w) for w in words.split(" ")).replace("- ", "-")
    return words.upper() if rng.random() < noise.shout else words


def _swap_letters(text: str, rng: random.Random) -> str:
    words = list(_TYPO_WORD.finditer(text))
    word = rng.choice(words)
    at = rng.randrange(word.start(), word.end() - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _seed(style: str, split: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"fedsec synthetic notes 1|{style}|{split}|{seed}".encode()).digest())


@cache
def _hospitals() -> dict[str, HospitalStyle]:
    raw = tomllib.loads(resources.files("fedsec.data").joinpath("synthetic_notes.toml").read_text("utf-8"))
    fillers = {name: tuple(words) for name, words in raw["fillers"].items()}
    return {name: _style(name, index, raw[name], fillers) for index, name in enumerate(STYLES)}


def _style(name: str, index: int, raw: Mapping[str, Any], fillers: Mapping[str, tuple[str, ...]]) -> HospitalStyle:
    templates: dict[Split, tuple[Template, ...]] = {}
    for split in ("train", "test"):
        templates[split] = tuple(Template(t["text"], tuple(_link(link) for link in t["links"])) for t in raw[split])
    relations = raw.get("relations")
    return HospitalStyle(
        name=name,
        title=raw["title"],
        index=index,
        entity_types=tuple(t for t in TYPES if t in raw["entities"]),
        relation_types=None if relations is None else tuple(relations),
        sections=tuple(raw["sections"]),
        templates=templates,
        fillers=fillers,
        noise=_NOISE[name],
    )


def _link(link: str) -> tuple[str, str, str]:
    kind, head, tail = link.split()
    return kind, head, tail
