"""`fedsec site adapt`: a hospital that was not in the study, from a finished run's adapter to one of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from fedsec.cli.adapt import FEW_HELD_OUT, doubts
from fedsec.data.readers.jsonl import write_jsonl
from fedsec.data.schema import Document, Entity, Example
from fedsec.data.synthetic import hospital, make_site
from fedsec.evaluation.scores import Interval
from fedsec.plan.toml import write_toml
from fedsec.study import adapt as adapting
from fedsec.study import use
from fedsec.study.adapted import RECORD, Adapted, Unfinished, open_adapted
from fedsec.study.folder import RunFolder
from fedsec.study.local_notes import hold_out, read_notes
from fedsec.study.starting import open_start
from fedsec.study.verify import PinnedSite, Pins
from fedsec.training.adapter import AdapterState, load_peft
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey
from tests.unit.cli.smoke import RUN_ID, finished_run

LABELS = (*("--entity", "Drug", "--entity", "Problem"), *("--relation", "treats", "--relation", "causes"))
QUICK = ("--learning-rate", "0.01", "--epochs", "6")


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(finished_run(), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def documents() -> list[Document]:
    assert hospital("harbour").entity_types == ("Drug", "Problem")
    return make_site("harbour", "train", 40, 4711)


@pytest.fixture
def notes(documents, tmp_path) -> Path:
    write_jsonl(tmp_path / "own.jsonl", documents)
    return tmp_path / "own.jsonl"


def said(result) -> str:
    return " ".join(result.err.replace("│", " ").split())


# ---- what it makes


def test_a_new_hospital_gets_an_adapter_of_its_own_and_sees_that_it_helped(fedsec, run, notes, documents, tmp_path):
    options = ("--records", "12", "--zero-shot", *LABELS, *QUICK)
    done = fedsec("site", "adapt", run, notes, "--out", "own", *options, "--json")
    assert done.code == 0, done.err
    record = done.json["record"]
    plan, before = RunFolder.open(run).plan, load_peft(run / "adapter")
    assert record["origin"] == {
        "plan_sha256": plan.digest().hex(),
        "run": RUN_ID,
        "adapter_sha256": before.digest().hex(),
        "evidence": "run",
        "pinned": False,
        "unverified": None,
    }
    assert record["base_weights_sha256"] == plan.model.weights_sha256
    after = load_peft(tmp_path / "own")
    assert after.digest().hex() == record["adapter_sha256"] != record["origin"]["adapter_sha256"]
    assert after.shapes == before.shapes
    assert (record["records"]["trained"], record["records"]["entity_types"]) == (12, ["Drug", "Problem"])
    assert open_adapted(tmp_path / "own").record.model_dump(mode="json") == record
    assert record["records"]["held_out"] > 0
    losses = {system: said["loss"] for system, said in record["held_out"].items()}
    assert losses["adapted"] < 0.95 * losses["run"]
    assert losses.keys() == {"zero-shot", "run", "adapted"}
    assert set(record["held_out"]["run"]["scores"]) == {
        f"{k} {m}" for k in ("entities", "relations") for m in ("strict", "lenient")
    }
    assert set(record["gains"]) == {"entities", "relations"}
    assert {p.name for p in (tmp_path / "own").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "adapted.json", "plan.json")
    }
    assert not list(tmp_path.glob(".own*")), "nothing of the work is left"
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    text = "".join(p.read_text() for p in (tmp_path / "own").glob("*.json"))
    words = {e.text for d in documents for e in d.entities} | {d.patient_id for d in documents}
    assert not [w for w in words if w in text], "the record holds no note, no mention and no id"


def test_predict_and_peft_take_the_result_as_they_take_a_runs(fedsec, run, notes, tmp_path, monkeypatch):
    assert fedsec("site", "adapt", run, notes, "--out", "own", "--held-out", "0", *LABELS, *QUICK).code == 0
    (tmp_path / "new.jsonl").write_text('{"document_id": "n", "patient_id": "p", "text": "Started kelvamide."}\n')
    assert fedsec("predict", "own", "--in", "new.jsonl", "--out", "read.jsonl", "--quiet").code == 0
    assert json.loads((tmp_path / "read.jsonl").read_text())["text"] == "Started kelvamide."
    asked: list[str] = []
    with monkeypatch.context() as m:
        m.setattr(use, "generate_answers", lambda *args, **_: asked.extend(args[3]) or ["none"] * len(args[3]))
        assert fedsec("predict", "own", "--in", "new.jsonl", "--quiet").code == 0
        assert fedsec("predict", "own", "--in", "new.jsonl", "--quiet", "--ask", "Dose").code == 0
        assert fedsec("predict", run, "--in", "new.jsonl", "--quiet").code == 0
    own, chosen, every = (prompt.split("\n")[0] for prompt in asked)
    assert own == "Extract Drug and Problem entities and treats and causes relations.", (
        "what it was trained on, as its record says"
    )
    assert chosen == "Extract Dose entities."
    assert every.startswith("Extract Drug, Dose, Problem, ")
    refused = fedsec("evaluate", "own", "--corpus", "harbour")
    assert refused.code == 2
    assert "no corpus 'harbour'" in said(refused)
    import peft

    from fedsec.training.tiny_model import tiny_model

    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "own")
    found = peft.get_peft_model_state_dict(loaded)
    assert AdapterState({n: p.numpy() for n, p in found.items()}) == load_peft(tmp_path / "own")


def test_what_is_said_on_the_terminal(fedsec, run, notes):
    done = fedsec("site", "adapt", run, notes, "--out", "own", "--records", "10", *LABELS[:4], "--epochs", "1")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    for part in ("Nothing was sent.", "without differential privacy", "It is made to stay at the site"):
        assert part in text
    assert "the run's adapter" in text
    assert "trained on 10 of" in text
    assert "records of patients that were not trained on" in text
    assert "the notes have relations, and none is trained on" in text
    assert "give those that you compared by phone as --keys" in text


def test_a_site_file_names_labels_and_held_out_notes_itself(fedsec, run, notes, documents, tmp_path):
    write_jsonl(tmp_path / "later.jsonl", make_site("harbour", "test", 8, 5))
    data = {"path": notes.name, "entity_types": ["Drug", "Problem"], "limit": 11}
    value = {"name": "newcomer", "data": data, "test": {"path": "later.jsonl"}}
    from fedsec.plan.sitefile import SiteTemplate
    from fedsec.plan.toml import validate

    (tmp_path / "site.toml").write_text(write_toml(validate(value, SiteTemplate, "x"), "A newcomer"))
    done = fedsec("site", "adapt", run, "site.toml", "--out", "own", "--epochs", "1", "--json")
    assert done.code == 0, done.err
    records = done.json["record"]["records"]
    assert (records["trained"], records["of"], records["held_out"]) == (11, 11, 8)
    refused = fedsec("site", "adapt", run, "site.toml", "--out", "two", *LABELS)
    assert refused.code == 2
    assert "for a bare file" in said(refused)
    shutil.copy(notes, tmp_path / "later.jsonl")
    refused = fedsec("site", "adapt", run, "site.toml", "--out", "two")
    assert refused.code == 2
    assert "stand in [data] and in [test]" in said(refused)


def test_more_records_are_the_same_ones_and_some_more_and_no_patient_is_on_both_sides(run, notes, documents, tmp_path):
    plan = RunFolder.open(run).plan
    few, more = (read_notes(notes, plan, records=n, entity_types=("Drug", "Problem")) for n in (10, 20))
    assert {e.example_id for e in few.train} < {e.example_id for e in more.train}
    assert few.held_out == more.held_out
    assert few.held_out is not None
    assert {e.patient_id for e in more.train}.isdisjoint(e.patient_id for e in few.held_out.examples)
    write_jsonl(tmp_path / "turned.jsonl", documents[::-1])
    turned = read_notes(tmp_path / "turned.jsonl", plan, records=10, entity_types=("Drug", "Problem"))
    assert {e.example_id for e in turned.train} == {e.example_id for e in few.train}
    train, held = hold_out(documents, 0.5)
    patients = {d.patient_id for d in documents}
    assert len({d.patient_id for d in held}) == -(-len(patients) // 2)
    assert {d.document_id for d in (*train, *held)} == {d.document_id for d in documents}
    assert hold_out(documents, 0) == (documents, [])


def one_sentence(number: int, mention: bool = True) -> Document:
    text = f"Patient {number} was given kelvamide." if mention else f"Patient {number} came on foot."
    start = text.find("kelvamide")
    found = (Entity(id="T1", type="Drug", start=start, end=start + 9, text="kelvamide"),) if mention else ()
    return Document(document_id=f"d{number}", patient_id=f"p{number}", text=text, entities=found)


def test_ten_records_are_enough_and_it_says_that_two_held_out_ones_show_nothing(fedsec, run, tmp_path):
    write_jsonl(tmp_path / "ten.jsonl", [one_sentence(n) for n in range(10)])
    done = fedsec("site", "adapt", run, "ten.jsonl", "--out", "own", "--entity", "Drug", "--json")
    assert done.code == 0, done.err
    records = done.json["record"]["records"]
    assert [records[name] for name in ("trained", "of", "held_out", "empty")] == [8, 8, 2, 0]
    (doubt,) = [r for r in done.json["remarks"] if "too few to say" in r]
    assert doubt.startswith("2 held-out records are")
    write_jsonl(tmp_path / "nine.jsonl", [one_sentence(n) for n in range(9)])
    refused = fedsec("site", "adapt", run, "nine.jsonl", "--out", "two", "--entity", "Drug")
    assert refused.code == 2
    assert "expected at least 10 annotated records; found 9" in said(refused)
    refused = fedsec("site", "adapt", run, "ten.jsonl", "--out", "two", "--entity", "Drug", "--held-out", "0.6")
    assert refused.code == 2
    assert "expected at least 5 records to train on; found 4, beside 6 held-out notes" in said(refused)


def test_answers_that_are_mostly_nothing_are_remarked_on(fedsec, run, tmp_path):
    write_jsonl(tmp_path / "bare.jsonl", [one_sentence(n, mention=n < 4) for n in range(12)])
    options = ("--entity", "Drug", "--held-out", "0", "--epochs", "1")
    done = fedsec("site", "adapt", run, "bare.jsonl", "--out", "own", *options)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "note: 8 of 12 answers to train on are that there is nothing" in text
    assert "(6 were left out)" in text
    assert "trained on 6 of 12 records" in text
    assert "nothing was held out: nothing says whether this helped" in text
    records = open_adapted(tmp_path / "own").record.records
    assert (records.trained, records.empty, records.left_out, records.patients) == (6, 8, 6, 6)
    write_jsonl(tmp_path / "none.jsonl", [one_sentence(n, mention=n < 1) for n in range(40)])
    refused = fedsec("site", "adapt", run, "none.jsonl", "--out", "two", *options, "--records", "10")
    assert refused.code == 2
    assert "none of the 10 records to train on holds anything" in said(refused)


@pytest.mark.parametrize(("others", "empty", "kept"), [(4, 6, 2), (12, 8, 6), (12, 6, 6), (65, 35, 32), (1, 9, 1)])
def test_what_holds_nothing_is_at_most_half_as_much_as_what_holds_something(others, empty, kept):
    some = [
        Example(
            example_id=f"e{n}",
            document_id="d",
            patient_id="p",
            text="x",
            offset=0,
            entities=(),
            relations=None,
            prompt="x",
            answer="none" if n < empty else "Drug: x",
        )
        for n in range(others + empty)
    ]
    left = adapting.balanced(some)
    assert [e.answer for e in left] == ["none"] * kept + ["Drug: x"] * others
    assert left == [e for e in some if e in left], "in their order"


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Adapted:
    """Of a real adaptation, to be copied with other figures."""
    out = tmp_path_factory.mktemp("record")
    write_jsonl(out / "own.jsonl", [one_sentence(n) for n in range(10)])
    start = open_start(finished_run())
    local = read_notes(out / "own.jsonl", start.plan, entity_types=("Drug",))
    settings = adapting.Settings(epochs=1)
    return adapting.adapt(start, local, settings, Unfinished.begin(out / "own"), lambda *_: None).record


@pytest.mark.parametrize(
    ("entities", "relations", "expected"),
    [
        ((-0.2, -0.3, -0.1), None, "made it worse on the held-out records (entities score lower): keep"),
        ((-0.1, -0.3, 0.1), None, "did not help on the held-out records (entities score lower): keep"),
        ((0.2, 0.1, 0.3), (-0.1, -0.2, 0.1), "did not help on the held-out records (relations score lower): keep"),
        ((0.1, -0.1, 0.3), (0.0, 0.0, 0.0), "nothing shows that adapting helped"),
        ((0.2, 0.1, 0.3), (0.0, 0.0, 0.0), None),
    ],
)
def test_a_gain_that_is_none_is_said_in_words(record, entities, relations, expected):
    given = {"entities": entities, "relations": relations}
    gains = {
        kind: Interval(difference=ends[0], low=ends[1], high=ends[2], level=0.95, resamples=1000)
        for kind, ends in given.items()
        if ends is not None
    }
    records = record.records.model_copy(update={"held_out": FEW_HELD_OUT})
    found = doubts(record.model_copy(update={"gains": gains, "records": records}), Path("the-run"))
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert expected in found[0]
        assert "`fedsec predict the-run`" in found[0]


def test_where_b_stayed_at_the_sites_it_says_what_the_runs_adapter_is(record):
    words = "the run's adapter answers as the base model does"
    assert not any(words in remark for remark in doubts(record, Path("run")))
    own = record.model_copy(update={"lora": record.lora.model_copy(update={"strategy": "fedsa"})})
    assert any(words in remark for remark in doubts(own, Path("run")))


@pytest.mark.parametrize(("records", "epochs"), [(10, 10), (20, 10), (50, 5), (100, 3), (1000, 2)])
def test_few_records_are_seen_more_often_and_at_a_lower_rate(run, records, epochs):
    plan = RunFolder.open(run).plan
    spec = adapting.training_spec(plan.training, records, adapting.Settings())
    rate = {10: 1e-4, 20: 2e-4}.get(records, 5e-4)
    assert (spec.epochs, spec.learning_rate, spec.examples_per_round) == (epochs, rate, None)
    slow = plan.model_copy(update={"training": plan.training.model_copy(update={"learning_rate": 1e-4})})
    assert adapting.training_spec(slow.training, records, adapting.Settings()).learning_rate == 1e-4


# ---- what it refuses


def adapt(fedsec, run, notes, *more):
    return fedsec("site", "adapt", run, notes, "--out", "own", "--epochs", "1", "--records", "10", *LABELS, *more)


def test_a_run_that_does_not_verify_is_refused_unless_someone_says_why(fedsec, run, notes, tmp_path):
    changed = load_peft(run / "adapter")
    moved = changed.moved(changed, changed.flatten() * 0 + 0.01)
    moved.save_peft(run / "adapter", RunFolder.open(run).plan.model, RunFolder.open(run).plan.lora)
    refused = adapt(fedsec, run, notes)
    assert refused.code == 1
    assert "check 4 of `fedsec verify`" in said(refused)
    assert "adapter_model.safetensors was changed" in said(refused)
    assert not (tmp_path / "own").exists()
    assert adapt(fedsec, run, notes, "--unverified", " ").code == 2
    done = adapt(fedsec, run, notes, "--unverified", "a test of what nobody signed", "--json")
    assert done.code == 0, done.err
    origin = done.json["record"]["origin"]
    assert (origin["evidence"], origin["run"]) == ("none", None)
    assert origin["unverified"] == "a test of what nobody signed"


@pytest.fixture
def bare(run, tmp_path) -> Path:
    """The adapter with plan and certificate, as it may be passed on."""
    (tmp_path / "bare").mkdir()
    for name in ("plan.json", "certificate.json"):
        shutil.copy(run / name, tmp_path / "bare" / name)
    shutil.copytree(run / "adapter", tmp_path / "bare" / "adapter")
    return tmp_path / "bare"


def test_plan_certificate_and_adapter_are_enough_and_it_says_what_that_is_worth(fedsec, run, bare, notes):
    done = adapt(fedsec, bare, notes, "--json")
    assert done.code == 0, done.err
    assert done.json["record"]["origin"]["evidence"] == "certificate"
    assert open_start(bare).run == RUN_ID
    roster = RunFolder.open(run).plan.roster
    sites = {n: PinnedSite(key=s.key, officer=s.officer) for n, s in roster.sites.items()}
    assert open_start(bare, Pins(coordinator=roster.coordinator, sites=sites)).pinned


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("certificate", "there is no certificate.json"),
        ("adapter", "the adapter is not the one that certificate.json names"),
        ("plan", "sign"),
        ("keys", "another coordinator key than the one that you pinned"),
    ],
)
def test_a_certificate_that_is_not_of_this_adapter_is_refused(fedsec, run, bare, notes, tmp_path, change, why):
    more = []
    plan = RunFolder.open(run).plan
    if change == "certificate":
        (bare / "certificate.json").unlink()
    if change == "adapter":
        state = load_peft(bare / "adapter")
        state.moved(state, state.flatten() * 0 + 0.01).save_peft(bare / "adapter", plan.model, plan.lora)
    if change == "plan":
        roster = plan.roster.model_copy(update={"coordinator": SigningKey.generate().public.hex})
        (bare / "plan.json").write_bytes(plan.model_copy(update={"roster": roster}).canonical())
    if change == "keys":
        sites = {n: PinnedSite(key=s.key, officer=s.officer) for n, s in plan.roster.sites.items()}
        pins = Pins(coordinator=SigningKey.generate().public.hex, sites=sites)
        (tmp_path / "pins.toml").write_text(write_toml(pins, "pins"))
        more = ["--keys", tmp_path / "pins.toml"]
    refused = adapt(fedsec, bare, notes, *more)
    assert refused.code == 1
    assert why in said(refused)


def test_another_base_model_is_refused_and_the_right_one_may_lie_elsewhere(fedsec, run, notes, tmp_path):
    from fedsec.training.tiny_model import tiny_model, tiny_tokenizer

    model = tiny_model()
    for name in ("same", "other"):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        next(model.parameters()).data.add_(0.01)
    refused = adapt(fedsec, run, notes, "--base", tmp_path / "other")
    assert refused.code == 1
    assert "this is not the model that the plan names" in said(refused)
    done = adapt(fedsec, run, notes, "--base", tmp_path / "same", "--json")
    assert done.code == 0, done.err
    assert done.json["record"]["base"] == str(tmp_path / "same")
    assert open_adapted(tmp_path / "own").model.base == str(tmp_path / "same")


def test_an_adapter_of_another_shape_is_refused(fedsec, run, notes):
    plan = RunFolder.open(run).plan
    state = load_peft(run / "adapter")
    narrow = AdapterState({n: t[:2] if "lora_A" in n else t[:, :2].copy() for n, t in state.items()})
    narrow.save_peft(run / "adapter", plan.model, plan.lora)
    refused = adapt(fedsec, run, notes, "--unverified", "a narrow one")
    assert refused.code == 2
    assert "not of the plan's shape" in said(refused)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--records", "9"), "expected at least 10 annotated records; found 9"),
        (("--records", "400"), "--records is 400; there are"),
        (("--entity", "Gene"), "types that the study does not have: Gene"),
        ((), "no note here holds Dose, Procedure, Test, Anatomy"),
    ],
)
def test_too_few_records_and_labels_that_do_not_fit_are_refused(fedsec, run, notes, tmp_path, options, why):
    labels = () if options in ((), ("--entity", "Gene")) else LABELS
    refused = fedsec("site", "adapt", run, notes, "--out", "own", *labels, *options)
    assert refused.code == 2
    assert why in said(refused)
    assert not (tmp_path / "own").exists()


def test_notes_of_one_patient_cannot_be_held_out(fedsec, run, documents, tmp_path):
    alone = [d.model_copy(update={"patient_id": "p"}) for d in documents]
    write_jsonl(tmp_path / "own.jsonl", alone)
    refused = adapt(fedsec, run, "own.jsonl")
    assert refused.code == 2
    assert "none would be left to train on" in said(refused)
    assert adapt(fedsec, run, "own.jsonl", "--held-out", "0").code == 0


def test_what_is_there_is_never_overwritten_and_what_was_changed_is_not_used(fedsec, run, notes, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine").write_text("x")
    refused = adapt(fedsec, run, notes)
    assert (refused.code, (tmp_path / "own" / "mine").read_text()) == (2, "x")
    shutil.rmtree(tmp_path / "own")
    assert adapt(fedsec, run, notes, "--held-out", "0").code == 0
    shutil.copy(run / "adapter" / "adapter_model.safetensors", tmp_path / "own" / "adapter_model.safetensors")
    refused = fedsec("predict", "own", "--in", notes)
    assert refused.code == 1
    assert f"is not the one that {RECORD} names" in said(refused)


# ---- killed


def _killed_at(step: int, run: Path, notes: Path, out: Path) -> None:
    """Body of a child process that SIGKILL ends in the middle of training."""
    start = open_start(run)
    local = read_notes(notes, start.plan, records=12, entity_types=("Drug", "Problem"))

    def kill(what: str, done: int, of: int) -> None:
        if (what, done) == ("training", step):
            os.kill(os.getpid(), signal.SIGKILL)

    adapting.adapt(start, local, adapting.Settings(epochs=3), Unfinished.begin(out), kill)


def test_a_killed_adaptation_goes_on_to_the_same_bits(fedsec, run, notes, tmp_path, monkeypatch):
    options = ("--records", "12", "--epochs", "3", *LABELS[:4], "--quiet")
    assert fedsec("site", "adapt", run, notes, "--out", "whole", *options).code == 0
    child = multiprocessing.get_context("spawn").Process(target=_killed_at, args=(7, run, notes, tmp_path / "own"))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "own").exists()
    assert [p.name for p in (tmp_path / ".own.part").iterdir()] == ["checkpoint.safetensors"]
    assert (tmp_path / ".own.part").stat().st_mode & 0o777 == 0o700
    steps, real = [], adapting.train_round

    def watched(*arguments, on_step, **options):
        def seen(step):
            steps.append(step.step)
            on_step(step)

        return real(*arguments, on_step=seen, **options)

    monkeypatch.setattr(adapting, "train_round", watched)
    assert fedsec("site", "adapt", run, notes, "--out", "own", *options).code == 0
    assert steps == [6, 7, 8, 9]
    assert load_peft(tmp_path / "own") == load_peft(tmp_path / "whole")
    first, second = (open_adapted(tmp_path / n).record for n in ("whole", "own"))
    assert first == second
    assert not list(tmp_path.glob(".own*"))


def test_a_site_without_a_plan_is_told_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the plan .*plan\.json"):
        open_start(tmp_path)
