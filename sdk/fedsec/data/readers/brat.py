"""brat standoff: a folder of ``.txt`` files, each with its ``.ann`` (MACCROBAT and many others).

Mentions are ``T`` lines; an event (``E``) is a pointer to its trigger mention; ``R`` lines relate mentions or events.
Discontinuous mentions, events' own arguments, attributes (``A``, ``M``), equivalences (``*``), normalisations (``N``)
and notes (``#``) have no place in a document and are counted.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedsec.data.readers.common import (
    MentionTable,
    Reading,
    build_document,
    folder_files,
    lines_of,
    locate,
    malformed,
    read_text,
)
from fedsec.data.schema import Document, Relation
from fedsec_secure.errors import ConfigError

_MENTION = re.compile(r"(?P<id>T\S*)\t(?P<type>\S+) (?P<spans>\d+ \d+(?:;\d+ \d+)*)\t(?P<text>.*)", re.DOTALL)
_EVENT = re.compile(r"(?P<id>E\S*)\t(?P<type>[^\s:]+):(?P<trigger>T\S+)(?P<arguments>(?: [^\s:]+:\S+)*)\s*")
_RELATION = re.compile(r"(?P<id>R\S*)\t(?P<type>\S+) [^\s:]+:(?P<head>[TE]\S+) [^\s:]+:(?P<tail>[TE]\S+)\s*")
_COUNTED = {
    "A": "attributes",
    "M": "attributes",
    "#": "annotators' notes",
    "*": "equivalences",
    "N": "normalisations",
}


@dataclass
class _Annotations:
    """One ``.ann`` file: the mention table, and what ids point to. A pointer to None was left out."""

    table: MentionTable
    mention: dict[str, str | None] = field(default_factory=dict)
    event: dict[str, tuple[int, str]] = field(default_factory=dict)
    relations: list[tuple[int, str, str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)


def read_brat(path: Path, *, relations: bool | None = None, select: Callable[[str], bool] | None = None) -> Reading:
    """Reads a folder of brat documents (or one ``.txt``). The file's name is document and patient id.

    Args:
        path: folder or ``.txt`` file.
        relations: whether the corpus annotates relations; None: it does if any file has one.
        select: takes a document id and says whether to read it; None: all.

    Raises:
        ConfigError: with file, line and reason; also for a ``.txt`` without its ``.ann`` or the reverse.
    """
    texts = folder_files(path, "*.txt")
    if path.is_dir():
        orphans = sorted(a.name for a in path.glob("*.ann") if not a.with_suffix(".txt").is_file())
        if orphans:
            raise ConfigError(f"{path}: {orphans[0]} has no .txt beside it")
    parsed = [(t, _annotations(t)) for t in texts if select is None or select(t.stem)]
    annotated = any(a.relations for _, a in parsed) if relations is None else relations
    left_out: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    documents = []
    for text_file, found in parsed:
        documents.append(_document(text_file, found, annotated))
        left_out.update(found.left_out)
        mended.update(found.mended)
    return Reading.of(documents, left_out, mended)


def _annotations(text_file: Path) -> _Annotations:
    path = text_file.with_suffix(".ann")
    if not path.is_file():
        raise ConfigError(f"{text_file}: has no {path.name} beside it; an empty one says that nothing is annotated")
    found = _Annotations(MentionTable(read_text(text_file)))
    for number, line in lines_of(path):
        if not line.strip():
            continue
        kind = line[0]
        if kind == "T":
            _add_mention(path, number, line, found)
        elif kind == "E":
            _add_event(path, number, line, found)
        elif kind == "R":
            relation = _RELATION.fullmatch(line)
            if relation is None:
                raise malformed(path, number, "expected: R1 TAB TYPE Arg1:ID Arg2:ID")
            found.relations.append((number, relation["type"], relation["head"], relation["tail"]))
        elif kind in _COUNTED:
            found.left_out[_COUNTED[kind]] += 1
        else:
            raise malformed(path, number, "starts with none of T, E, R, A, M, N, * and #")
    return found


def _add_mention(path: Path, number: int, line: str, found: _Annotations) -> None:
    match = _MENTION.fullmatch(line)
    if match is None:
        raise malformed(path, number, "expected: T1 TAB TYPE START END TAB TEXT")
    if match["id"] in found.mention:
        raise malformed(path, number, f"{match['id']} stands twice")
    spans = [(int(a), int(b)) for a, b in (part.split() for part in match["spans"].split(";"))]
    written = " ".join(found.table.text[a:b] for a, b in spans)
    if written.split() != match["text"].split():
        raise malformed(path, number, f"the text of {match['id']} does not stand at its offsets")
    if len(spans) > 1 and any(found.table.text[a:b].strip() for (_, a), (b, _) in itertools.pairwise(spans)):
        found.left_out["discontinuous mentions"] += 1
        found.mention[match["id"]] = None
        return
    start, end = spans[0][0], spans[-1][1]
    located = locate(found.table.text, start, match["text"])
    if located is None:
        raise malformed(path, number, f"{match['id']} is empty")
    if located != (start, end):
        found.mended["mentions whose white space was trimmed"] += 1
    entity, new = found.table.add(match["type"], *located)
    found.left_out["mentions that stand twice"] += not new
    found.mention[match["id"]] = entity.id


def _add_event(path: Path, number: int, line: str, found: _Annotations) -> None:
    match = _EVENT.fullmatch(line)
    if match is None:
        raise malformed(path, number, "expected: E1 TAB TYPE:T1, then arguments ROLE:ID")
    found.event[match["id"]] = (number, match["trigger"])
    found.left_out["events' arguments"] += len(match["arguments"].split())


def _document(text_file: Path, found: _Annotations, annotated: bool) -> Document:
    path = text_file.with_suffix(".ann")
    for number, trigger in found.event.values():
        if trigger not in found.mention:
            raise malformed(path, number, f"points to {trigger}, which is no mention of this file")
    relations: dict[tuple[str, str, str], Relation] = {}
    for number, kind, first, second in found.relations:
        head, tail = (_mention_id(path, number, name, found) for name in (first, second))
        if head is None or tail is None:
            found.left_out["relations of discontinuous mentions"] += 1
        elif head == tail:
            found.left_out["relations of a mention with itself"] += 1
        elif (kind, head, tail) in relations:
            found.left_out["relations that stand twice"] += 1
        else:
            relations[kind, head, tail] = Relation(type=kind, head=head, tail=tail)
    return build_document(
        path,
        None,
        document_id=text_file.stem,
        patient_id=text_file.stem,
        text=found.table.text,
        entities=found.table.entities,
        relations=tuple(relations.values()) if annotated else None,
    )


def _mention_id(path: Path, number: int, name: str, found: _Annotations) -> str | None:
    if name.startswith("E"):
        if name not in found.event:
            raise malformed(path, number, f"names {name}, which is no event of this file")
        name = found.event[name][1]
    if name not in found.mention:
        raise malformed(path, number, f"names {name}, which is no mention of this file")
    return found.mention[name]
