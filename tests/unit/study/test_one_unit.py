"""What epsilon takes for granted of everything before the coins: one unit's notes decide about that unit alone."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.canaries import draw_canaries, planted
from fedsec.data.readers.jsonl import write_jsonl
from fedsec.data.schema import Document, Entity
from fedsec.data.sitedata import site_examples
from fedsec.data.synthetic import make_site
from fedsec.plan.sitefile import DataSection, Site, SiteFile
from fedsec.plan.specs import CanarySpec, DpSpec, PrivateScore
from fedsec.study import one_site
from fedsec.study.corpora import load_held_out, load_training, require_units
from fedsec.training.private.loop import drawn_units, units_of
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import Keys, make_plan

KEYS = Keys.generate(5)
OFFICER = SigningKey.generate().public.hex
DRUGS = ("Drug",)
LIMITED = r"expected none, .* cut the file of notes itself, .* dp\.max_records"


def plan_of(**dp):
    private = {"mode": "local", "target_epsilon": 8.0, "sampling_rate": 0.5, "steps": 2, **dp}
    score = {"validation": None, "private": PrivateScore(noise_multiplier=9.0, expected_units=5)}
    return make_plan(KEYS, rule="influence", strategy="ffa", dp=DpSpec(**private), weighting=score)


def site_of(folder: Path, documents, limit: int | None = None) -> Site:
    """A site that trains on the documents, and holds out the same."""
    write_jsonl(folder / "notes.jsonl", documents)
    section = DataSection(path="notes.jsonl", entity_types=DRUGS, limit=limit)
    return Site(SiteFile(name="ward", officer=OFFICER, data=section, test=section), folder)


@st.composite
def notes(draw, most: int) -> list[Document]:
    """Notes of up to ``most`` sentences each, of few patients in any order."""
    shapes = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, most)), min_size=2, max_size=12))
    found = []
    for number, (patient, sentences) in enumerate(shapes):
        text = " ".join(f"Took drug{number}x{i} for pain." for i in range(sentences))
        start = text.index("drug")
        mention = Entity(id="T1", type="Drug", start=start, end=start + 5, text=text[start : start + 5])
        found.append(Document(document_id=f"d{number}", patient_id=f"p{patient}", text=text, entities=(mention,)))
    return found


def contents(examples, units) -> Counter:
    """What the coins of a step are thrown for, whatever its place."""
    return Counter(tuple(examples[i].model_dump_json() for i in unit) for unit in units)


def units_from(documents, plan, limit: int | None = None) -> tuple[Counter, Counter]:
    """From the file to the units that are drawn, and to those that are scored."""
    with tempfile.TemporaryDirectory() as folder:
        site = site_of(Path(folder), documents, limit)
        trained, scored = load_training(site, plan), load_held_out(site, plan)
    return contents(trained, drawn_units(trained, plan.dp)), contents(scored, units_of(scored, plan.dp.unit))


CASES = [("record", "unit", 1), ("patient", "unit", 1), ("patient", "unit", 3), ("patient", "record", 1)]
CASES += [("patient", "record", 3)]
PLANS = {case: plan_of(unit=case[0], sampling=case[1], max_records=case[2]) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@settings(deadline=None)
@given(data=st.data(), limit=st.none() | st.integers(1, 12))
def test_who_leaves_takes_their_own_units_and_changes_no_other(case, data, limit):
    plan, unit = PLANS[case], case[0]
    whole = data.draw(notes(1 if unit == "record" else 4))
    one = data.draw(st.sampled_from(whole))
    rest = [d for d in whole if (d is not one if unit == "record" else d.patient_id != one.patient_id)]
    if not rest:
        return
    if limit is not None:
        with pytest.raises(ConfigError, match=LIMITED):
            units_from(whole, plan, limit)
        return
    before, after = units_from(whole, plan), units_from(rest, plan)
    alone = units_from([d for d in whole if d not in rest], plan)
    assert before == (after[0] + alone[0], after[1] + alone[1])
    trained, scored = alone
    assert scored.total() == 1
    assert trained.total() <= (case[2] if case[1] == "record" else 1)


@pytest.mark.parametrize("sampling", ["unit", "record"])
def test_a_patient_by_a_canarys_name_leaves_with_a_unit_of_their_own(sampling):
    """Taken for one patient with a canary they would be exchanged for it, which costs more than to be there or not."""
    plan, spec = plan_of(unit="patient", sampling=sampling, max_records=1), CanarySpec(per_site=2, repeats=2)
    canaries = planted(draw_canaries(spec, SecretBytes(bytes(32)), plan.digest()), spec)
    theirs = [
        example.model_copy(update={"patient_id": f"canary-{number}", "example_id": f"n{number}"})
        for number, example in enumerate(canaries)
    ]
    for gone in range(len(theirs) + 1):
        trained = [*theirs[gone:], *canaries]
        assert len(drawn_units(trained, plan.dp)) == len(theirs) - gone + spec.per_site


def test_under_a_limit_one_patient_decides_about_others():
    """The fact behind the refusals."""
    documents = make_site("harbour", "train", 60, 0)
    section = DataSection(path="x", entity_types=("Drug", "Problem"), limit=20)
    task = plan_of().task

    def kept(some) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for example in site_examples(some, section, task)[0]:
            found.setdefault(example.patient_id, set()).add(example.example_id)
        return found

    whole = kept(documents)
    changed = []
    for patient in whole:
        less = kept([d for d in documents if d.patient_id != patient])
        changed.append(sum(whole.get(p) != less.get(p) for p in whole.keys() | less.keys()))
    assert max(changed) > 1


# ---- where it is refused


def test_a_limit_is_refused_where_its_section_is_private_and_nowhere_else(tmp_path):
    (tmp_path / "one").mkdir()
    documents = make_site("harbour", "train", 20, 0)
    site, plain, scored = site_of(tmp_path / "one", documents, 3), make_plan(KEYS), plan_of()
    assert len(load_training(site, plain)) == 3
    unscored = make_plan(KEYS, dp=scored.dp)
    held = site.file.model_copy(update={"data": site.file.data.model_copy(update={"limit": None})})
    require_units(held, unscored)  # nothing of the held-out notes leaves the site
    with pytest.raises(ConfigError, match=rf"\[test\] sets limit.*{LIMITED}"):
        require_units(held, scored)
    mine = held.test.model_copy(update={"limit": None, "format": "brat"})
    with pytest.raises(ConfigError, match=r"\[test\] has format brat, which does not say whose a note is"):
        require_units(held.model_copy(update={"test": mine}), scored)
    require_units(held.model_copy(update={"test": mine.model_copy(update={"one_patient_each": True})}), scored)
    for load in (load_training, load_held_out):
        with pytest.raises(ConfigError, match=rf"site ward: \[data\] sets limit.*{LIMITED}"):
            load(site, scored)


def test_a_site_that_joins_is_refused_before_its_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(one_site, "authorise_site", lambda *_: b"")
    monkeypatch.setattr(one_site, "read_toml", lambda *_: None)
    monkeypatch.setattr(one_site, "load_base", lambda _: pytest.fail("the base model was loaded"))
    site = site_of(tmp_path, make_site("harbour", "train", 20, 0), 3)
    with pytest.raises(ConfigError, match=LIMITED):
        one_site.open_one_site(site, plan_of(), None, lambda _: None, None)


def test_a_canarys_prompt_is_in_no_name_that_messages_have():
    """It is a secret of the site, and an example that does not fit is named in an error."""
    spec = CanarySpec(per_site=2)
    for example in planted(draw_canaries(spec, SecretBytes(bytes(32)), bytes(32)), spec):
        assert example.prompt in example.patient_id
        assert example.prompt not in example.example_id + example.document_id
