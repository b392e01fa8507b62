"""A site's held-out notes, where a plan scores on them."""

from __future__ import annotations

import json

import pytest

from fedsec.plan.sitefile import DataSection, Site, SiteFile
from fedsec.plan.specs import PrivateScore, WeightingSpec
from fedsec.study.corpora import load_held_out, load_training, require_units
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey
from tests.e2e.federation import Keys, make_plan

SCORE = WeightingSpec(rule="influence", private=PrivateScore(noise_multiplier=9.0, expected_units=5))
NOTE = json.dumps(
    {
        "document_id": "d1",
        "patient_id": "p1",
        "text": "Took drug7 for pain.",
        "entities": [{"id": "T1", "type": "Drug", "start": 5, "end": 10}],
    }
)


def site(folder, test: bool) -> Site:
    (folder / "held.jsonl").write_text(NOTE + "\n", encoding="utf-8")
    section = DataSection(path="held.jsonl", entity_types=("Drug",))
    officer = SigningKey.generate().public.hex
    return Site(SiteFile(name="ward", officer=officer, data=section, test=section if test else None), folder)


def test_they_are_read_where_the_plan_scores_on_them(tmp_path):
    plan = make_plan(Keys.generate(5))
    assert load_held_out(site(tmp_path, True), plan) == []
    noisy = plan.model_copy(update={"weighting": SCORE})
    (found,) = load_held_out(site(tmp_path, True), noisy)
    assert found.text == "Took drug7 for pain."
    with pytest.raises(ConfigError, match=r"expected a \[test\] section"):
        load_held_out(site(tmp_path, False), noisy)
    with pytest.raises(ConfigError, match=r"site ward: .* expected a \[test\] section"):
        require_units(site(tmp_path, False).file, noisy)  # before anything of a run is made


def test_what_is_wrong_with_them_is_said_of_a_site_and_a_section(tmp_path):
    noisy = make_plan(Keys.generate(5)).model_copy(update={"weighting": SCORE})
    found = site(tmp_path, True)
    silent = found.file.test.model_copy(update={"entity_types": None})
    wrong = Site(found.file.model_copy(update={"test": silent}), tmp_path)
    with pytest.raises(ConfigError, match=r"^site ward, \[test\]: no note here holds"):
        load_held_out(wrong, noisy)
    wrong = Site(found.file.model_copy(update={"data": silent}), tmp_path)
    with pytest.raises(ConfigError, match=r"^site ward, \[data\]: no note here holds"):
        load_training(wrong, noisy)
