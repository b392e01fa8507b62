"""JSON lines: what is written reads back, and arbitrary bytes give documents or a ConfigError, never anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from fedsec.data.readers.common import Reading
from fedsec.data.readers.jsonl import read_jsonl, write_jsonl
from fedsec.data.readers.pubtator import read_pubtator
from fedsec.data.schema import Document, Entity, Relation
from fedsec_secure.errors import ConfigError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    result = []
    for number in range(draw(st.integers(1, 3))):
        text = draw(texts)
        entities = []
        for index in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(text) - 1))
            end = draw(st.integers(start + 1, len(text)))
            entities.append(Entity(id=f"T{index}", type="X", start=start, end=end, text=text[start:end]))
        links = [Relation(type="r", head=a.id, tail=b.id) for a in entities for b in entities if a != b]
        relations = draw(st.none() | st.just(tuple(links)))
        result.append(
            Document(
                document_id=f"n{number}",
                patient_id=draw(texts),
                text=text,
                entities=tuple(entities),
                relations=relations,
                title=draw(st.none() | texts),
            )
        )
    return result


@given(documents())
def test_write_then_read(notes: list[Document]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "n.jsonl"
        write_jsonl(path, notes)
        assert list(read_jsonl(path).documents) == notes


def outcome(reader: Callable[[Path], Reading], path: Path) -> str | None:
    """None where there are documents, else the refusal."""
    try:
        return None if reader(path).documents else "no documents and no error"
    except ConfigError as e:
        return str(e)


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | st.lists(st.sampled_from(["1|t|A b", "1|a|c", "1\t0\t1\tA\tX\tY", "1\tR\tY\tY", "2|t|x", "{}", "\n", "\t"]))
    .map("\n".join)
    .map(str.encode)
)
def test_arbitrary_files_are_read_or_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "n"
        path.write_bytes(data)
        for reader in (read_jsonl, read_pubtator):
            said = outcome(reader, path)
            assert said is None or str(path) in said
