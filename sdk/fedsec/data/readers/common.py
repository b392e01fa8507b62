"""What all readers share: the report, strict text files, errors that name file, line and reason but no note text."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from fedsec.data.schema import Document, Entity, Relation
from fedsec_secure.errors import ConfigError


@dataclass(frozen=True)
class ReadReport:
    """What was read, and what the shape of a document cannot hold: counted by reason, never skipped in silence."""

    documents: int = 0
    entities: int = 0
    relations: int = 0
    left_out: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Reason -> items left out."""
    mended: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Reason -> items that were kept after a stated small repair."""

    def __add__(self, other: ReadReport) -> ReadReport:
        return ReadReport(
            self.documents + other.documents,
            self.entities + other.entities,
            self.relations + other.relations,
            _sorted(Counter(self.left_out) + Counter(other.left_out)),
            _sorted(Counter(self.mended) + Counter(other.mended)),
        )


@dataclass(frozen=True)
class Reading:
    """Documents in file order, with the report."""

    documents: tuple[Document, ...]
    report: ReadReport

    @staticmethod
    def of(
        documents: Iterable[Document],
        left_out: Mapping[str, int] | None = None,
        mended: Mapping[str, int] | None = None,
    ) -> Reading:
        """A reading whose report counts these documents."""
        kept = tuple(documents)
        report = ReadReport(
            documents=len(kept),
            entities=sum(len(d.entities) for d in kept),
            relations=sum(len(d.relations or ()) for d in kept),
            left_out=_sorted(left_out or {}),
            mended=_sorted(mended or {}),
        )
        return Reading(kept, report)


class MentionTable:
    """The mentions of one document under construction: equal spans of one type become one mention."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._by_span: dict[tuple[int, int, str], Entity] = {}

    def add(self, kind: str, start: int, end: int) -> tuple[Entity, bool]:
        """The mention there, and whether it is new."""
        known = self._by_span.get((start, end, kind))
        if known is not None:
            return known, False
        entity = Entity(id=f"T{len(self._by_span) + 1}", type=kind, start=start, end=end, text=self.text[start:end])
        self._by_span[start, end, kind] = entity
        return entity, True

    @property
    def entities(self) -> tuple[Entity, ...]:
        """All mentions in the order of the text."""
        return tuple(sorted(self._by_span.values(), key=lambda e: (e.start, e.end, e.type)))


def malformed(path: Path, line: int | None, reason: str) -> ConfigError:
    """The error for a file that is not what its format says. ``reason`` must not hold note text."""
    where = str(path) if line is None else f"{path}, line {line}"
    return ConfigError(f"{where}: {reason}")


def read_text(path: Path) -> str:
    """A UTF-8 file as it is (no line-end translation); ``.gz`` files are unpacked.

    Raises:
        ConfigError: missing, unreadable, broken compression, or not UTF-8.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror or type(e).__name__}); check the path") from e
    except (EOFError, zlib.error) as e:
        raise ConfigError(f"{path}: is named .gz but does not unpack; fetch it again") from e
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise malformed(path, line, f"byte {e.start} is not UTF-8; convert the file to UTF-8") from e


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file, without line ends. Only LF and CRLF end a line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        yield number, line.removesuffix("\r")


def folder_files(path: Path, pattern: str) -> list[Path]:
    """``path`` itself, or the files in it that match, by name; ConfigError when there are none."""
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob(pattern) if p.is_file())
    if not found:
        raise ConfigError(f"{path}: expected a file, or a folder with {pattern} files; found neither")
    return found


def locate(text: str, start: int, words: str) -> tuple[int, int] | None:
    """Span of ``words`` in ``text`` from ``start`` on, trimmed, with white space of any length; None if not there."""
    if words and words == words.strip() and text.startswith(words, start) and start >= 0:
        return start, start + len(words)
    parts = words.split()
    if not parts or not 0 <= start < len(text):
        return None
    match = re.compile(r"\s*(" + r"\s+".join(map(re.escape, parts)) + ")").match(text, start)
    return match.span(1) if match else None


def offset(path: Path, line: int, written: str) -> int:
    """A character offset as written in a file: ASCII digits only."""
    if not (written.isascii() and written.isdigit() and len(written) < 10):
        raise malformed(path, line, "expected a character offset (digits only)")
    return int(written)


def build_document(
    path: Path,
    line: int | None,
    *,
    document_id: str,
    patient_id: str,
    text: str,
    entities: tuple[Entity, ...],
    relations: tuple[Relation, ...] | None,
    title: str | None = None,
) -> Document:
    """A checked document, or a ConfigError that says where it stood."""
    try:
        return Document(
            document_id=document_id,
            patient_id=patient_id,
            text=text,
            entities=entities,
            relations=relations,
            title=title,
        )
    except ValidationError as e:
        raise malformed(path, line, reasons(e)) from None


def reasons(error: ValidationError) -> str:
    """What pydantic found, without the values that it found."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}"
        for e in error.errors(include_input=False, include_url=False)
    )


def _sorted(counts: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType({name: counts[name] for name in sorted(counts) if counts[name]})
