"""PHEE (pharmacovigilance events): JSON lines, one case-report sentence each.

Mentions are the argument spans of the events, under the argument's name (``Drug``, ``Effect``, ``Subject_Disorder``,
``Treatment_Disorder`` ...). Relations run from each drug to each effect of one event, under the event's type
(``Adverse_event`` or ``Potential_therapeutic_event``). An argument in several pieces is discontinuous and is counted;
so are triggers, combinations, and the speculated, negated and severity marks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsec.data.readers.common import MentionTable, Reading, build_document, lines_of, locate, malformed, reasons
from fedsec.data.schema import Document, Entity, Relation


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Span(_Row):
    text: tuple[tuple[str, ...], ...]
    start: tuple[tuple[int, ...], ...]
    entity_id: tuple[str, ...] = ()


class _Mark(_Span):
    value: bool | str | None = None


class _Subject(_Span):
    age: _Span | None = Field(None, alias="Age")
    gender: _Span | None = Field(None, alias="Gender")
    race: _Span | None = Field(None, alias="Race")
    population: _Span | None = Field(None, alias="Population")
    disorder: _Span | None = Field(None, alias="Disorder")


class _Combination(_Row):
    event_id: str
    event_type: str
    trigger: _Span = Field(alias="Trigger")
    drug: _Span | None = Field(None, alias="Drug")


class _Treatment(_Span):
    drug: _Span | None = Field(None, alias="Drug")
    dosage: _Span | None = Field(None, alias="Dosage")
    route: _Span | None = Field(None, alias="Route")
    freq: _Span | None = Field(None, alias="Freq")
    duration: _Span | None = Field(None, alias="Duration")
    time_elapsed: _Span | None = Field(None, alias="Time_elapsed")
    disorder: _Span | None = Field(None, alias="Disorder")
    combination: tuple[_Combination, ...] = Field((), alias="Combination")


class _Event(_Row):
    event_id: str
    event_type: str
    trigger: _Span = Field(alias="Trigger")
    subject: _Subject | None = Field(None, alias="Subject")
    treatment: _Treatment | None = Field(None, alias="Treatment")
    effect: _Span | None = Field(None, alias="Effect")
    speculated: _Mark | None = Field(None, alias="Speculated")
    negated: _Mark | None = Field(None, alias="Negated")
    severity: _Mark | None = Field(None, alias="Severity")


class _Annotation(_Row):
    events: tuple[_Event, ...]


class _Sentence(_Row):
    id: str = Field(pattern=r"^\d+_\d+$")
    context: str = Field(min_length=1)
    is_mult_event: bool
    annotations: tuple[_Annotation, ...]


def read_phee(path: Path) -> Reading:
    """Reads one PHEE file. The sentence id is the document id, its PubMed number the patient id.

    Raises:
        ConfigError: with file, line and reason.
    """
    left_out: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    documents: list[Document] = []
    seen: set[str] = set()
    for number, line in lines_of(path):
        if not line.strip():
            continue
        try:
            json.loads(line)
            sentence = _Sentence.model_validate_json(line)
        except json.JSONDecodeError as e:
            raise malformed(path, number, f"is not JSON (column {e.colno}: {e.msg})") from None
        except ValidationError as e:
            raise malformed(path, number, reasons(e)) from None
        if sentence.id in seen:
            raise malformed(path, number, f"sentence {sentence.id} stands twice")
        seen.add(sentence.id)
        documents.append(_document(path, number, sentence, left_out, mended))
    if not documents:
        raise malformed(path, None, "holds no sentences")
    return Reading.of(documents, left_out, mended)


def _document(path: Path, number: int, sentence: _Sentence, left_out: Counter[str], mended: Counter[str]) -> Document:
    table = MentionTable(sentence.context)
    relations: dict[tuple[str, str, str], Relation] = {}
    for event in (e for a in sentence.annotations for e in a.events):
        mentions: dict[str, list[Entity | None]] = {}
        for role, span in _arguments(event):
            mentions[role] = _mentions(path, number, table, role, span, left_out, mended)
        left_out["triggers"] += 1
        left_out["combinations"] += len(event.treatment.combination) if event.treatment else 0
        left_out["speculated, negated and severity marks"] += sum(
            mark is not None for mark in (event.speculated, event.negated, event.severity)
        )
        for head in mentions.get("Drug", []):
            for tail in mentions.get("Effect", []):
                if head is None or tail is None:
                    left_out["relations of discontinuous mentions"] += 1
                    continue
                relation = Relation(type=event.event_type, head=head.id, tail=tail.id)
                relations[relation.type, relation.head, relation.tail] = relation
    return build_document(
        path,
        number,
        document_id=sentence.id,
        patient_id=sentence.id.split("_")[0],
        text=sentence.context,
        entities=table.entities,
        relations=tuple(relations.values()),
    )


def _arguments(event: _Event) -> Iterator[tuple[str, _Span]]:
    """(name, span) of all arguments that are there; a disorder says whose it is."""
    main = (("Subject", event.subject), ("Treatment", event.treatment), ("Effect", event.effect))
    for role, span in main:
        if span is None:
            continue
        yield role, span
        for name, part in span:  # pydantic iterates over the fields in their order
            if isinstance(part, _Span):
                label = type(span).model_fields[name].alias or name
                yield (f"{role}_{label}" if label == "Disorder" else label), part


def _mentions(
    path: Path,
    number: int,
    table: MentionTable,
    role: str,
    span: _Span,
    left_out: Counter[str],
    mended: Counter[str],
) -> list[Entity | None]:
    """The argument's mentions; None for one in several pieces."""
    if [len(t) for t in span.text] != [len(s) for s in span.start]:
        raise malformed(path, number, f"{role}: text and start differ in shape")
    mentions: list[Entity | None] = []
    for texts, starts in zip(span.text, span.start, strict=True):
        located = [locate(table.text, s, t) for t, s in zip(texts, starts, strict=True)]
        if not located or None in located:
            raise malformed(path, number, f"{role}: its text does not stand at its start")
        if len(located) > 1:
            left_out["discontinuous mentions"] += 1
            mentions.append(None)
            continue
        place = located[0]
        assert place is not None
        if table.text[slice(*place)] != texts[0] or place[0] != starts[0]:
            mended["mentions whose white space was trimmed"] += 1
        entity, new = table.add(role, *place)
        left_out["mentions that stand twice"] += not new
        mentions.append(entity)
    return mentions
