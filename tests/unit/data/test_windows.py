from __future__ import annotations

import pytest

from fedsec.data.schema import Document, Entity, Relation
from fedsec.data.windows import make_windows, split_sentences


def sentences(text: str) -> list[str]:
    return [text[a:b] for a, b in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("He took 2.5 mg daily. Better now", ["He took 2.5 mg daily.", "Better now"]),
        ("Seen by Dr. Smith today. Well.", ["Seen by Dr. Smith today.", "Well."]),
        ("Given i.v. Morphine e.g. Oral.", ["Given i.v. Morphine e.g. Oral."]),
        ("The answer was no. The patient left.", ["The answer was no.", "The patient left."]),
        ("See No. 5 and p. 7.", ["See No. 5 and p. 7."]),
        ("Hepatitis C. The liver.", ["Hepatitis C.", "The liver."]),
        ("grew E. coli in urine", ["grew E. coli in urine"]),
        ('"Pain." (Severe) it was! 3 days?', ['"Pain."', "(Severe) it was!", "3 days?"]),
        ("- pain\n- cough\n", ["- pain", "- cough"]),
        ("a wrapped\nline here\n\nnew paragraph", ["a wrapped\nline here", "new paragraph"]),
        ("a\r\nb\r\n\r\nc", ["a\r\nb", "c"]),
        ("   ", []),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def entity(text: str, words: str, identity: str, start: int | None = None) -> Entity:
    at = text.index(words) if start is None else start
    return Entity(id=identity, type="X", start=at, end=at + len(words), text=words)


def note(text: str, *words: str, relations: tuple[Relation, ...] | None = None) -> Document:
    entities = tuple(entity(text, w, f"T{i}") for i, w in enumerate(words))
    return Document(document_id="d", patient_id="p", text=text, entities=entities, relations=relations)


def test_offsets_are_those_of_the_window() -> None:
    windows, counts = make_windows(note("First one. Second två.\nThird", "två", "Third"))
    assert [(w.offset, w.text) for w in windows] == [(0, "First one."), (11, "Second två."), (23, "Third")]
    assert [(e.start, e.end) for w in windows for e in w.entities] == [(7, 10), (0, 5)]
    assert (counts.windows, counts.entities, counts.merged_sentences) == (3, 2, 0)


def test_a_mention_across_a_boundary_merges_the_sentences() -> None:
    windows, counts = make_windows(note("Has sp. Nova. Then sp. Two words. End.", "sp. Nova", "sp. Two"))
    assert [w.text for w in windows] == ["Has sp. Nova.", "Then sp. Two words.", "End."]
    assert counts.merged_sentences == 2
    assert counts.entities == 2


def test_a_mention_may_hold_the_white_space_that_trimming_would_take() -> None:
    text = "One.  Two."
    document = Document(
        document_id="d",
        patient_id="p",
        text=text,
        entities=(Entity(id="T", type="X", start=5, end=9, text=" Two"),),
    )
    windows, counts = make_windows(document)
    assert counts.entities == 1
    assert [w.text for w in windows] == ["One.", " Two."]


def test_relations_across_windows_are_counted() -> None:
    near = Relation(type="r", head="T0", tail="T1")
    far = Relation(type="r", head="T0", tail="T2")
    document = note("A1 and B2. C3.", "A1", "B2", "C3", relations=(near, far))
    windows, counts = make_windows(document)
    assert [w.relations for w in windows] == [(near,), ()]
    assert (counts.relations, counts.relations_across_windows) == (1, 1)
    passages, counts = make_windows(document, "passage")
    assert [w.relations for w in passages] == [(near, far)]
    assert counts.relations_across_windows == 0


def test_unannotated_relations_stay_unannotated() -> None:
    windows, counts = make_windows(note("A. B."))
    assert {w.relations for w in windows} == {None}
    assert counts.relations_across_windows == 0


def test_passages_pack_whole_sentences() -> None:
    windows, _ = make_windows(note("Aa bb. Cc dd. Ee ff gg hh ii jj kk. Ll."), "passage", passage_chars=14)
    assert [w.text for w in windows] == ["Aa bb. Cc dd.", "Ee ff gg hh ii jj kk.", "Ll."]
