"""TOML that people write: read strictly, with errors that say where, and written with its own comments."""

import datetime
import tomllib

import pytest

from fedsec.plan.model import Draft, Plan
from fedsec.plan.policy import Policy, PrivacyBudget
from fedsec.plan.specs import ModelSpec, TaskSpec
from fedsec.plan.toml import override, parse_toml, read_toml, write_toml
from fedsec_secure.errors import ConfigError

MINIMAL = b"""
name = "study"
[model]
base = "tiny-random"
[task]
kind = "entities"
entity_types = ["Drug"]
"""


def parse(extra: bytes = b"", kind=Draft):
    return parse_toml(extra + MINIMAL, kind, "plan.toml")


def test_minimal_draft():
    assert parse() == Draft(
        name="study", model=ModelSpec(base="tiny-random"), task=TaskSpec(kind="entities", entity_types=("Drug",))
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (b"round = 2\n", "plan.toml: round: unknown field; did you mean rounds?"),
        (b'rounds = "2"\n', "plan.toml: rounds: expected a valid integer; found '2'"),
        (b"rounds = 2.0\n", "plan.toml: rounds: expected a valid integer; found 2.0"),
        (b"rounds = 0\n", "plan.toml: rounds: expected greater than or equal to 1; found 0"),
        (b"rounds = 1\nrounds = 2\n", "plan.toml: not TOML"),
        (b"secure.mode = 'masked'\n", "plan.toml: secure.mode: expected 'mask', 'he-mask', 'he' or 'none'"),
        (b"secure.threshhold = 3\n", "plan.toml: secure.threshhold: unknown field; did you mean threshold?"),
        (b"lora.alpha = inf\n", "plan.toml: lora.alpha: expected a finite number"),
        (b"lora.alpha = nan\n", "plan.toml: lora.alpha: expected a finite number"),
        (b"seed = 2026-01-01\n", "plan.toml: found a date without a time zone"),
        (b"\xff", "plan.toml: expected UTF-8"),
        (b"secure.minimum_cohort = 2\n", "plan.toml: secure.minimum_cohort is 2"),
    ],
)
def test_errors_name_file_field_expected_and_found(extra, message):
    with pytest.raises(ConfigError) as e:
        parse(extra)
    assert str(e.value).startswith(message)


def test_a_missing_field_and_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"plan\.toml: task: this field is missing"):
        parse_toml(b'name = "x"\nmodel.base = "y"\n', Draft, "plan.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path / "none.toml", Draft)


def test_many_problems_are_all_counted_and_long_values_are_cut():
    extra = b"".join(b"f%d = 1\n" % i for i in range(12)) + b'seed = "' + b"z" * 500 + b'"\n'
    with pytest.raises(ConfigError) as e:
        parse(extra)
    assert "and 5 more problems" in str(e.value)
    assert "z" * 100 not in str(e.value)


def test_a_deeply_nested_file_is_an_error_and_no_crash():
    with pytest.raises(ConfigError):
        parse(b"seed = " + b"[" * 5000 + b"]" * 5000 + b"\n")


def test_override_takes_the_fields_own_type():
    draft = override(
        parse(),
        [
            "rounds=3",
            "training.learning_rate=1e-3",
            "secure.mode=none",
            "model.base=some/model",
            'lora.targets=["q_proj"]',
            "evaluation.single_test_limit=40",
            "model.weights_sha256=" + "1" * 64,
            "name='quoted'",
        ],
    )
    assert (draft.rounds, draft.training.learning_rate, draft.secure.mode) == (3, 1e-3, "none")
    assert (draft.model.base, draft.lora.targets, draft.name) == ("some/model", ("q_proj",), "quoted")
    assert draft.evaluation.single_test_limit == 40
    assert draft.model.weights_sha256 == "1" * 64


def test_override_applies_all_before_it_checks():
    both = override(parse(), ["weighting.rule=size", "weighting.count_min=5", "weighting.count_max=10"])
    assert both.weighting.count_max == 10
    with pytest.raises(ConfigError, match="count_max"):
        override(parse(), ["weighting.rule=size"])


def test_override_fills_a_table_that_the_draft_does_not_have():
    noisy = ["weighting.private.noise_multiplier=20", "weighting.private.expected_units=40"]
    by_score = ["weighting.rule=influence", "dp.mode=local", "dp.target_epsilon=8", "training.batch_size=1"]
    private = override(parse(), [*by_score, *noisy]).weighting.private
    assert (private.noise_multiplier, private.expected_units) == (20.0, 40)
    with pytest.raises(ConfigError, match="expected_units: this field is missing"):
        override(parse(), noisy[:1])
    with pytest.raises(ConfigError, match="private is no table"):
        override(parse(), ["weighting.private=5", *noisy])


@pytest.mark.parametrize(
    ("assignment", "match"),
    [
        ("rounds", "expected FIELD=VALUE"),
        ("lora.rnk=3", "did you mean rank"),
        ("foo.bar=3", "foo is no table"),
        ("name.x=3", "name is no table"),
        ("rounds=three", "expected a TOML value, as 3.*; found three"),
        ("dp.target_epsilon=", "; found nothing"),
        ("rounds=1\nseed=2", "one value"),
        ("name=Münster", r"name: expected text of the form '\^\[a-z\].*; found 'Münster'"),
        ("rounds=true", "expected a valid integer"),
        ("secure.mode=masked", "expected 'mask'"),
        ("roster.coordinator=aa", "roster is no table"),
    ],
)
def test_override_refuses(assignment, match):
    with pytest.raises(ConfigError, match=match):
        override(parse(), [assignment])


def test_what_is_written_reads_back_the_same_and_explains_itself(world):
    text = write_toml(world.draft, "A study.")
    assert parse_toml(text.encode(), Draft, "x") == world.draft
    assert "# one of: mask, he-mask, he, none" in text
    assert text.startswith("# A study.")
    assert all(len(line) <= 140 for line in text.splitlines())


def test_a_policy_reads_back_with_the_same_digest(world):
    budgets = (PrivacyBudget(unit="patient", max_epsilon=3.0, max_delta=1e-5),)
    policy = world.policy(budgets=budgets, allowed_baselines=("single",))
    text = write_toml(policy, "Policy.")
    assert tomllib.loads(text)["expires"] == datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
    assert parse_toml(text.encode(), Policy, "policy.toml").digest() == policy.digest()


def test_a_roster_cannot_be_slipped_into_a_draft(world):
    with pytest.raises(ConfigError, match="roster: unknown field"):
        parse(b'roster.coordinator = "aa"\n')
    assert "roster" in Plan.model_fields
