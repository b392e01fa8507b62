"""A study of titles: from abstracts at three sites to an adapter that writes them, with every command on the way."""

from __future__ import annotations

import json

import pytest

from fedsec.study.folder import RunFolder

WORDS = ("colic", "spasm", "tremor", "fever", "cough", "rash")
PLAN = """
name = "titles"
rounds = 1
model = { base = "tiny-random", dtype = "float32" }
lora = { rank = 2, targets = ["q_proj"] }
task = { kind = "title" }
training = { learning_rate = 1e-2, epochs = 4, batch_size = 2, max_tokens = 120, threads = 1 }
secure = { minimum_cohort = 3, threshold = 3 }
[evaluation]
baselines = ["single"]
max_new_tokens = 12
round_test_limit = 2
[[evaluation.public_tests]]
name = "abstracts"
"""


def pubtator(first: int, count: int) -> str:
    blocks = []
    for number in range(first, first + count):
        word = WORDS[number % len(WORDS)]
        text = f"We gave drug{number} and saw {word}. " + "It went on and on. " * (number % 3)
        blocks.append(f"{number}|t|On {word} after drug{number}\n{number}|a|{text.strip()}\n")
    return "\n".join(blocks)


@pytest.fixture
def sites(tmp_path):
    for place, name in enumerate(("ash", "birch", "cedar")):
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        (folder / "abstracts.txt").write_text(pubtator(100 * (place + 1), 6))
        (folder / "site.toml").write_text(f'name = "{name}"\n[data]\nformat = "pubtator"\npath = "abstracts.txt"\n')
    public = tmp_path / "sites" / "public"
    public.mkdir()
    (public / "abstracts.txt").write_text(pubtator(900, 4))
    (public / "abstracts.toml").write_text('[data]\nformat = "pubtator"\npath = "abstracts.txt"\n')
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "sites"


def said(result) -> str:
    return " ".join((result.out + result.err).replace("│", " ").split())


def test_a_study_of_titles_runs_is_scored_reported_and_used(fedsec, sites, tmp_path):
    checked = fedsec("site", "check", sites / "ash" / "site.toml", "--plan", "plan.toml", "--no-measure", "--json").json
    assert (checked["notes"]["titles"], checked["cost"]["examples"]) == (6, 6)
    done = fedsec("run", "plan.toml", "--sites", sites, "--out", "run", "--init", "--json")
    assert done.code == 0, done.err
    means = done.json["macro_f1"]
    assert set(means) == {"federated", "single:ash", "single:birch", "single:cedar"}
    assert all(set(figures) == {"titles_rouge_l"} for figures in means.values())
    folder = RunFolder.open(tmp_path / "run")
    scores = folder.results().scores["federated"]["abstracts"]
    assert (scores.examples, len(scores.counts)) == (4, 4)
    assert scores.titles.loss > 0
    assert [set(e["f1"]["abstracts"]) for e in folder.events() if e["event"] == "scored"] == [{"titles"}]
    assert fedsec("verify", "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Mean ROUGE-L over the test sets" in page
    assert "ROUGE-L of titles" in page
    assert "titles, as their authors wrote them" in page
    assert "The titles themselves are what is learnt" in page
    assert "F1 of" not in page

    shown = fedsec("resume", "run")
    assert "Titles: ROUGE-L, by test set" in shown.out
    assert "Titles, ROUGE-L, all test sets: federated minus" in shown.out
    assert "ROUGE-L" in fedsec("evaluate", "run", "--corpus", "abstracts").out
    again = fedsec("evaluate", "run", "--corpus", "abstracts", "--json").json
    assert again["titles"] == scores.titles.model_dump()

    note = {"document_id": "n", "patient_id": "p", "text": "We gave drug7 and saw rash.", "title": "not to be seen"}
    (tmp_path / "in.jsonl").write_text(json.dumps(note) + "\n")
    assert fedsec("predict", "run", "--in", "in.jsonl", "--out", "out.jsonl", "--quiet").code == 0
    assert "has no labels to ask for" in " ".join(
        fedsec("predict", "run", "--in", "in.jsonl", "--ask", "Drug").err.split()
    )
    read = json.loads((tmp_path / "out.jsonl").read_text())
    assert read["text"] == note["text"]
    assert read.get("title") != note["title"]

    newcomer = tmp_path / "sites" / "dale"
    newcomer.mkdir()
    (newcomer / "abstracts.txt").write_text(pubtator(400, 15))
    (newcomer / "site.toml").write_text('name = "dale"\n[data]\nformat = "pubtator"\npath = "abstracts.txt"\n')
    own = fedsec("site", "adapt", "run", newcomer / "site.toml", "--out", "own", "--epochs", "2", "--json")
    assert own.code == 0, own.err
    record = own.json["record"]
    assert set(record["held_out"]["adapted"]["scores"]) == {"titles ROUGE-L"}
    assert record["records"]["entity_types"] == []
    assert set(record["gains"]) == {"titles"}


def test_what_is_learnt_is_said_before_anyone_signs(fedsec, sites):
    assert "The titles themselves are what is learnt" in said(fedsec("plan", "check", "plan.toml", "--sites", "3"))
    marked = ("--set", 'task={kind="entities", entity_types=["Drug"]}', "--set", "evaluation.public_tests=[]")
    assert "titles themselves" not in said(fedsec("plan", "check", "plan.toml", "--sites", "3", *marked))


def test_a_draft_of_a_study_of_titles(fedsec, tmp_path):
    assert fedsec("plan", "new", "new.toml", "--sites", "3", "--title").code == 0
    assert 'kind = "title"' in (tmp_path / "new.toml").read_text()
    assert fedsec("plan", "check", "new.toml", "--sites", "3").code == 0
    refused = fedsec("plan", "new", "other.toml", "--sites", "3", "--title", "--entity", "Drug")
    assert refused.code == 2
    assert "--title asks for no labels" in said(refused)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('task={kind="title", entity_types=["Drug"]}', 'kind is "title", which asks for no labels'),
        ('task={kind="entities"}', 'kind is "entities" without entity_types'),
        ('task={kind="entities", entity_types=["Drug"]}', "abstracts without entity_types"),
        ('evaluation.public_tests=[{name="a", entity_types=["Drug"]}]', "a has labels"),
    ],
)
def test_labels_and_titles_do_not_mix_in_a_plan(fedsec, sites, change, why):
    refused = fedsec("plan", "check", "plan.toml", "--set", change)
    assert refused.code == 2
    assert why in said(refused)


def test_a_site_without_titles_or_with_labels_is_told(fedsec, sites):
    site = sites / "ash" / "site.toml"
    before = site.read_text()
    site.write_text(before + 'entity_types = ["Drug"]\n')
    refused = fedsec("run", "plan.toml", "--sites", sites, "--out", "run", "--init")
    assert refused.code == 2
    assert "asks for titles and no labels" in said(refused)
    (sites / "ash" / "n.jsonl").write_text('{"document_id": "n", "patient_id": "p", "text": "x"}\n')
    site.write_text('name = "ash"\n[data]\npath = "n.jsonl"\n')
    refused = fedsec("run", "plan.toml", "--sites", sites, "--out", "other", "--init")
    assert refused.code == 2
    assert "no note has one beside its text" in said(refused)
