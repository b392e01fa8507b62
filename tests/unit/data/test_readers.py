from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fedsec.data.readers.brat import read_brat
from fedsec.data.readers.e3c import read_e3c
from fedsec.data.readers.jsonl import malformed_rows, read_jsonl, write_jsonl
from fedsec.data.readers.phee import read_phee
from fedsec.data.readers.pubtator import read_pubtator
from fedsec.data.schema import Document
from fedsec_secure.errors import ConfigError

PUBTATOR = """1|t|Alo helps pain.
1|a|Alo and belu gave cough. Pain or cough stopped. Dizzy.
1\t0\t3\tAlo\tChemical\tC1
1\t10\t14\tpain\tDisease\tD1
1\t16\t19\tAlo\tChemical\tC1
1\t24\t28\tbelu\tChemical\tC2
1\t34\t39\tcough\tDisease\tD2
1\t41\t54\tPain or cough\tDisease\tD1|D2\tPain|cough
1\t64\t69\tDizzy\tDisease\tD3
1\tCID\tC1\tD2
1\tCID\tC2\tD3

2|t|Nothing here.
2|a|
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def spans(document: Document) -> list[tuple[str, str]]:
    return [(e.type, e.text) for e in document.entities]


def links(document: Document) -> list[tuple[str, str, str]]:
    text = {e.id: f"{e.start}:{e.text}" for e in document.entities}
    return [(r.type, text[r.head], text[r.tail]) for r in document.relations or ()]


def test_pubtator(tmp_path: Path) -> None:
    reading = read_pubtator(write(tmp_path / "a.txt", PUBTATOR))
    first, second = reading.documents
    assert first.text.startswith("Alo helps pain. Alo and")
    assert links(first) == [("CID", "16:Alo", "34:cough")]
    assert second.relations == ()
    assert dict(reading.report.left_out) == {"relations across sentences": 1}
    assert (reading.report.documents, reading.report.entities, reading.report.relations) == (2, 7, 1)


@pytest.mark.parametrize("name", ["a.PubTator", "a.txt.gz"])
def test_pubtator_crlf_and_gzip(tmp_path: Path, name: str) -> None:
    data = PUBTATOR.replace("\n", "\r\n").encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_pubtator(path).documents == read_pubtator(write(tmp_path / "b", PUBTATOR)).documents


def test_pubtator_without_relations_says_not_annotated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "1|t|Alo.\n1|a|Pain.\n1\t5\t9\tPain\tDisease\tD1\n")
    assert read_pubtator(path).documents[0].relations is None
    assert read_pubtator(path, relations=True).documents[0].relations == ()


def test_pubtator_composites_relate_each_part_and_variants_keep_their_bars(tmp_path: Path) -> None:
    text = (
        "1|t|Alo.\n1|a|Alo gave fits and rash, c.3T.\n1\t5\t8\tAlo\tChemical\tC1\n"
        "1\t14\t27\tfits and rash\tDisease\tD1,D2\n1\t29\t33\tc.3T\tSequenceVariant\tc|SUB|A|3|T\n"
        "1\tAssociation\tC1\tD2\tNovel\n1\tAssociation\tC1\tA\tNo\n1\tAssociation\tc|SUB|A|3|T\tD1\tNo\n"
    )
    reading = read_pubtator(write(tmp_path / "a.txt", text))
    assert links(reading.documents[0]) == [
        ("Association", "5:Alo", "14:fits and rash"),
        ("Association", "29:c.3T", "14:fits and rash"),
    ]
    assert dict(reading.report.left_out) == {"relations whose concept has no mention": 1}


def test_pubtator_a_document_that_stands_twice_is_dropped_and_counted(tmp_path: Path) -> None:
    block = "1|t|Alo.\n1|a|Pain.\n1\t5\t9\tPain\tDisease\tD1\n\n"
    reading = read_pubtator(write(tmp_path / "a.txt", block * 2))
    assert len(reading.documents) == 1
    assert reading.report.left_out["documents that stand twice"] == 1
    with pytest.raises(ConfigError, match=r"line 5: 1 stands in line 1 too, with other content"):
        read_pubtator(write(tmp_path / "a.txt", block + block.replace("D1", "D2")))


def test_pubtator_a_mention_with_loose_white_space_is_mended_and_counted(tmp_path: Path) -> None:
    reading = read_pubtator(write(tmp_path / "a.txt", "1|t|Alo.\n1|a|Pain.\n1\t5\t11\tPain. \tDisease\tD1\n"))
    assert spans(reading.documents[0]) == [("Disease", "Pain.")]
    assert dict(reading.report.mended) == {"mentions whose white space was trimmed": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1\t0\t3\tAlo\tChemical\tC1\n", "line 1: expected PMID"),
        ("1|t|Alo.\n2|a|x\n", "line 2: expected the one abstract line of 1"),
        ("1|t|Alo.\n1|a|x\n1|a|y\n", "line 3: expected the one abstract line"),
        ("1|t|Alo.\n", "line 1: 1 has a title, but no abstract"),
        ("1|t|Alo.\n1|a|x\n1\t0\t3\n", "line 3: expected 6 or 7 tab-separated fields"),
        ("1|t|Alo.\n1|a|x\n2\t0\t3\tAlo\tC\tC1\n", "line 3: expected an annotation of 1"),
        ("1|t|Alo.\n1|a|x\n1\t1\t4\tAlo\tC\tC1\n", "line 3: the mention's text does not stand at 1"),
        ("1|t|Alo.\n1|a|x\n1\t-1\t4\tAlo\tC\tC1\n", "line 3: expected a character offset"),
        ("\n", "holds no abstracts"),
    ],
)
def test_pubtator_malformed(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read_pubtator(write(tmp_path / "a.txt", text))
    assert "a.txt" in str(caught.value)
    assert "Alo" not in str(caught.value)


BRAT_TEXT = "Pain in arm\nand leg. Alo helps."
BRAT = """T1\tSign 0 4\tPain
T2\tPlace 8 11;16 19\tarm leg
T3\tDrug 21 24\tAlo
T4\tSign 0 4\tPain
T5\tPlace 8 11;12 19\tarm and leg
E1\tDrug:T3 Theme:T1
R1\tMODIFY Arg1:E1 Arg2:T1\t
R2\tMODIFY Arg1:T2 Arg2:T1
R3\tMODIFY Arg1:E1 Arg2:T4
*\tOVERLAP E1 T1
A1\tNEG E1
#1\tNotes T1\tsomething
"""


def brat(folder: Path, annotations: str = BRAT) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "n1.txt", BRAT_TEXT)
    write(folder / "n1.ann", annotations)
    return folder


def test_brat(tmp_path: Path) -> None:
    reading = read_brat(brat(tmp_path / "b"))
    document = reading.documents[0]
    assert spans(document) == [("Sign", "Pain"), ("Place", "arm\nand leg"), ("Drug", "Alo")]
    assert links(document) == [("MODIFY", "21:Alo", "0:Pain")]
    assert dict(reading.report.left_out) == {
        "annotators' notes": 1,
        "attributes": 1,
        "discontinuous mentions": 1,
        "equivalences": 1,
        "events' arguments": 1,
        "mentions that stand twice": 1,
        "relations of discontinuous mentions": 1,
        "relations that stand twice": 1,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("T1 Sign 0 4 Pain", "line 1: expected: T1 TAB TYPE START END TAB TEXT"),
        ("T1\tSign 1 5\tPain", "line 1: the text of T1 does not stand at its offsets"),
        ("T1\tSign 0 4\tPain\nT1\tSign 0 4\tPain", "line 2: T1 stands twice"),
        ("E1\tSign:T9", "line 1: points to T9"),
        ("E1\tSign", "line 1: expected: E1 TAB"),
        ("R1\tX Arg1:T1 Arg2:E9", "line 1: names T1"),
        ("T1\tSign 0 4\tPain\nR1\tX Arg1:T1 Arg2:E9", "line 2: names E9"),
        ("R1\tX Arg1:T1", "line 1: expected: R1 TAB"),
        ("X1\tfoo", "line 1: starts with none of"),
        ("T1\tSign 4 5\t ", "line 1: T1 is empty"),
    ],
)
def test_brat_malformed(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_brat(brat(tmp_path / "b", line + "\n"))


def test_brat_files_come_in_pairs(tmp_path: Path) -> None:
    folder = brat(tmp_path / "b")
    write(folder / "n2.ann", "")
    with pytest.raises(ConfigError, match=r"n2\.ann has no \.txt"):
        read_brat(folder)
    (folder / "n2.ann").unlink()
    write(folder / "n2.txt", "x")
    with pytest.raises(ConfigError, match=r"has no n2\.ann beside it"):
        read_brat(folder)
    with pytest.raises(ConfigError, match="found neither"):
        read_brat(tmp_path / "missing")


def phee_row(**changes: object) -> dict[str, object]:
    def span(*pieces: tuple[str, int]) -> dict[str, object]:
        return {"text": [[t for t, _ in pieces]], "start": [[s for _, s in pieces]], "entity_id": ["T1"]}

    event = {
        "event_id": "E1",
        "event_type": "Adverse_event",
        "Trigger": span(("gave", 13)),
        "Subject": {**span(("a boy", 30)), "Disorder": span(("flu", 41))},
        "Treatment": {
            **span(("Alo and belu", 0)),
            "Drug": {"text": [["Alo"], ["belu"]], "start": [[0], [8]], "entity_id": ["T2", "T3"]},
            "Disorder": span(("flu", 41)),
        },
        "Effect": {"text": [["cough"], ["a", "flu"]], "start": [[18], [30, 41]], "entity_id": ["T4", "T5"]},
        "Negated": {**span(("gave", 13)), "value": True},
    }
    row: dict[str, object] = {
        "id": "77_1",
        "context": "Alo and belu gave cough  then a boy with flu.",
        "is_mult_event": False,
        "annotations": [{"events": [event]}],
    }
    return row | changes


def test_phee(tmp_path: Path) -> None:
    reading = read_phee(write(tmp_path / "p.json", json.dumps(phee_row()) + "\n"))
    document = reading.documents[0]
    assert (document.document_id, document.patient_id) == ("77_1", "77")
    assert set(spans(document)) == {
        ("Drug", "Alo"),
        ("Drug", "belu"),
        ("Treatment", "Alo and belu"),
        ("Effect", "cough"),
        ("Subject", "a boy"),
        ("Subject_Disorder", "flu"),
        ("Treatment_Disorder", "flu"),
    }
    assert links(document) == [("Adverse_event", "0:Alo", "18:cough"), ("Adverse_event", "8:belu", "18:cough")]
    assert dict(reading.report.left_out) == {
        "discontinuous mentions": 1,
        "relations of discontinuous mentions": 2,
        "speculated, negated and severity marks": 1,
        "triggers": 1,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1: is not JSON"),
        (json.dumps(phee_row(extra=1)), "extra: Extra inputs"),
        (json.dumps(phee_row(id="x")), "id: String should match"),
        (
            json.dumps(phee_row(context="Other text that is long enough to hold all of it")),
            "does not stand at its start",
        ),
        (json.dumps(phee_row()) + "\n" + json.dumps(phee_row()), "line 2: sentence 77_1 stands twice"),
        ("", "holds no sentences"),
    ],
)
def test_phee_malformed(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read_phee(write(tmp_path / "p.json", line))
    assert "cough" not in str(caught.value)


def xmi(text: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><xmi:XMI xmlns:xmi="http://www.omg.org/XMI" '
        'xmlns:cas="http:///uima/cas.ecore" xmlns:custom="http:///webanno/custom.ecore">'
        f'{body}<cas:Sofa xmi:id="12" sofaString="{text}"/></xmi:XMI>'
    )


def test_e3c(tmp_path: Path) -> None:
    body = (
        '<custom:CLINENTITY xmi:id="1" begin="3" end="7"/>'
        '<custom:CLINENTITY xmi:id="2" begin="3" end="7" discontinuous="DISCONTINUOUS"/>'
        '<custom:EVENT xmi:id="3" begin="8" end="12" TLINK="9"/>'
        '<custom:RML xmi:id="4" begin="13" end="14" PERTAINSTO="7 8"/>'
        '<custom:RMLPERTAINSTOLink xmi:id="7" role="PERTAINS" target="1"/>'
        '<custom:RMLPERTAINSTOLink xmi:id="8" role="PERTAINS" target="2"/>'
        '<custom:EVENTTLINKLink xmi:id="9" role="BEFORE" target="1"/>'
    )
    (tmp_path / "x").mkdir()
    write(tmp_path / "x" / "EN1.xml", xmi("𝒳 pain came 7&#10;.", body))
    reading = read_e3c(tmp_path / "x")
    document = reading.documents[0]
    # UIMA counts UTF-16 units, of which the first letter takes two.
    assert spans(document) == [("CLINENTITY", "pain"), ("EVENT", "came"), ("RML", "7")]
    assert links(document) == [("TLINK-BEFORE", "7:came", "2:pain"), ("PERTAINS-TO", "12:7", "2:pain")]
    assert dict(reading.report.left_out) == {"discontinuous mentions": 1, "relations of discontinuous mentions": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<a>", "not well-formed"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', r"forbidden XML \(EntitiesForbidden\)"),
        ("<a/>", "exactly one Sofa"),
        (xmi("pain", '<custom:EVENT xmi:id="1" begin="0" end="9"/>'), "end is no offset"),
        (xmi("pain", '<custom:EVENT xmi:id="1" begin="0"/>'), "has no end"),
        (xmi("pain", '<custom:EVENT xmi:id="1" begin="2" end="2"/>'), "covers no text"),
        (xmi("pain", '<custom:EVENT xmi:id="1" begin="0" end="4" TLINK="5"/>'), "names link 5"),
        (
            xmi(
                "pain",
                '<custom:EVENT xmi:id="1" begin="0" end="4" TLINK="5"/><custom:EVENTTLINKLink xmi:id="5" target="8"/>',
            ),
            "points to 8",
        ),
    ],
)
def test_e3c_malformed(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_e3c(write(tmp_path / "EN1.xml", content))


GOOD = {
    "document_id": "n1",
    "patient_id": "p1",
    "text": "Alo für pain",
    "entities": [
        {"id": "T1", "type": "Drug", "start": 0, "end": 3, "text": "Alo"},
        {"id": "T2", "type": "Problem", "start": 8, "end": 12},
    ],
    "relations": [{"type": "treats", "head": "T1", "tail": "T2"}],
}


def test_jsonl(tmp_path: Path) -> None:
    bare = {"document_id": "n2", "patient_id": "p1", "text": "x"}
    path = write(tmp_path / "n.jsonl", json.dumps(GOOD) + "\n\n" + json.dumps(bare) + "\r\n")
    first, second = read_jsonl(path).documents
    assert spans(first) == [("Drug", "Alo"), ("Problem", "pain")]
    assert links(first) == [("treats", "0:Alo", "8:pain")]
    assert (second.entities, second.relations) == ((), None)


def without(key: str) -> dict[str, object]:
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "Input should be an object|valid dictionary"),
        (json.dumps(GOOD | {"note": 1}), "note: Extra inputs"),
        (json.dumps(without("patient_id")), "patient_id: Field required"),
        (json.dumps(GOOD | {"text": ""}), "text: String should have at least 1"),
        (json.dumps(GOOD | {"text": "short"}), "entity T1: its text does not stand|does not match the text"),
        (json.dumps(GOOD | {"text": "Alo fur pai"}), "entity T2 .* does not match"),
        (json.dumps(GOOD | {"entities": [{"id": "T1", "type": "D", "start": "0", "end": 3}]}), "valid integer"),
        (json.dumps(GOOD | {"relations": [{"type": "r", "head": "T1", "tail": "T9"}]}), "unknown entity"),
        ('{"document_id": "a", "document_id": "b"}', "same key twice"),
        ("[" * 100_000, "not usable JSON|not JSON"),
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD), "line 2: document_id n1 stands in line 1 too"),
        ("\n", "holds no notes"),
    ],
)
def test_jsonl_malformed(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read_jsonl(write(tmp_path / "n.jsonl", line))
    assert "pain" not in str(caught.value)


def test_jsonl_other_troubles(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_jsonl(tmp_path / "missing.jsonl")
    (tmp_path / "l.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff")
    with pytest.raises(ConfigError, match=r"line 2: byte \d+ is not UTF-8"):
        read_jsonl(tmp_path / "l.jsonl")
    (tmp_path / "z.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match=r"cannot be read|does not unpack"):
        read_jsonl(tmp_path / "z.jsonl.gz")


def test_all_malformed_rows_can_be_listed(tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    path = write(tmp_path / "n.jsonl", f"{good}\n{{\n\n{good}\n{json.dumps(without('text'))}\n")
    found = malformed_rows(path)
    assert [f.split(",")[1].split(":")[0] for f in found] == [" line 2", " line 4", " line 5"]
    assert malformed_rows(write(tmp_path / "good.jsonl", good)) == []
    assert "holds no notes" in malformed_rows(write(tmp_path / "empty.jsonl", "\n"))[0]


def test_jsonl_writing_is_the_same_bytes_and_reads_back(tmp_path: Path) -> None:
    documents = read_jsonl(write(tmp_path / "n.jsonl", json.dumps(GOOD))).documents
    write_jsonl(tmp_path / "a.jsonl", documents)
    write_jsonl(tmp_path / "b.jsonl", documents)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert read_jsonl(tmp_path / "a.jsonl").documents == documents
