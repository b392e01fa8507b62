"""E3C layer 1: UIMA CAS XMI, one clinical case a file, parsed with defusedxml.

Mentions are CLINENTITY, EVENT, BODYPART, ACTOR, TIMEX3 and RML annotations. Relations are the links between them:
``PERTAINS-TO`` (from a result to what it is of), ``TLINK-...`` and ``ALINK-...`` with the link's role. Clinical
entities marked as discontinuous are left out and counted, with the links that need them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from fedsec.data.readers.common import MentionTable, Reading, build_document, folder_files, locate, malformed
from fedsec.data.schema import Document, Relation
from fedsec_secure.errors import ConfigError

_XMI_ID = "{http://www.omg.org/XMI}id"
_MENTIONS = ("CLINENTITY", "EVENT", "BODYPART", "ACTOR", "TIMEX3", "RML")
_LINKS = {
    "RMLPERTAINSTOLink": ("PERTAINS-TO", False),
    "EVENTTLINKLink": ("TLINK", True),
    "TIMEX3TimexLinkLink": ("TLINK", True),
    "EVENTALINKLink": ("ALINK", True),
}
"""Link element -> (relation type, whether its role is part of the type)."""
_LINK_FIELDS = ("PERTAINSTO", "TLINK", "ALINK", "timexLink")


@dataclass(frozen=True)
class _Case:
    path: Path
    text: str
    utf16: list[int] | None
    """UTF-16 offset -> code point, where they differ."""
    elements: list[tuple[str, dict[str, str]]]


def read_e3c(path: Path, *, select: Callable[[str], bool] | None = None) -> Reading:
    """Reads a folder of XMI files (or one). The file's name is document and patient id.

    Args:
        path: folder or file.
        select: takes a document id and says whether to read it; None: all.

    Raises:
        ConfigError: with file and reason.
    """
    left_out: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    files = [f for f in folder_files(path, "*.xml") if select is None or select(f.stem)]
    documents = [_document(_case(file), left_out, mended) for file in files]
    return Reading.of(documents, left_out, mended)


def _case(path: Path) -> _Case:
    try:
        root = defusedxml.ElementTree.fromstring(path.read_bytes())
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror or type(e).__name__})") from e
    except ParseError as e:
        raise malformed(path, e.position[0], "is not well-formed XML") from None
    except DefusedXmlException as e:
        raise malformed(path, None, f"holds forbidden XML ({type(e).__name__})") from None
    elements = [(_local(e), dict(e.attrib)) for e in root]
    sofas = [attributes for name, attributes in elements if name == "Sofa"]
    if len(sofas) != 1 or not sofas[0].get("sofaString"):
        raise malformed(path, None, "expected exactly one Sofa with a sofaString")
    text = sofas[0]["sofaString"]
    return _Case(path, text, _utf16_offsets(text), elements)


def _document(case: _Case, left_out: Counter[str], mended: Counter[str]) -> Document:
    table = MentionTable(case.text)
    mention: dict[str, str | None] = {}
    links: dict[str, tuple[str, str]] = {}
    sources: list[tuple[str, str]] = []
    for name, attributes in case.elements:
        if name in _MENTIONS:
            identity = _attribute(case, name, attributes, _XMI_ID)
            mention[identity] = _mention(case, name, attributes, table, left_out, mended)
            sources += ((identity, link) for f in _LINK_FIELDS for link in attributes.get(f, "").split())
        elif name in _LINKS:
            kind, with_role = _LINKS[name]
            kind += "-" + _role(attributes) if with_role else ""
            links[_attribute(case, name, attributes, _XMI_ID)] = (kind, _attribute(case, name, attributes, "target"))
    relations: dict[tuple[str, str, str], Relation] = {}
    for kind, head, tail in _resolved(case, mention, links, sources):
        if head is None or tail is None:
            left_out["relations of discontinuous mentions"] += 1
        elif head == tail:
            left_out["relations of a mention with itself"] += 1
        elif (kind, head, tail) in relations:
            left_out["relations that stand twice"] += 1
        else:
            relations[kind, head, tail] = Relation(type=kind, head=head, tail=tail)
    return build_document(
        case.path,
        None,
        document_id=case.path.stem,
        patient_id=case.path.stem,
        text=case.text,
        entities=table.entities,
        relations=tuple(relations.values()),
    )


def _mention(
    case: _Case,
    name: str,
    attributes: dict[str, str],
    table: MentionTable,
    left_out: Counter[str],
    mended: Counter[str],
) -> str | None:
    # Annotators wrote either the mark or the whole entity's concept here; both say that this is a part only.
    if attributes.get("discontinuous"):
        left_out["discontinuous mentions"] += 1
        return None
    start, end = (_place(case, name, attributes, field) for field in ("begin", "end"))
    located = locate(case.text, start, case.text[start:end])
    if located is None:
        raise malformed(case.path, None, f"{name} {attributes.get(_XMI_ID)} covers no text")
    if located != (start, end):
        mended["mentions whose white space was trimmed"] += 1
    entity, new = table.add(name, *located)
    left_out["mentions that stand twice"] += not new
    return entity.id


def _resolved(
    case: _Case, mention: dict[str, str | None], links: dict[str, tuple[str, str]], sources: list[tuple[str, str]]
) -> Iterator[tuple[str, str | None, str | None]]:
    for source, link in sources:
        if link not in links:
            raise malformed(case.path, None, f"annotation {source} names link {link}, which is not there")
        kind, target = links[link]
        if target not in mention:
            raise malformed(case.path, None, f"link {link} points to {target}, which is no annotation")
        yield kind, mention[source], mention[target]


def _role(attributes: dict[str, str]) -> str:
    return attributes.get("role") or "NONE"


def _attribute(case: _Case, name: str, attributes: dict[str, str], wanted: str) -> str:
    if wanted not in attributes:
        raise malformed(case.path, None, f"a {name} element has no {wanted.rpartition('}')[2]}")
    return attributes[wanted]


def _place(case: _Case, name: str, attributes: dict[str, str], field: str) -> int:
    written = _attribute(case, name, attributes, field)
    last = len(case.text) if case.utf16 is None else len(case.utf16) - 1
    if not (written.isascii() and written.isdigit() and int(written) <= last):
        raise malformed(case.path, None, f"{name} {attributes.get(_XMI_ID)}: {field} is no offset in the text")
    return int(written) if case.utf16 is None else case.utf16[int(written)]


def _utf16_offsets(text: str) -> list[int] | None:
    """UIMA counts UTF-16 units: a table to code points, or None where both agree."""
    if text.isascii() or max(map(ord, text)) < 0x10000:
        return None
    table = [i for i, char in enumerate(text) for _ in range(2 if ord(char) > 0xFFFF else 1)]
    return [*table, len(text)]


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]
