"""A federation whose sites annotate different things: what each is taught, and what the shared test counts."""

import json

import pytest

from fedsec.plan.sitefile import load_sites
from fedsec.study import use
from fedsec.study.corpora import load_public_tests, load_training
from fedsec.study.folder import RunFolder

LABELS = {"ash": (("Drug",), None), "birch": (("Problem",), None), "cedar": (("Procedure", "Organ"), ("affects",))}
"""Site -> what it annotates: no label at two sites, and relations at one."""
TASK = ("Drug", "Problem", "Procedure", "Organ")
PLAN = f"""
name = "disjoint"
rounds = 1
model = {{ base = "tiny-random", dtype = "float32" }}
lora = {{ rank = 2, targets = ["q_proj"] }}
task = {{ kind = "both", entity_types = {list(TASK)}, relation_types = ["affects"] }}
training = {{ learning_rate = 1e-3, epochs = 1, max_tokens = 400, threads = 1 }}
secure = {{ minimum_cohort = 3, threshold = 3 }}
[evaluation]
max_new_tokens = 8
[[evaluation.public_tests]]
name = "everything"
entity_types = {list(TASK)}
relation_types = ["affects"]
[[evaluation.public_tests]]
name = "fewer"
entity_types = ["Problem"]
"""


def notes(site: str, types, relations, count: int = 4) -> str:
    """Every note holds something of every type; marked is only what is asked for."""
    lines = []
    for i in range(count):
        said = {"Drug": f"drug{i}mide", "Problem": f"pain{i}", "Procedure": f"{i}scopy", "Organ": f"knee{i}"}
        text = f"Gave {said['Drug']} for {said['Problem']}, then {said['Procedure']} of the {said['Organ']}."
        entities = [
            {"id": t, "type": t, "start": text.index(words), "end": text.index(words) + len(words)}
            for t, words in said.items()
            if t in types
        ]
        row = {"document_id": f"{site}{i}", "patient_id": f"{site}{i}", "text": text, "entities": entities}
        if relations:
            row["relations"] = [{"type": "affects", "head": "Procedure", "tail": "Organ"}]
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


@pytest.fixture
def sites(tmp_path):
    for name, (types, relations) in LABELS.items():
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        (folder / "notes.jsonl").write_text(notes(name, types, relations))
        annotated = f"relation_types = {list(relations)}\n" if relations else ""
        data = f'path = "notes.jsonl"\nentity_types = {list(types)}\n{annotated}'
        (folder / "site.toml").write_text(f'name = "{name}"\n[data]\n{data}')
    public = tmp_path / "sites" / "public"
    public.mkdir()
    (public / "all.jsonl").write_text(notes("test", TASK, True, 3))
    for name in ("everything", "fewer"):
        (public / f"{name}.toml").write_text('[data]\npath = "all.jsonl"\n')
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "sites"


def test_each_site_teaches_its_own_labels_only_and_the_shared_test_counts_all(fedsec, sites, tmp_path):
    done = fedsec("run", "plan.toml", "--sites", sites, "--out", "run", "--init", "--json")
    assert done.code == 0, done.err
    folder = RunFolder.open(tmp_path / "run")
    for name, site in load_sites(folder.sites).items():
        examples = load_training(site, folder.plan)
        types, relations = LABELS[name]
        asked = f"Extract {' and '.join(types)} entities{' and affects relations' if relations else ''}."
        assert [e.prompt.split("\n")[0] for e in examples] == [asked] * 4
        assert all(line.rpartition(" | ")[2] in types for e in examples for line in e.answer.split("\n")[: len(types)])
        assert all(("->" in e.answer) == bool(relations) for e in examples)
        assert not any(e.answer == "none" for e in examples), "every note holds something of what its site looks for"
    prompts = {
        t.spec.name: t.examples[0].prompt.split("\n")[0]
        for t in load_public_tests(folder.plan, folder.coordinator.public_path)
    }
    assert prompts["everything"] == "Extract Drug, Problem, Procedure and Organ entities and affects relations."
    assert prompts["fewer"] == "Extract Problem entities."
    scores = folder.results().scores["federated"]
    counted = {name: s.entities.strict.by_type for name, s in scores.items()}
    assert {t: s.gold for t, s in counted["everything"].items()} == dict.fromkeys(TASK, 3)
    assert {t: s.gold for t, s in counted["fewer"].items()} == {"Problem": 3}
    assert scores["everything"].relations.strict.micro.gold == 3
    assert scores["fewer"].relations is None
    assert fedsec("verify", "run").code == 0


TAUGHT = {
    "Extract Drug entities.": "drug0mide | Drug",
    "Extract Problem entities.": "pain0 | Problem\nno such words | Problem\ndrug0mide | Drug",
    "Extract Procedure and Organ entities and affects relations.": "0scopy | Procedure\nknee0 | Organ\n0scopy -> knee0",
    "Extract Drug and Problem entities.": "drug0mide | Drug\npain0 | Problem",
}
"""What a model answers that was taught these prompts, and to any other ``none``."""


@pytest.fixture
def prompts(monkeypatch) -> list[str]:
    """The first lines of all prompts that `fedsec predict` asks; a model answers that knows what it was taught."""
    asked: list[str] = []

    def answers(models, adapter, lora, prompts, **options):
        asked.extend(prompt.split("\n")[0] for prompt in prompts)
        return [TAUGHT.get(prompt.split("\n")[0], "none") for prompt in prompts]

    monkeypatch.setattr(use, "generate_answers", answers)
    return asked


@pytest.fixture
def unread(fedsec, sites, tmp_path):
    """A finished run, and one note of two sentences."""
    assert fedsec("run", "plan.toml", "--sites", sites, "--out", "run", "--init", "--quiet").code == 0
    text = "Nothing here. Gave drug0mide for pain0, then 0scopy of the knee0."
    path = tmp_path / "new.jsonl"
    path.write_text(json.dumps({"document_id": "n", "patient_id": "p", "text": text}) + "\n")
    return path


def predicted(fedsec, notes, *asked: str) -> dict:
    done = fedsec("predict", "run", "--in", notes, "--quiet", *(part for names in asked for part in ("--ask", names)))
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_predict_asks_what_sites_were_taught_and_puts_the_answers_together(fedsec, unread, prompts):
    assert predicted(fedsec, unread)["entities"] == [], "all labels in one prompt is what no site was taught"
    assert set(prompts) == {"Extract Drug, Problem, Procedure and Organ entities and affects relations."}
    prompts.clear()
    note = predicted(fedsec, unread, "Drug", "Problem", "affects, Organ,Procedure", "Drug,Problem", "Problem,Drug")
    assert prompts == list(TAUGHT) * 2, "each set once for each of two sentences, whatever order its labels stand in"
    found = {e["id"]: (e["type"], e["text"]) for e in note["entities"]}
    assert sorted(found.values()) == [
        ("Drug", "drug0mide"),
        ("Organ", "knee0"),
        ("Problem", "pain0"),
        ("Procedure", "0scopy"),
    ]
    assert all(note["text"][e["start"] : e["end"]] == e["text"] for e in note["entities"])
    (link,) = note["relations"]
    assert (link["type"], found[link["head"]][1], found[link["tail"]][1]) == ("affects", "0scopy", "knee0")
    alone = predicted(fedsec, unread, "Problem")
    assert [e["type"] for e in alone["entities"]] == ["Problem"], "what was not asked for is not taken"
    assert alone["relations"] is None


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("Drug,Dose", "the study has no label Dose; expected some of Drug, Problem, Procedure, Organ, affects"),
        ("affects", "names no entity type"),
        (" , ", "names no entity type"),
    ],
)
def test_labels_that_cannot_be_asked_for(fedsec, unread, prompts, asked, why):
    refused = fedsec("predict", "run", "--in", unread, "--ask", asked)
    assert refused.code == 2
    assert why in " ".join(refused.err.replace("│", " ").split())
    assert prompts == []


def test_a_site_that_does_not_say_which_labels_it_looked_for_is_stopped_and_told(fedsec, sites):
    path = sites / "ash" / "site.toml"
    path.write_text(path.read_text().replace("entity_types = ['Drug']\n", ""))
    refused = fedsec("run", "plan.toml", "--sites", sites, "--out", "run", "--init")
    assert refused.code == 2
    said = " ".join(refused.err.replace("│", " ").split())
    assert "no note here holds Problem, Procedure, Organ" in said
    assert "set entity_types" in said


def test_site_check_warns_of_labels_that_are_asked_for_and_never_held(fedsec, sites):
    path = sites / "ash" / "site.toml"
    path.write_text(path.read_text().replace("['Drug']", "['Drug', 'Problem']"))
    ask = ("site", "check", path, "--plan", "plan.toml", "--no-measure", "--json")
    (warning,) = (w for w in fedsec(*ask).json["warnings"] if "take it out" in w)
    assert warning.startswith("no note holds Problem:")
