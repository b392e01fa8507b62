"""Reads what a model wrote, whatever it wrote: lines become mentions with offsets and links between them.

The language is that of ``templates``. A mention string is *grounded* in the window: exactly first, then ignoring case;
whole words before parts of words; onwards in the text before back. A string that is written twice takes the next
occurrence, so repeated mentions come back as they were. What cannot be used is counted by its reason, so that a score
can charge it as a false positive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedsec.data.schema import Entity
from fedsec.data.templates import NONE, flat


@dataclass(frozen=True)
class ParsedEntity:
    """A mention that the model named. ``start``/``end`` count code points of the window's text, ``end`` exclusive."""

    type: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class ParsedRelation:
    """A directed link between two grounded mentions."""

    type: str
    head: ParsedEntity
    tail: ParsedEntity


@dataclass(frozen=True)
class Ungrounded:
    """A well-formed line whose words do not stand in the window (or, for a relation, among the mentions)."""

    type: str
    text: str


@dataclass(frozen=True)
class ParsedAnswer:
    """Everything that an answer said, and everything in it that could not be used."""

    entities: tuple[ParsedEntity, ...] = ()
    relations: tuple[ParsedRelation, ...] = ()
    ungrounded_entities: tuple[Ungrounded, ...] = ()
    """Asked-for type, words that are not in the window: a false positive of that type."""
    ungrounded_relations: tuple[Ungrounded, ...] = ()
    """Asked-for type, but head or tail is no mention of the answer: a false positive of that type."""
    unknown_types: tuple[str, ...] = ()
    """Labels that were not asked for, one for each line: a false positive of no asked-for type."""
    repeats: int = 0
    """Lines that say again what the answer said, with no further occurrence in the window: ignored."""
    malformed_lines: int = 0
    """Lines that are neither a mention nor a link: ignored."""


@dataclass
class _Reader:
    window: str
    entities: list[ParsedEntity] = field(default_factory=list)
    relations: list[ParsedRelation] = field(default_factory=list)
    ungrounded_entities: list[Ungrounded] = field(default_factory=list)
    ungrounded_relations: list[Ungrounded] = field(default_factory=list)
    unknown_types: list[str] = field(default_factory=list)
    repeats: int = 0
    malformed: int = 0

    def entity(self, words: str, label: str) -> None:
        found = _occurrences(self.window, words)
        if not found:
            self.ungrounded_entities.append(Ungrounded(label, words))
            return
        taken = [(e.start, e.end) for e in self.entities if e.type == label]
        free = [place for place in found if place[1:] not in taken]
        if not free:
            self.repeats += 1
            return
        behind = self.entities[-1].start if self.entities else 0

        def preference(place: tuple[int, int, int]) -> tuple[int, bool, bool, int]:
            closeness, start, end = place
            # A mention of the same type that holds this string ("pain" in "chest pain") is not its first choice; and
            # answers go through the text from left to right.
            inside = any(start < other_end and other_start < end for other_start, other_end in taken)
            return closeness, inside, start < behind, start

        _, start, end = min(free, key=preference)
        self.entities.append(ParsedEntity(label, start, end, self.window[start:end]))

    def relation(self, left: str, label: str, known: Sequence[ParsedEntity]) -> None:
        pairs = [
            (h, t)
            for head, tail in _arrow_splits(left)
            for h in _named(known, head)
            for t in _named(known, tail)
            if h != t
        ]
        if not pairs:
            self.ungrounded_relations.append(Ungrounded(label, left))
            return
        pairs.sort(key=lambda p: (_distance(*p), p[0].start, p[1].start))
        said = {(r.head, r.tail) for r in self.relations if r.type == label}
        fresh = [p for p in pairs if p not in said]
        if fresh:
            self.relations.append(ParsedRelation(label, *fresh[0]))
        else:
            self.repeats += 1

    def result(self) -> ParsedAnswer:
        return ParsedAnswer(
            tuple(self.entities),
            tuple(self.relations),
            tuple(self.ungrounded_entities),
            tuple(self.ungrounded_relations),
            tuple(self.unknown_types),
            self.repeats,
            self.malformed,
        )


def parse_answer(
    text: str,
    window_text: str,
    entity_types: Sequence[str],
    relation_types: Sequence[str] | None,
    given: Iterable[Entity] = (),
) -> ParsedAnswer:
    """Parses an answer. Total: every string gives a result, none raises.

    Args:
        text: what the model wrote after the prompt.
        window_text: the window that the prompt showed.
        entity_types: labels that the prompt asked for (for the task kind ``relations``: those of ``given``).
        relation_types: relation labels that the prompt asked for, None or empty for none. With exactly one, a line
            ``head -> tail`` may leave its type out.
        given: the mentions that the prompt gave (task kind ``relations`` only); links may refer to them.
    """
    reader = _Reader(flat(window_text))
    known = [ParsedEntity(e.type, e.start, e.end, flat(e.text)) for e in given]
    entity_labels = {t.casefold(): t for t in entity_types}
    relation_labels = {t.casefold(): t for t in relation_types or ()}
    links: list[tuple[str, str]] = []
    for raw in text.split("\n"):
        line = flat(raw).strip()
        if not line or line.casefold() == NONE:
            continue
        words, bar, label = (part.strip() for part in line.rpartition("|"))
        if not bar:
            if "->" in line and len(relation_labels) == 1:
                links.append((line, next(iter(relation_labels.values()))))
            else:
                reader.malformed += 1
        elif not words or not label:
            reader.malformed += 1
        elif "->" in words and label.casefold() in relation_labels:
            links.append((words, relation_labels[label.casefold()]))
        elif label.casefold() in entity_labels:
            reader.entity(words, entity_labels[label.casefold()])
        else:
            reader.unknown_types.append(label)
    for left, label in links:  # after the mentions, so that the order of an answer's lines does not matter
        reader.relation(left, label, [*known, *reader.entities])
    return reader.result()


def _occurrences(window: str, words: str) -> list[tuple[int, int, int]]:
    """(closeness, start, end) of ``words`` in ``window``.

    Closeness is 0 for an exact whole word, 1 for an exact part of one, 2 and 3 for the same ignoring case.
    """
    found: dict[tuple[int, int], int] = {}
    for worse, flags in ((0, re.NOFLAG), (2, re.IGNORECASE)):
        # The look-ahead finds overlapping occurrences too.
        for match in re.finditer(f"(?=({re.escape(words)}))", window, flags):
            found.setdefault(match.span(1), worse + (not _whole_word(window, match.span(1))))
    return [(closeness, start, end) for (start, end), closeness in found.items()]


def _whole_word(window: str, span: tuple[int, int]) -> bool:
    start, end = span
    before = start > 0 and window[start - 1].isalnum() and window[start].isalnum()
    after = end < len(window) and window[end].isalnum() and window[end - 1].isalnum()
    return not before and not after


def _arrow_splits(left: str) -> list[tuple[str, str]]:
    """Every way to read ``head -> tail``: a mention may itself hold an arrow."""
    return [
        (left[: m.start()].strip(), left[m.end() :].strip())
        for m in re.finditer("->", left)
        if left[: m.start()].strip() and left[m.end() :].strip()
    ]


def _named(known: Sequence[ParsedEntity], words: str) -> list[ParsedEntity]:
    exact = [e for e in known if e.text.strip() == words]
    return exact or [e for e in known if e.text.strip().casefold() == words.casefold()]


def _distance(a: ParsedEntity, b: ParsedEntity) -> int:
    return max(a.start, b.start) - min(a.end, b.end)
