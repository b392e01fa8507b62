"""Our own format: JSON lines, one note a line. Strict: unknown or missing fields, wrong types and offsets are errors.

    {"document_id": "n1", "patient_id": "p1", "text": "Started belvapril for renal spasm.",
     "entities": [{"id": "T1", "type": "Drug", "start": 8, "end": 17},
                  {"id": "T2", "type": "Problem", "start": 22, "end": 33}],
     "relations": [{"type": "treats", "head": "T1", "tail": "T2"}]}

Offsets count Unicode code points, ``end`` exclusive. An entity may give its ``text``, which must then stand there.
``title`` is optional: what its authors called the note; ``text`` may begin with it, and need not.
``relations`` left out or null says that this note's relations are *not annotated*; ``[]`` says that there are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from fedsec.data.readers.common import Reading, build_document, lines_of, malformed, reasons
from fedsec.data.schema import Document, Entity, Frozen, Relation
from fedsec_secure.errors import ConfigError


class EntityRow(Frozen):
    """A mention as written in a file."""

    id: str = Field(min_length=1)
    type: str = Field(min_length=1)
    start: int = Field(ge=0)
    end: int = Field(ge=1)
    text: str | None = None


class NoteRow(Frozen):
    """A line of a file."""

    document_id: str = Field(min_length=1)
    patient_id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    entities: tuple[EntityRow, ...] = ()
    relations: tuple[Relation, ...] | None = None
    title: str | None = Field(None, min_length=1)


def read_jsonl(path: Path) -> Reading:
    """Reads a file of notes; empty lines are allowed.

    Raises:
        ConfigError: with file, line and reason; nothing is skipped.
    """
    documents: list[Document] = []
    first_line: dict[str, int] = {}
    for number, line in lines_of(path):
        if not line.strip():
            continue
        document = _note(path, number, line)
        if document.document_id in first_line:
            raise malformed(
                path,
                number,
                f"document_id {document.document_id} stands in line {first_line[document.document_id]} too",
            )
        first_line[document.document_id] = number
        documents.append(document)
    if not documents:
        raise ConfigError(f"{path}: holds no notes; expected one JSON object a line")
    return Reading.of(documents)


def malformed_rows(path: Path) -> list[str]:
    """What ``read_jsonl`` would refuse, row by row, instead of stopping at the first. Empty: it reads.

    For a site that mends its notes; a file that cannot be read as text at all still raises ConfigError.
    """
    found: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in lines_of(path):
        if line.strip():
            try:
                _add_note(path, number, line, first_line)
            except ConfigError as e:
                found.append(str(e))
    return found if found or first_line else [str(_empty(path))]


def write_jsonl(path: Path, documents: Iterable[Document]) -> None:
    """Writes notes so that ``read_jsonl`` gives them back. The same documents give the same bytes."""
    lines = [
        json.dumps(d.model_dump(mode="json", exclude_none=True), ensure_ascii=False, sort_keys=True) + "\n"
        for d in documents
    ]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _empty(path: Path) -> ConfigError:
    return ConfigError(f"{path}: holds no notes; expected one JSON object a line")


def _add_note(path: Path, number: int, line: str, first_line: dict[str, int]) -> Document:
    """The note of a line, whose id must be new."""
    document = _note(path, number, line)
    earlier = first_line.setdefault(document.document_id, number)
    if earlier != number:
        raise malformed(path, number, f"document_id {document.document_id} stands in line {earlier} too")
    return document


def _note(path: Path, number: int, line: str) -> Document:
    try:
        raw = json.loads(line, object_pairs_hook=_no_key_twice)
        # JSON has no tuples: strict validation from JSON text accepts arrays for them.
        row = NoteRow.model_validate_json(json.dumps(raw))
    except json.JSONDecodeError as e:
        raise malformed(path, number, f"is not JSON (column {e.colno}: {e.msg})") from None
    except ValidationError as e:
        raise malformed(path, number, reasons(e)) from None
    except (ValueError, RecursionError) as e:
        raise malformed(path, number, str(e) if isinstance(e, _KeyTwiceError) else "is not usable JSON") from None
    for entity in row.entities:
        if entity.text is not None and row.text[entity.start : entity.end] != entity.text:
            raise malformed(path, number, f"entity {entity.id}: its text does not stand at its offsets")
    entities = tuple(
        Entity(id=e.id, type=e.type, start=e.start, end=e.end, text=row.text[e.start : e.end]) for e in row.entities
    )
    return build_document(
        path,
        number,
        document_id=row.document_id,
        patient_id=row.patient_id,
        text=row.text,
        entities=entities,
        relations=row.relations,
        title=row.title,
    )


class _KeyTwiceError(ValueError):
    pass


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _KeyTwiceError("an object has the same key twice")
    return result
