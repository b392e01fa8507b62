"""Annotated notes: the one shape that every corpus reader produces and everything else consumes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Base of the shapes below: immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Entity(Frozen):
    """A mention. Offsets count Unicode code points of the document's text, ``end`` exclusive."""

    id: str
    type: str
    start: int
    end: int
    text: str


class Relation(Frozen):
    """A directed, typed link between two mentions of the same document, by entity id."""

    type: str
    head: str
    tail: str


class Document(Frozen):
    """One note. ``relations`` is None where the corpus does not annotate relations (which is not 'there are none')."""

    document_id: str
    patient_id: str
    text: str
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] | None = None
    title: str | None = Field(default=None, exclude_if=lambda title: title is None)
    """What its authors called it, where the corpus keeps that apart; ``text`` may begin with it."""

    @property
    def body(self) -> tuple[int, str]:
        """Where the text goes on after the title, if it begins with it, and from there on, trimmed."""
        start = len(self.title) if self.title and self.text.startswith(self.title) else 0
        rest = self.text[start:]
        return start + len(rest) - len(rest.lstrip()), rest.strip()

    @model_validator(mode="after")
    def _offsets_and_ids_agree(self) -> Document:
        ids = set()
        for e in self.entities:
            if not (0 <= e.start < e.end <= len(self.text)) or self.text[e.start : e.end] != e.text:
                raise ValueError(
                    f"document {self.document_id}: entity {e.id} [{e.start}:{e.end}] does not match the text there"
                )
            if e.id in ids:
                raise ValueError(f"document {self.document_id}: entity id {e.id} stands twice")
            ids.add(e.id)
        for r in self.relations or ():
            if r.head not in ids or r.tail not in ids:
                raise ValueError(f"document {self.document_id}: relation {r.head}->{r.tail} names an unknown entity")
        return self


class Example(Frozen):
    """One training or test item: a window of a document with its prompt and the answer a perfect model would write."""

    example_id: str
    document_id: str
    patient_id: str
    text: str
    offset: int
    """Where ``text`` starts in the document."""
    entities: tuple[Entity, ...]
    """Offsets relative to the window's ``text``."""
    relations: tuple[Relation, ...] | None
    prompt: str
    answer: str
