"""The task kind title: from what readers keep of titles to prompts and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.data.corpora import DATA_VARIABLE, data_root, load_corpus
from fedsec.data.readers.jsonl import read_jsonl, write_jsonl
from fedsec.data.readers.pubtator import read_pubtator
from fedsec.data.schema import Document
from fedsec.data.sitedata import check_documents, site_examples
from fedsec.data.templates import flat
from fedsec.data.titles import make_title_prompt, title_examples, title_of
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import TaskSpec
from fedsec.study.corpora import documents_digest
from fedsec.training.batches import encode
from fedsec.training.tiny_model import tiny_tokenizer
from fedsec_secure.errors import ConfigError

TITLES = TaskSpec(kind="title")
PUBTATOR = "7|t|Colic after belvapril.\n7|a|Belvapril was given.\tTwice.\n7\t12\t21\tbelvapril\tChemical\tD1\n"


def document(number: int = 1, title: str | None = "Colic", text: str = "Belvapril was given.") -> Document:
    return Document(document_id=f"n{number}", patient_id=f"p{number}", text=text, title=title)


def test_pubtator_keeps_title_and_abstract_apart(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PUBTATOR)
    (read,) = read_pubtator(tmp_path / "a.txt").documents
    assert read.title == "Colic after belvapril."
    assert read.text.startswith(f"{read.title} Belvapril")
    (example,), counts = title_examples([read])
    assert example.prompt == "Write the title of this text.\nText: Belvapril was given. Twice.\nTitle:\n"
    assert example.answer == "Colic after belvapril."
    assert read.text[example.offset :] == example.text
    assert (example.entities, example.relations, counts.examples) == ((), None, 1)


def test_json_lines_may_have_a_title_and_documents_without_one_read_and_write_as_before(tmp_path: Path) -> None:
    documents = [document(1), document(2, None), document(3, "Belvapril", "Belvapril, given.")]
    write_jsonl(tmp_path / "n.jsonl", documents)
    assert list(read_jsonl(tmp_path / "n.jsonl").documents) == documents
    assert "title" not in documents[1].model_dump_json()
    examples, counts = title_examples(documents)
    assert [(e.text, e.answer) for e in examples] == [("Belvapril was given.", "Colic"), (", given.", "Belvapril")]
    assert counts.documents_without_a_title == 1
    assert check_documents(documents).titles == 2
    for bad in ('""', "3"):
        row = f'{{"document_id": "n", "patient_id": "p", "text": "x", "title": {bad}}}\n'
        (tmp_path / "bad.jsonl").write_text(row)
        with pytest.raises(ConfigError, match=r"bad\.jsonl, line 1: title"):
            read_jsonl(tmp_path / "bad.jsonl")


def test_a_test_sets_digest_holds_titles_where_they_are_asked_for_and_only_there() -> None:
    one, other, none = [document(title="a")], [document(title="b")], [document(title=None)]
    marked = TaskSpec(entity_types=("Drug",))
    assert documents_digest(one, TITLES) != documents_digest(other, TITLES)
    assert documents_digest(one, marked) == documents_digest(none, marked) == documents_digest(none, TITLES)


def test_labels_and_notes_without_titles_are_refused() -> None:
    documents = [document()]
    assert site_examples(documents, DataSection(path="x"), TITLES)[0][0].answer == "Colic"
    with pytest.raises(ConfigError, match="asks for titles and no labels"):
        site_examples(documents, DataSection(path="x", entity_types=("Drug",)), TITLES)
    for without in ([document(title=None)], [document(title=" ")], [document(title="Colic.", text="Colic.  ")]):
        with pytest.raises(ConfigError, match="no note has one beside its text"):
            site_examples(without, DataSection(path="x"), TITLES)
    many = [document(i) for i in range(9)]
    limited = site_examples(many, DataSection(path="x", limit=4), TITLES)[0]
    assert len(limited) == 4
    assert {e.example_id for e in site_examples(many, DataSection(path="x", limit=2), TITLES)[0]} < {
        e.example_id for e in limited
    }


def test_a_long_text_loses_words_at_its_end_and_never_the_title() -> None:
    (example,), _ = title_examples([document(text="word " * 100, title="A title")])
    tokenizer = tiny_tokenizer()
    cut = encode(tokenizer, example, 120)
    assert cut.truncated
    assert len(cut) <= 120
    assert tokenizer.decode(cut.ids[cut.answer_start : -1]) == "A title"
    assert tokenizer.decode(cut.ids[: cut.answer_start]).endswith("word\nTitle:\n")


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@given(texts, texts, st.booleans())
def test_a_perfect_answer_gives_the_title_back_and_the_prompt_quotes_the_text_whole(title, text, begins) -> None:
    one = document(title=title, text=f"{title} {text}" if begins else text)
    start, body = one.body
    assert one.text[start : start + len(body)] == body
    assert not begins or body == f" {text}".strip()
    if not title.strip() or not body:
        return
    (example,), _ = title_examples([one])
    assert title_of(example.answer) == example.answer == flat(title).strip()
    assert "\n" not in example.answer
    assert example.prompt == make_title_prompt(body)
    assert flat(body) in example.prompt
    assert len(example.prompt.split("\n")) == 4


@given(st.text(max_size=80))
def test_any_answer_has_a_title_of_one_line(answer) -> None:
    found = title_of(answer)
    assert "\n" not in found
    assert found == found.strip()
    assert bool(found) == bool(flat(answer).strip())


def test_the_first_line_that_says_something_counts() -> None:
    assert title_of("\n  Colic \nText: more") == "Colic"
    assert title_of(" \n\t\n") == ""


def _corpora() -> Path | None:
    try:
        return data_root()
    except ConfigError:
        return None


@pytest.mark.real_data
@pytest.mark.skipif(_corpora() is None, reason=f"{DATA_VARIABLE} does not name the folder of the real corpora")
@pytest.mark.parametrize(("name", "count"), [("bc5cdr", 500), ("biored", 100), ("ncbi-disease", 100)])
def test_every_abstract_of_the_corpora_has_a_title(name: str, count: int) -> None:
    documents = load_corpus(name, "test").documents
    examples, counts = title_examples(documents)
    assert (len(examples), counts.documents_without_a_title) == (count, 0)
    assert all(e.answer not in e.prompt.split("\n")[1] or len(e.answer) < 60 for e in examples)
    assert json.dumps([e.prompt for e in examples])
