from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from fedsec.data.corpora import (
    CORPORA,
    SPLITS,
    Corpus,
    drop_documents,
    hash_split,
    load_corpus,
    shared_document_ids,
)
from fedsec.data.schema import Document
from fedsec_secure.errors import ConfigError

real = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not name the folder of the real corpora"
    ),
]


def document(document_id: str, patient_id: str) -> Document:
    return Document(document_id=document_id, patient_id=patient_id, text="x")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDSEC_DATA", raising=False)
    with pytest.raises(ConfigError, match="set FEDSEC_DATA"):
        load_corpus("bc5cdr", "train")
    with pytest.raises(ConfigError, match=r"bc5cdr is not there; put the BioCreative"):
        load_corpus("bc5cdr", "train", tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        load_corpus("bc5cdr", "train", tmp_path / "x")
    with pytest.raises(ConfigError, match="no corpus 'x'; there are: bc5cdr"):
        load_corpus("x", "train", tmp_path)
    with pytest.raises(ConfigError, match="no part 'dev'; it has: train, test"):
        load_corpus("e3c-en", "dev", tmp_path)


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ncbi-disease").mkdir()
    (tmp_path / "ncbi-disease" / "NCBItestset_corpus.txt").write_text(
        "1|t|Flu.\n1|a|x\n1\t0\t3\tFlu\tSpecificDisease\tD1\n"
    )
    monkeypatch.setenv("FEDSEC_DATA", str(tmp_path))
    corpus = load_corpus("ncbi-disease", "test")
    assert (corpus.name, corpus.split, corpus.report.entities) == ("ncbi-disease", "test", 1)
    assert corpus.documents[0].relations is None


def test_hash_split_is_what_it_always_was() -> None:
    assert [hash_split(str(n)) for n in range(6)] == ["train", "train", "train", "train", "train", "train"]
    counts = Counter(hash_split(f"doc{n}") for n in range(5000))
    assert [round(counts[s] / 5000, 1) for s in SPLITS] == [0.7, 0.1, 0.2]


def test_shared_publications_leave_training() -> None:
    trains = {"a": [document("1_1", "1"), document("1_2", "1"), document("2_1", "2")], "b": [document("3", "3")]}
    tests = {"a": [document("9", "9")], "b": [document("1", "1")], "c": [document("3", "3")]}
    shared = shared_document_ids(trains, tests)
    assert shared == {"a": frozenset({"1_1", "1_2"}), "b": frozenset({"3"})}
    assert [d.document_id for d in drop_documents(trains["a"], shared["a"])] == ["2_1"]


@pytest.fixture(scope="module")
def corpora() -> dict[tuple[str, str], Corpus]:
    return {(name, split): load_corpus(name, split) for name, info in CORPORA.items() for split in info.splits}


class TestReal:
    pytestmark = real

    # (documents, mentions as counted in the files, relations as counted in the files)
    @pytest.mark.parametrize(
        ("name", "documents", "mentions"),
        [
            ("bc5cdr", (500, 500, 500), (9385, 9591, 9809)),
            ("biored", (400, 100, 100), (13351, 3533, 3535)),
            ("ncbi-disease", (593, 100, 100), (5145, 787, 960)),
            ("phee", (2898, 961, 968), None),
        ],
    )
    def test_counts(
        self,
        corpora: dict[tuple[str, str], Corpus],
        name: str,
        documents: tuple[int, ...],
        mentions: tuple[int, ...] | None,
    ) -> None:
        reports = [corpora[name, split].report for split in SPLITS]
        assert tuple(r.documents + r.left_out.get("documents that stand twice", 0) for r in reports) == documents
        if mentions:
            twice = [r.left_out.get("mentions of documents that stand twice", 0) for r in reports]
            assert tuple(r.entities + t for r, t in zip(reports, twice, strict=True)) == mentions

    def test_bc5cdr(self, corpora: dict[tuple[str, str], Corpus]) -> None:
        for split, chemicals, diseases in (("train", 5203, 4182), ("dev", 5347, 4244), ("test", 5385, 4424)):
            counts = Counter(e.type for d in corpora["bc5cdr", split].documents for e in d.entities)
            assert counts == {"Chemical": chemicals, "Disease": diseases}
        lost = [corpora["bc5cdr", s].report.left_out["relations across sentences"] for s in SPLITS]
        assert lost == [282, 244, 317]

    def test_maccrobat(self, corpora: dict[tuple[str, str], Corpus]) -> None:
        reports = [corpora["maccrobat", split].report for split in SPLITS]
        assert [r.documents for r in reports] == [142, 22, 36]

        def total(reason: str) -> int:
            return sum(r.left_out.get(reason, 0) for r in reports)

        assert sum(r.entities for r in reports) + total("discontinuous mentions") == 25_189
        lost = total("relations of discontinuous mentions") + total("relations that stand twice")
        assert sum(r.relations for r in reports) + lost == 16_307

    def test_phee(self, corpora: dict[tuple[str, str], Corpus]) -> None:
        assert [corpora["phee", s].report.left_out["triggers"] for s in SPLITS] == [2710 + 294, 886 + 117, 889 + 121]
        patients = [{d.patient_id for d in corpora["phee", s].documents} for s in SPLITS]
        assert [len(p) for p in patients] == [1108, 371, 359]
        assert len(set.union(*patients)) == 1108 + 371 + 359

    def test_e3c(self, corpora: dict[tuple[str, str], Corpus]) -> None:
        train, test = (corpora["e3c-en", s] for s in ("train", "test"))
        assert (train.report.documents, test.report.documents) == (36, 48)
        counts = Counter(e.type for c in (train, test) for d in c.documents for e in d.entities)
        links = Counter(r.type.split("-")[0] for c in (train, test) for d in c.documents for r in d.relations or ())
        left_out = train.report + test.report
        assert counts["CLINENTITY"] + sum(left_out.left_out[k] for k in ("discontinuous mentions",)) + 1 == 1024
        assert (counts["EVENT"], counts["BODYPART"], counts["ACTOR"]) == (4885, 968, 682)
        assert (counts["TIMEX3"], counts["RML"]) == (380, 480)
        # 4,350 between events and 502 from time expressions, one of which is from a mention to itself.
        assert links == {"PERTAINS": 541, "TLINK": 4350 + 502 - 1, "ALINK": 114}

    def test_the_registry_names_every_label(self, corpora: dict[tuple[str, str], Corpus]) -> None:
        for name, info in CORPORA.items():
            documents = [d for split in info.splits for d in corpora[name, split].documents]
            assert {e.type for d in documents for e in d.entities} == set(info.entity_types)
            relations = [d.relations for d in documents if d.relations is not None]
            assert (len(relations) == len(documents)) == (info.relation_types is not None)
            assert {r.type for some in relations for r in some} == set(info.relation_types or ())

    def test_shared_publications(self, corpora: dict[tuple[str, str], Corpus]) -> None:
        def publications(name: str, split: str) -> set[str]:
            return {d.patient_id for d in corpora[name, split].documents}

        overlap = [[len(publications("biored", a) & publications("bc5cdr", b)) for b in SPLITS] for a in SPLITS]
        assert overlap == [[41, 44, 53], [10, 6, 16], [10, 11, 13]]
        names = ("bc5cdr", "ncbi-disease", "biored", "phee", "maccrobat")
        trains = {n: corpora[n, "train"].documents for n in names}
        tests = {n: corpora[n, "test"].documents for n in names}
        shared = shared_document_ids(trains, tests)
        assert {n: len(ids) for n, ids in shared.items()} == {
            "bc5cdr": 11,
            "ncbi-disease": 1,
            "biored": 54,
            "phee": 18,
            "maccrobat": 0,
        }
        kept = {n: {d.patient_id for d in drop_documents(trains[n], shared[n])} for n in names}
        tested = {d.patient_id for n in names for d in tests[n]}
        assert not tested & set.union(*kept.values())
