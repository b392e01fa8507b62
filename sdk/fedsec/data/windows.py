"""Cuts notes into sentence or passage windows that keep their offsets.

An entity is never cut: where a mention crosses a sentence boundary, the sentences are merged. A relation is kept when
both its mentions stand in one window; the others are counted, never dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedsec.data.schema import Document, Entity, Relation

WindowKind = Literal["sentence", "passage"]

PASSAGE_CHARS = 1200
"""A passage takes whole sentences up to this many code points (about 300 tokens of clinical English)."""

_STOP = re.compile(r"[.!?][\"'’”)\]]*\s+(?=[\"'‘“(\[]*(?P<next>\S))")
_NEWLINE = re.compile(r"[ \t]*(?:\r\n|\r|\n)\s*(?P<next>\S)")
_LAST_WORD = re.compile(r"[^\s(\[]+$")

_ABBREVIATION = re.compile(
    r"dr|mr|mrs|ms|prof|st|vs|e\.g|i\.e|figs?|approx|al|cf|i\.v|i\.m|s\.c|p\.o|refs?|ca|resp|eq|incl", re.IGNORECASE
)
_BEFORE_A_NUMBER = re.compile(r"nos?|vol|pp?|ch", re.IGNORECASE)

Span = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A part of a document. Offsets of ``entities`` are relative to ``text``, which starts at ``offset``."""

    document_id: str
    patient_id: str
    index: int
    offset: int
    text: str
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...] | None


@dataclass(frozen=True)
class WindowCounts:
    """What windowing did: plain counts, which add up over documents."""

    windows: int = 0
    entities: int = 0
    relations: int = 0
    merged_sentences: int = 0
    """Sentence boundaries removed because a mention crosses them."""
    relations_across_windows: int = 0
    """Relations lost because their mentions stand in different windows."""

    def __add__(self, other: WindowCounts) -> WindowCounts:
        return WindowCounts(
            self.windows + other.windows,
            self.entities + other.entities,
            self.relations + other.relations,
            self.merged_sentences + other.merged_sentences,
            self.relations_across_windows + other.relations_across_windows,
        )


def split_sentences(text: str) -> list[Span]:
    """Spans of the sentences of ``text``, trimmed of white space, in order.

    A sentence ends at ``.``, ``!`` or ``?`` before a capital letter or a digit (not after a known abbreviation), at an
    empty line, and at a line end unless the next line goes on in lower case (a wrapped line).
    """
    cuts = {m.end() for m in _STOP.finditer(text) if _ends_sentence(text, m)}
    cuts.update(m.start("next") for m in _NEWLINE.finditer(text) if _line_break_ends(m))
    spans: list[Span] = []
    start = 0
    for cut in [*sorted(cuts), len(text)]:
        trimmed = _trim(text, start, cut)
        if trimmed is not None:
            spans.append(trimmed)
        start = cut
    return spans


def sentence_spans(text: str, entities: Sequence[Entity]) -> list[Span]:
    """Sentences of ``text``, neighbours merged where a mention crosses their boundary."""
    return _merge_over_entities(split_sentences(text), entities)


def make_windows(
    document: Document, kind: WindowKind = "sentence", passage_chars: int = PASSAGE_CHARS
) -> tuple[list[Window], WindowCounts]:
    """Windows of one document, in order, with what was merged and lost.

    Args:
        document: the note; its offsets count code points.
        kind: ``sentence`` gives one window a sentence, ``passage`` packs whole sentences.
        passage_chars: longest passage in code points; a single longer sentence stays whole.
    """
    spans = sentence_spans(document.text, document.entities)
    merged = len(split_sentences(document.text)) - len(spans)
    if kind == "passage":
        spans = _pack(spans, passage_chars)
    windows = [_window(document, index, span) for index, span in enumerate(spans)]
    kept = sum(len(w.relations or ()) for w in windows)
    return windows, WindowCounts(
        windows=len(windows),
        entities=sum(len(w.entities) for w in windows),
        relations=kept,
        merged_sentences=max(0, merged),
        relations_across_windows=len(document.relations or ()) - kept,
    )


def make_all_windows(documents: Iterable[Document], kind: WindowKind = "sentence") -> tuple[list[Window], WindowCounts]:
    """``make_windows`` over many documents, with the counts added up."""
    windows: list[Window] = []
    counts = WindowCounts()
    for document in documents:
        some, count = make_windows(document, kind)
        windows += some
        counts += count
    return windows, counts


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    following = match["next"]
    if not (following.isupper() or following.isdigit()):
        return False
    if text[match.start()] != ".":
        return True
    word = _LAST_WORD.search(text, max(0, match.start() - 20), match.start())
    last = word.group() if word else ""
    if _ABBREVIATION.fullmatch(last):
        return False
    return not (_BEFORE_A_NUMBER.fullmatch(last) and following.isdigit())


def _line_break_ends(match: re.Match[str]) -> bool:
    empty_line = len(match.group().splitlines()) > 2
    return empty_line or not match["next"].islower()


def _trim(text: str, start: int, end: int) -> Span | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _merge_over_entities(spans: Sequence[Span], entities: Sequence[Entity]) -> list[Span]:
    """Joins neighbouring spans until every entity lies in one; widens a span over white space that an entity holds."""
    todo = sorted((e.start, e.end) for e in entities)
    merged: list[Span] = []
    sources = sorted([*((s, e, False) for s, e in spans), *((s, e, True) for s, e in todo)])
    for start, end, is_entity in sources:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif is_entity and merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _pack(spans: Sequence[Span], longest: int) -> list[Span]:
    packed: list[Span] = []
    for start, end in spans:
        if packed and end - packed[-1][0] <= longest:
            packed[-1] = (packed[-1][0], end)
        else:
            packed.append((start, end))
    return packed


def _window(document: Document, index: int, span: Span) -> Window:
    start, end = span
    inside = tuple(
        sorted(
            (
                e.model_copy(update={"start": e.start - start, "end": e.end - start})
                for e in document.entities
                if start <= e.start and e.end <= end
            ),
            key=lambda e: (e.start, e.end, e.type, e.id),
        )
    )
    ids = {e.id for e in inside}
    relations = (
        None if document.relations is None else tuple(r for r in document.relations if r.head in ids and r.tail in ids)
    )
    return Window(document.document_id, document.patient_id, index, start, document.text[start:end], inside, relations)
