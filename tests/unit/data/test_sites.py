"""Label maps, partitions and a site's data section."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsec.data.labelmap import LabelMap, apply_label_map, load_label_map
from fedsec.data.partition import by_corpus, by_dirichlet, by_patient, main_entity_type
from fedsec.data.readers.jsonl import write_jsonl
from fedsec.data.schema import Document, Entity, Relation
from fedsec.data.sitedata import Lengths, check_documents, load_site_documents, site_examples
from fedsec.data.synthetic import STYLES, make_site
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import TaskSpec
from fedsec_secure.errors import ConfigError

TEXT = "Alo flu gene"


def note(
    number: int = 0, relations: tuple[Relation, ...] | None = (), patient: str | None = None, kind: str = "Chemical"
) -> Document:
    entities = (
        Entity(id="T1", type=kind, start=0, end=3, text="Alo"),
        Entity(id="T2", type="Disease", start=4, end=7, text="flu"),
        Entity(id="T3", type="Effect", start=4, end=7, text="flu"),
        Entity(id="T4", type="Gene", start=8, end=12, text="gene"),
    )
    return Document(
        document_id=f"n{number}", patient_id=patient or f"p{number}", text=TEXT, entities=entities, relations=relations
    )


MAP = """
[entities]
Chemical = "Drug"
Disease = "Problem"
Effect = "Problem"

[relations]
CID = "causes"

[relations.Correlation]
to = "causes"
head = "Drug"
tail = "Problem"
symmetric = true
"""


@pytest.fixture
def label_map(tmp_path: Path) -> LabelMap:
    (tmp_path / "map.toml").write_text(MAP)
    return load_label_map(tmp_path / "map.toml")


def test_a_label_map_renames_and_lists_what_it_drops(label_map: LabelMap) -> None:
    relations = (
        Relation(type="CID", head="T1", tail="T3"),
        Relation(type="CID", head="T1", tail="T2"),
        Relation(type="CID", head="T1", tail="T4"),
        Relation(type="Correlation", head="T2", tail="T1"),
        Relation(type="Correlation", head="T2", tail="T3"),
        Relation(type="Bind", head="T1", tail="T2"),
    )
    (mapped,), report = apply_label_map([note(relations=relations)], label_map)
    assert [(e.id, e.type) for e in mapped.entities] == [("T1", "Drug"), ("T2", "Problem")]
    assert mapped.relations == (Relation(type="causes", head="T1", tail="T2"),)
    assert dict(report.unmapped_entities) == {"Gene": 1}
    assert dict(report.unmapped_relations) == {"Bind": 1}
    assert dict(report.relations_without_mention) == {"CID": 1, "Correlation": 1}
    assert report.merged_entities == 1


def test_a_rule_between_other_types_drops_and_lists() -> None:
    rule = {"to": "causes", "head": "Drug", "tail": "Problem"}
    label_map = LabelMap.model_validate(
        {"entities": {"Chemical": "Drug", "Disease": "Problem"}, "relations": {"Correlation": rule}}
    )
    backwards = note(relations=(Relation(type="Correlation", head="T2", tail="T1"),))
    (mapped,), report = apply_label_map([backwards], label_map)
    assert mapped.relations == ()
    assert dict(report.relations_of_other_types) == {"Correlation": 1}


def test_a_map_without_relations_says_that_none_are_annotated() -> None:
    label_map = LabelMap(entities={"Chemical": "Drug"})
    (mapped,), _ = apply_label_map([note(relations=())], label_map)
    assert mapped.relations is None
    (unannotated,), _ = apply_label_map([note(relations=None)], label_map)
    assert unannotated.relations is None


def test_label_maps_are_strict(tmp_path: Path) -> None:
    for name, text, reason in (
        ("a.toml", "entities = 3", "entities: Input should be"),
        ("b.toml", "[entities", "is not TOML"),
        ("c.json", "{", "is not JSON"),
        ("d.json", '{"entities": {}, "other": 1}', "other: Extra inputs"),
        ("e.toml", '[entities]\nA = "9 x"', "String should match"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=reason):
            load_label_map(tmp_path / name)
    with pytest.raises(ConfigError, match="names no entity type"):
        apply_label_map([], LabelMap(entities={}))


def disjoint(sites: dict[str, list[Document]]) -> bool:
    patients = [{d.patient_id for d in documents} for documents in sites.values()]
    return sum(map(len, patients)) == len(set.union(*patients))


def mixture() -> list[Document]:
    return [
        *(note(i, patient=f"a{i // 2}", kind="Chemical") for i in range(40)),
        *(note(100 + i, patient=f"b{i // 2}", kind="Gene") for i in range(40)),
    ]


def test_by_patient() -> None:
    sites = by_patient(mixture(), ["x", "y", "z"], seed=1)
    assert disjoint(sites)
    assert sum(map(len, sites.values())) == 80
    assert [len({d.patient_id for d in s}) for s in sites.values()] == [14, 13, 13]
    assert by_patient(mixture(), ["x", "y", "z"], seed=1) == sites
    assert by_patient(reversed(mixture()), ["x", "y", "z"], seed=1).keys() == sites.keys()
    assert by_patient(mixture(), ["x", "y", "z"], seed=2) != sites


def test_by_dirichlet_skews_with_a_small_alpha_and_not_with_a_large_one() -> None:
    def shares(alpha: float) -> list[float]:
        sites = by_dirichlet(mixture(), ["x", "y"], alpha=alpha, seed=3, key=lambda d: d.patient_id[0])
        assert disjoint(sites)
        assert sum(map(len, sites.values())) == 80
        return [sum(d.patient_id[0] == "a" for d in s) / len(s) for s in sites.values()]

    assert by_dirichlet(mixture(), ["x", "y"], alpha=1, seed=3) == by_dirichlet(mixture(), ["x", "y"], alpha=1, seed=3)
    assert max(abs(s - 0.5) for s in shares(1000.0)) < 0.1
    assert max(abs(s - 0.5) for s in shares(0.05)) > 0.4


def test_partitions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 patients do not fill 2 sites"):
        by_patient([note()], ["x", "y"], seed=0)
    with pytest.raises(ConfigError, match="distinct names"):
        by_patient(mixture(), ["x", "x"], seed=0)
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        by_dirichlet(mixture(), ["x"], alpha=0, seed=0)
    with pytest.raises(ConfigError, match="raise alpha"):
        by_dirichlet([note(i) for i in range(12)], [f"s{i}" for i in range(12)], alpha=1e-3, seed=0)


def test_by_corpus_gives_a_patient_to_one_site() -> None:
    sites = by_corpus({"b": [note(1), note(2)], "a": [note(2), note(3)]})
    assert [d.document_id for d in sites["b"]] == ["n1"]
    assert disjoint(sites)
    with pytest.raises(ConfigError, match="site b has no documents left"):
        by_corpus({"a": [note(1)], "b": [note(1)]})


def test_main_entity_type() -> None:
    assert main_entity_type(note()) == "Chemical"
    assert main_entity_type(Document(document_id="d", patient_id="p", text="x")) == ""


TASK = TaskSpec(entity_types=("Drug", "Problem"), relation_types=("causes",))


def test_a_data_section_with_a_label_map_and_exclusions(tmp_path: Path) -> None:
    relation = Relation(type="CID", head="T1", tail="T2")
    write_jsonl(tmp_path / "n.jsonl", [note(i, relations=(relation,)) for i in range(5)])
    (tmp_path / "map.toml").write_text(MAP)
    section = DataSection(path="n.jsonl", label_map="map.toml", relation_types=("causes",), exclude_patients="out.txt")
    (tmp_path / "out.txt").write_text("# shared with another hospital\n\np3\np99\n")
    loaded = load_site_documents(section, tmp_path)
    assert (len(loaded.documents), loaded.excluded) == (4, 1)
    assert loaded.label_map is not None
    assert dict(loaded.label_map.unmapped_entities) == {"Gene": 4}
    examples, counts = site_examples(loaded.documents, section, TASK)
    assert examples[0].answer == "Alo | Drug\nflu | Problem\nAlo -> flu"
    assert counts.relations == 4
    (tmp_path / "out.txt").write_text("\n".join(f"p{i}" for i in range(5)))
    with pytest.raises(ConfigError, match="no documents left"):
        load_site_documents(section, tmp_path)
    (tmp_path / "out.txt").unlink()
    with pytest.raises(ConfigError, match=r"out\.txt.*cannot be read"):
        load_site_documents(section, tmp_path)


def test_a_limit_keeps_the_same_examples_from_all_over(tmp_path: Path) -> None:
    documents = make_site("harbour", "train", 200, 0)
    task = TaskSpec(entity_types=("Drug", "Problem"), relation_types=("treats", "causes"))
    section = DataSection(path="x", relation_types=("treats", "causes"), limit=50)
    examples, counts = site_examples(documents, section, task)
    assert (len(examples), counts.examples) == (50, 200)
    everything, _ = site_examples(documents, section.model_copy(update={"limit": None}), task)
    order = [e.example_id for e in everything]
    places = [order.index(e.example_id) for e in examples]
    assert places == sorted(places)
    assert places[0] < 25
    assert places[-1] > 175
    fewer, _ = site_examples(documents, section.model_copy(update={"limit": 20}), task)
    assert {e.example_id for e in fewer} < {e.example_id for e in examples}


def test_relation_types_at_notes_without_relation_labels_are_refused() -> None:
    documents = make_site("northgate", "train", 10, 0)
    section = DataSection(path="x", relation_types=("treats",))
    task = TaskSpec(entity_types=("Drug", "Dose"), relation_types=("treats",))
    with pytest.raises(ConfigError, match="none of its notes is annotated with relations"):
        site_examples(documents, section, task)


def test_silence_counts_as_all_labels_only_where_each_of_them_occurs() -> None:
    documents = make_site("northgate", "train", 10, 0)  # annotates drugs and doses
    task = TaskSpec(kind="entities", entity_types=("Drug", "Dose", "Problem"))
    with pytest.raises(ConfigError, match=r"no note here holds Problem, .* set entity_types"):
        site_examples(documents, DataSection(path="x"), task)
    said = DataSection(path="x", entity_types=("Drug", "Dose"))
    examples, _ = site_examples(documents, said, task)
    assert {e.prompt.split("\n")[0] for e in examples} == {"Extract Drug and Dose entities."}
    looked = DataSection(path="x", entity_types=task.entity_types)
    assert site_examples(documents, looked, task)[0][0].prompt.startswith("Extract Drug, Dose and Problem entities.")
    two = task.model_copy(update={"entity_types": ("Drug", "Dose")})
    assert site_examples(documents, DataSection(path="x"), two)[0] == site_examples(documents, said, two)[0]


@pytest.mark.parametrize("style", STYLES)
def test_synthetic_notes_go_through_a_site_file(tmp_path: Path, style: str) -> None:
    documents = make_site(style, "train", 30, 0)
    write_jsonl(tmp_path / "notes.jsonl", documents)
    loaded = load_site_documents(DataSection(path="notes.jsonl"), tmp_path)
    assert list(loaded.documents) == documents
    assert loaded.report.documents == len(documents)
    assert not loaded.report.left_out


def test_check_documents() -> None:
    class Words:
        def encode(self, text: str) -> list[int]:
            return [0] * len(text.split())

    documents = [note(0, relations=(Relation(type="CID", head="T1", tail="T2"),)), note(1, None), note(1, None)]
    check = check_documents(documents, Words())
    assert (check.documents, check.patients, check.sentences) == (3, 2, 3)
    assert dict(check.entities) == {"Chemical": 3, "Disease": 3, "Effect": 3, "Gene": 3}
    assert check.relations is not None
    assert dict(check.relations) == {"CID": 1}
    assert check.documents_without_relation_labels == 2
    assert (check.duplicate_document_ids, check.duplicate_texts) == (1, 2)
    assert check.sentence_tokens == Lengths(3, 3, 3, 3)
    assert check_documents([note(1, None)]).relations is None


def test_lengths() -> None:
    assert Lengths.of([]) == Lengths(0, 0, 0, 0)
    assert Lengths.of(list(range(101))) == Lengths(0, 50, 95, 100)
    assert Lengths.of([7]) == Lengths(7, 7, 7, 7)
