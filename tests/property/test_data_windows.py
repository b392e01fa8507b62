"""Windows: offsets hold, no mention is lost, sentences cover the text."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fedsec.data.schema import Document, Entity
from fedsec.data.windows import make_windows, split_sentences

texts = st.lists(
    st.sampled_from(["pain", "Pain", ". ", ".", " ", "\n", "\n\n", "\r\n", "Dr.", "2.5", "?", "é", "𝒳"]), min_size=1
).map("".join)


@st.composite
def notes(draw: st.DrawFn) -> Document:
    text = draw(texts)
    entities = []
    for number in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, min(len(text), start + 12)))
        entities.append(Entity(id=f"T{number}", type="X", start=start, end=end, text=text[start:end]))
    return Document(document_id="d", patient_id="p", text=text, entities=tuple(entities))


@given(texts)
def test_sentences_hold_all_but_white_space_in_order(text: str) -> None:
    spans = split_sentences(text)
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert all(a < b for a, b in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


@given(notes(), st.sampled_from(["sentence", "passage"]), st.integers(1, 60))
def test_no_mention_is_lost_and_offsets_hold(document: Document, kind: str, longest: int) -> None:
    windows, counts = make_windows(document, kind, longest)  # type: ignore[arg-type]
    back = []
    for w in windows:
        assert document.text[w.offset : w.offset + len(w.text)] == w.text
        for e in w.entities:
            assert w.text[e.start : e.end] == e.text
            back.append((e.id, e.start + w.offset, e.end + w.offset))
    assert sorted(back) == sorted((e.id, e.start, e.end) for e in document.entities)
    assert counts.entities == len(document.entities)
