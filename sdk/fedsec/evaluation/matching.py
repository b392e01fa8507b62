"""What in one answer is right: counts by type for mentions and links, strict and lenient.

Mentions are matched by nervaluate (its strict and type schemes), one type at a time. Its ends are inclusive, and its
strict scheme lets an inexact prediction use up a mention that a later prediction has exactly, so predictions go in
with exact ones first: the counts then do not depend on the order in which a model wrote its lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import nervaluate.entities
import nervaluate.strategies

from fedsec.data.answers import ParsedAnswer
from fedsec.data.schema import Example

Span = tuple[int, int]
Mention = tuple[str, int, int]
Link = tuple[str, Mention, Mention]

_STRICT = nervaluate.strategies.StrictEvaluation(1.0)
_TYPE = nervaluate.strategies.EntityTypeEvaluation(1.0)  # overlap by 1 % of the gold span, its least


@dataclass(frozen=True)
class Tally:
    """Counts of one type in one example: gold items, predicted items, and how many of them match each way."""

    gold: int = 0
    predicted: int = 0
    strict: int = 0
    lenient: int = 0


def entity_tallies(example: Example, parsed: ParsedAnswer, types: Sequence[str]) -> dict[str, Tally]:
    """Counts by entity type: strict is span and type, lenient is overlap and type.

    Each gold mention is matched once at most. Words that do not stand in the note count as predicted.
    """
    tallies = {}
    for label in types:
        gold = [(e.start, e.end) for e in example.entities if e.type == label]
        predicted = [(e.start, e.end) for e in parsed.entities if e.type == label]
        ungrounded = sum(u.type == label for u in parsed.ungrounded_entities)
        strict, lenient = match_spans(gold, predicted)
        tallies[label] = Tally(len(gold), len(predicted) + ungrounded, strict, lenient)
    return tallies


def match_spans(gold: Sequence[Span], predicted: Sequence[Span]) -> tuple[int, int]:
    """(exact, overlapping) one-to-one matches between spans [start, end) of one type."""
    exact = Counter(gold) & Counter(predicted)
    # A span said more often than it stands there is inexact from its second time on: it must not go first either.
    ordered = sorted(exact.elements()) + sorted((Counter(predicted) - exact).elements())
    true = [nervaluate.entities.Entity("x", start, end - 1) for start, end in sorted(gold)]
    said = [nervaluate.entities.Entity("x", start, end - 1) for start, end in ordered]
    strict, _ = _STRICT.evaluate(true, said, ["x"])
    lenient, _ = _TYPE.evaluate(true, said, ["x"])
    return int(strict.correct), int(lenient.correct)


def relation_tallies(example: Example, parsed: ParsedAnswer, types: Sequence[str]) -> dict[str, Tally]:
    """Counts by relation type: strict needs both mentions' spans and types, lenient overlap and types."""
    by_id: Mapping[str, Mention] = {e.id: (e.type, e.start, e.end) for e in example.entities}
    gold = {(r.type, by_id[r.head], by_id[r.tail]) for r in example.relations or ()}
    said = {
        (r.type, (r.head.type, r.head.start, r.head.end), (r.tail.type, r.tail.start, r.tail.end))
        for r in parsed.relations
    }
    tallies = {}
    for label in types:
        true, predicted = _of_type(gold, label), _of_type(said, label)
        ungrounded = sum(u.type == label for u in parsed.ungrounded_relations)
        strict, lenient = len(set(true) & set(predicted)), match_links(true, predicted)
        tallies[label] = Tally(len(true), len(predicted) + ungrounded, strict, lenient)
    return tallies


def match_links(gold: Sequence[Link], predicted: Sequence[Link]) -> int:
    """Size of a largest one-to-one matching of links whose two mentions overlap in pairs of equal types."""
    edges = [[i for i, g in enumerate(gold) if _similar(g[1], p[1]) and _similar(g[2], p[2])] for p in predicted]
    partner: dict[int, int] = {}

    def augment(p: int, tried: set[int]) -> bool:
        for g in edges[p]:
            if g not in tried:
                tried.add(g)
                if g not in partner or augment(partner[g], tried):
                    partner[g] = p
                    return True
        return False

    return sum(augment(p, set()) for p in range(len(predicted)))


def _of_type(links: Iterable[Link], label: str) -> list[Link]:
    return sorted(link for link in links if link[0] == label)


def _similar(a: Mention, b: Mention) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
