"""PubTator files: BC5CDR, NCBI-Disease, BioRED (plain or gzip).

A block is ``PMID|t|title``, ``PMID|a|abstract``, then tab-separated lines: six or seven fields for a mention (PMID,
start, end, text, type, concepts[, parts]), four or five for a relation (PMID, type, concept, concept[, novelty]).
Offsets count over title, one blank, abstract. Relations hold between *concepts* of the whole abstract;
``mention_relations`` brings them down to mentions.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedsec.data.readers.common import MentionTable, Reading, build_document, lines_of, locate, malformed, offset
from fedsec.data.schema import Document, Entity, Relation
from fedsec.data.windows import sentence_spans

_HEAD = re.compile(r"(?P<pmid>\d+)\|(?P<part>[ta])\|(?P<text>.*)", re.DOTALL)
_CONCEPT_SEPARATORS = re.compile(r"[|,;+]")
_NO_CONCEPT = frozenset({"", "-", "-1"})
_VARIANT_TYPES = frozenset({"SequenceVariant"})
"""Their ids (``c|DEL|30|``) hold bars themselves: no list of concepts."""


@dataclass
class _Block:
    """One abstract as written."""

    line: int
    pmid: str
    title: str
    abstract: str | None = None
    mentions: list[tuple[int, list[str]]] = field(default_factory=list)
    relations: list[tuple[int, list[str]]] = field(default_factory=list)

    def content(self) -> tuple[object, ...]:
        """All but where it stood."""
        return (
            self.pmid,
            self.title,
            self.abstract,
            [fields for _, fields in self.mentions],
            [fields for _, fields in self.relations],
        )


@dataclass(frozen=True)
class ConceptRelation:
    """A relation between two concept ids of an abstract, in the file's order."""

    type: str
    head: str
    tail: str


def read_pubtator(path: Path, *, relations: bool | None = None) -> Reading:
    """Reads one PubTator file.

    Args:
        path: the file, ``.gz`` or plain.
        relations: whether the corpus annotates relations; None: it does if the file has at least one.

    Raises:
        ConfigError: with file, line and reason.
    """
    left_out: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    blocks = _without_repeats(path, _blocks(path), left_out)
    annotated = any(b.relations for b in blocks) if relations is None else relations
    documents = [_document(path, block, annotated, left_out, mended) for block in blocks]
    if not documents:
        raise malformed(path, None, "holds no abstracts; expected PMID|t|title lines")
    return Reading.of(documents, left_out, mended)


def mention_relations(
    text: str,
    entities: Sequence[Entity],
    concepts: Mapping[str, frozenset[str]],
    relations: Sequence[ConceptRelation],
) -> tuple[tuple[Relation, ...], Counter[str]]:
    """Concept relations as mention relations, and what was lost by reason.

    In each sentence that holds mentions of both concepts, the nearest pair is related (on a tie the first). A relation
    whose concepts never share a sentence is lost, and counted.

    Args:
        text: the whole document.
        entities: its mentions.
        concepts: entity id -> concept ids of that mention.
        relations: the document-level relations.
    """
    lost: Counter[str] = Counter()
    by_sentence = _sentences_of_concepts(text, entities, concepts)
    known = {c for ids in concepts.values() for c in ids}
    found: dict[tuple[str, str, str], Relation] = {}
    for relation in relations:
        if relation.head not in known or relation.tail not in known:
            lost["relations whose concept has no mention"] += 1
            continue
        nearest = [
            pair
            for mentions in by_sentence
            if (pair := _nearest(mentions.get(relation.head, []), mentions.get(relation.tail, []))) is not None
        ]
        if not nearest:
            lost["relations across sentences"] += 1
        for head, tail in nearest:
            key = (relation.type, head.id, tail.id)
            found.setdefault(key, Relation(type=relation.type, head=head.id, tail=tail.id))
    return tuple(found.values()), lost


def _blocks(path: Path) -> Iterator[_Block]:
    block: _Block | None = None
    for number, line in lines_of(path):
        if not line.strip():
            continue
        head = _HEAD.fullmatch(line)
        if head and head["part"] == "t":
            if block is not None:
                yield _complete(path, block)
            block = _Block(number, head["pmid"], head["text"])
            continue
        if block is None:
            raise malformed(path, number, "expected PMID|t|title before anything else of an abstract")
        if head:
            if head["pmid"] != block.pmid or block.abstract is not None:
                raise malformed(path, number, f"expected the one abstract line of {block.pmid}")
            block.abstract = head["text"]
            continue
        _add_annotation(path, number, block, line.split("\t"))
    if block is not None:
        yield _complete(path, block)


def _add_annotation(path: Path, number: int, block: _Block, fields: list[str]) -> None:
    if fields[0] != block.pmid or block.abstract is None:
        raise malformed(path, number, f"expected an annotation of {block.pmid}, after its title and abstract")
    if len(fields) in (6, 7):
        block.mentions.append((number, fields))
    elif len(fields) in (4, 5):
        block.relations.append((number, fields))
    else:
        raise malformed(
            path, number, f"expected 6 or 7 tab-separated fields (mention) or 4 or 5 (relation), found {len(fields)}"
        )


def _complete(path: Path, block: _Block) -> _Block:
    if block.abstract is None:
        raise malformed(path, block.line, f"{block.pmid} has a title, but no abstract line (PMID|a|...)")
    return block


def _without_repeats(path: Path, blocks: Iterator[_Block], left_out: Counter[str]) -> list[_Block]:
    """Drops an abstract that stands twice with the same content; two different ones under one id are an error."""
    seen: dict[str, _Block] = {}
    for block in blocks:
        known = seen.setdefault(block.pmid, block)
        if known is block:
            continue
        if known.content() != block.content():
            raise malformed(path, block.line, f"{block.pmid} stands in line {known.line} too, with other content")
        left_out["documents that stand twice"] += 1
        left_out["mentions of documents that stand twice"] += len(block.mentions)
    return list(seen.values())


def _document(path: Path, block: _Block, annotated: bool, left_out: Counter[str], mended: Counter[str]) -> Document:
    text = f"{block.title} {block.abstract}"
    table = MentionTable(text)
    concepts: defaultdict[str, set[str]] = defaultdict(set)
    for number, (_, start, end, words, kind, ids, *_) in block.mentions:
        span = locate(text, offset(path, number, start), words)
        if span is None:
            raise malformed(path, number, f"the mention's text does not stand at {start} of {block.pmid}")
        if span != (int(start), offset(path, number, end)) or text[slice(*span)] != words:
            mended["mentions whose white space was trimmed"] += 1
        entity, new = table.add(kind, *span)
        left_out["mentions that stand twice"] += not new
        concepts[entity.id] |= _concepts(kind, ids)
    relations: tuple[Relation, ...] | None = None
    if annotated:
        wanted = [ConceptRelation(fields[1], fields[2], fields[3]) for _, fields in block.relations]
        frozen = {entity: frozenset(ids) for entity, ids in concepts.items()}
        relations, lost = mention_relations(text, table.entities, frozen, wanted)
        left_out.update(lost)
    return build_document(
        path,
        block.line,
        document_id=block.pmid,
        patient_id=block.pmid,
        text=text,
        entities=table.entities,
        relations=relations,
        title=block.title if block.title.strip() else None,
    )


def _concepts(kind: str, ids: str) -> set[str]:
    """Concept ids of a mention: composite mentions have several, and -1 says that there is none."""
    whole = ids.strip()
    parts = {part.strip() for part in _CONCEPT_SEPARATORS.split(whole)} if kind not in _VARIANT_TYPES else set()
    return ({whole} | parts) - _NO_CONCEPT


def _sentences_of_concepts(
    text: str, entities: Sequence[Entity], concepts: Mapping[str, frozenset[str]]
) -> list[dict[str, list[Entity]]]:
    """For each sentence: concept -> its mentions there."""
    sentences: list[dict[str, list[Entity]]] = []
    for start, end in sentence_spans(text, entities):
        here: dict[str, list[Entity]] = {}
        for e in entities:
            if start <= e.start and e.end <= end:
                for concept in concepts.get(e.id, frozenset()):
                    here.setdefault(concept, []).append(e)
        sentences.append(here)
    return sentences


def _nearest(heads: Sequence[Entity], tails: Sequence[Entity]) -> tuple[Entity, Entity] | None:
    pairs = [(h, t) for h in heads for t in tails if h.id != t.id]
    if not pairs:
        return None
    return min(pairs, key=lambda p: (max(p[0].start, p[1].start) - min(p[0].end, p[1].end), p[0].start, p[1].start))
