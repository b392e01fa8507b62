from __future__ import annotations

import pytest

from fedsec.data.schema import Document, Entity, Relation
from fedsec.data.templates import build_examples, flat, instruction, make_examples
from fedsec.plan.specs import TaskSpec
from fedsec_secure.errors import ConfigError

TEXT = "Belvapril for renal spasm. Rest well. It gave colic."
BOTH = TaskSpec(entity_types=("Drug", "Problem"), relation_types=("treats", "causes"))


def document(relations: tuple[Relation, ...] | None = ()) -> Document:
    def at(identity: str, kind: str, words: str) -> Entity:
        start = TEXT.index(words)
        return Entity(id=identity, type=kind, start=start, end=start + len(words), text=words)

    entities = (at("P", "Problem", "renal spasm"), at("D", "Drug", "Belvapril"), at("C", "Problem", "colic"))
    return Document(document_id="n1", patient_id="p1", text=TEXT, entities=entities, relations=relations)


TREATS = (Relation(type="treats", head="D", tail="P"),)


def test_both() -> None:
    first, second, third = make_examples([document(TREATS)], BOTH, ("Problem", "Drug"), ("treats", "causes"))
    assert first.prompt == (
        "Extract Drug and Problem entities and treats and causes relations.\n"
        "Text: Belvapril for renal spasm.\nEntities and relations:\n"
    )
    assert first.answer == "Belvapril | Drug\nrenal spasm | Problem\nBelvapril -> renal spasm | treats"
    assert second.answer == "none"
    assert third.answer == "colic | Problem"
    assert (first.example_id, third.offset, third.patient_id) == ("n1#0", 38, "p1")


@pytest.mark.parametrize(("relations", "types"), [(None, ("treats",)), ((), None), (TREATS, None), (TREATS, ())])
def test_a_site_without_relation_labels_is_asked_for_entities_only(
    relations: tuple[Relation, ...] | None, types: tuple[str, ...] | None
) -> None:
    example = make_examples([document(relations)], BOTH, ("Drug", "Problem"), types)[0]
    assert example.prompt.startswith("Extract Drug and Problem entities.\n")
    assert "->" not in example.answer
    assert example.relations is None


def test_a_site_is_asked_only_for_what_it_annotates_and_the_rest_is_counted() -> None:
    links = (*TREATS, Relation(type="treats", head="P", tail="C"))
    task = BOTH.model_copy(update={"window": "passage"})
    (example,), counts = build_examples([document(links)], task, ("Problem",), ("treats",))
    assert example.answer == "renal spasm | Problem\ncolic | Problem\nrenal spasm -> colic | treats"
    assert example.prompt.startswith("Extract Problem entities and treats relations.\n")
    assert (counts.entities, counts.entities_of_other_types) == (2, 1)
    assert (counts.relations, counts.relations_of_other_types) == (1, 1)


def test_a_relation_whose_every_link_ends_at_something_else_is_refused_and_not_taught_as_absent() -> None:
    with pytest.raises(ConfigError, match=r"every treats relation .* \(Drug\): name it in entity_types"):
        build_examples([document(TREATS)], BOTH, ("Problem",), ("treats",))
    assert build_examples([document(())], BOTH, ("Problem",), ("treats",))[1].relations == 0


def test_one_relation_type_in_the_study_needs_no_type_in_the_answer() -> None:
    task = TaskSpec(entity_types=("Drug", "Problem"), relation_types=("treats",))
    assert make_examples([document(TREATS)], task, task.entity_types, ("treats",))[0].answer.endswith(
        "Belvapril -> renal spasm"
    )


def test_relations_with_the_mentions_given() -> None:
    task = TaskSpec(kind="relations", entity_types=BOTH.entity_types, relation_types=BOTH.relation_types)
    examples, counts = build_examples([document(TREATS)], task, task.entity_types, ("treats", "causes"))
    assert [e.answer for e in examples] == ["Belvapril -> renal spasm | treats"]
    assert examples[0].prompt == (
        "Extract treats and causes relations.\nText: Belvapril for renal spasm.\n"
        "Entities: Belvapril | Drug; renal spasm | Problem\nRelations:\n"
    )
    assert counts.windows_without_a_pair == 2


def test_an_entities_task_ignores_relations() -> None:
    task = TaskSpec(kind="entities", entity_types=("Drug", "Problem"), relation_types=("treats",))
    assert make_examples([document(TREATS)], task, task.entity_types, ("treats",))[0].relations is None


def test_what_does_not_fit_the_study_is_refused() -> None:
    with pytest.raises(ConfigError, match="entity types that the study does not have: Gene"):
        make_examples([document()], BOTH, ("Gene",), None)
    with pytest.raises(ConfigError, match="relation types that the study does not have: binds"):
        make_examples([document()], BOTH, ("Drug",), ("binds",))
    with pytest.raises(ConfigError, match="no entity type"):
        make_examples([document()], BOTH, (), None)
    task = TaskSpec(kind="relations", entity_types=("Drug",), relation_types=("treats",))
    with pytest.raises(ConfigError, match="annotates none of the study's relation types"):
        make_examples([document()], task, ("Drug",), None)


def test_flat_keeps_offsets() -> None:
    text = "a\r\nb\tc\u2028d\x85e"
    assert flat(text) == "a  b c d e"
    assert len(flat(text)) == len(text)


def test_three_labels_read_as_a_list() -> None:
    assert instruction(("A", "B", "C"), ("r",)) == "Extract A, B and C entities and r relations."
