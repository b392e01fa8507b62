"""What a published score tells: where its trainings start, controls that have to leak, and audits of broken builds."""

from __future__ import annotations

import pytest

from fedsec.audits import scores
from fedsec.audits.canaries import LEAST_NOISE
from fedsec.audits.crafted import tiny_base
from fedsec.audits.scores import Sites, World, audit, bare, fitted_base, notes, private
from fedsec.training.private.loop import Private
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.score_levels import WORST_LEVEL

SHORT = Sites(trainings=20, steps=1, confidence=0.9999)
"""For scores on held-out notes, which one step of training is enough for."""


@pytest.fixture(scope="module")
def base():
    """The fitted model."""
    return fitted_base()


@pytest.mark.parametrize("changes", [{"trainings": 10}, {"records": 2}, {"validation": 1}, {"held_out": 0}])
def test_numbers_that_no_test_can_use(changes):
    with pytest.raises(ConfigError, match="expected 20 to 10000"):
        Sites(**changes)


def test_noise_that_no_score_has():
    with pytest.raises(ConfigError, match=r"expected a noise multiplier from 0\.125"):
        Sites(score_noise=0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "scores: expected a sampling rate .* found 0.5 and 0: use 0.5 and 20"),
        ({"sampling_rate": 1.5}, "scores: expected a sampling rate .* found 1.5 and 20: use"),
        ({"noise_multiplier": 0.0}, "expected a noise multiplier .* found 0.0 and"),
        ({"records": 900}, "at most 450 units in a step, found 901 at a rate of 0.5: give a site fewer records"),
    ],
)
def test_trainings_that_no_plan_has_are_refused_before_anything_is_trained(changes, said):
    """In words about these options: none of canaries, of which there are none here."""
    with pytest.raises(ConfigError, match=said) as refused:
        Sites(**changes)
    assert "canaries" not in str(refused.value)


def test_as_many_records_as_are_let_pass_are_trained_on(base):
    sites = Sites(records=899, steps=1)
    (_, adapter) = next(World(sites, base).trained(1.0, "private", lambda *_: None))
    assert adapter is not None


def test_notes_of_a_kind_are_always_the_same_and_of_two_kinds_are_not():
    assert notes("site", 3) == notes("site", 3)
    assert {n.text for n in notes("site", 20)}.isdisjoint(n.text for n in notes("kept", 10))


def test_trainings_start_half_way_up_the_scale(base):
    """Unlike those of the model that is not fitted, which states the worst level whatever it is trained on."""
    world, untrained = World(Sites(), base), World(Sites(), tiny_base())
    for examined in (world.asking, world.apart):
        assert 10 < world.level(world.start, examined) < 0.6 * WORST_LEVEL
        assert untrained.level(untrained.start, examined) == WORST_LEVEL


def test_next_to_no_noise_leaks_through_the_private_path_and_would_refute_epsilon_4(base):
    """The control of the private row: without it, a row that holds would say nothing. 28 trainings: with an area of
    0.998, as measured, fewer than one in 1,000 such tests fail.
    """
    sites = Sites(trainings=28)
    levels = bare(World(sites, base))
    control = levels.control("control", 0.05)
    assert control.held, control.got
    refuted = levels.bounded("private", sites.private.event, sites.private.delta, 0.05)
    assert not refuted.held, refuted.got


def test_a_model_beyond_the_scale_is_not_taken_for_a_private_one():
    """Where all levels are the worst, no row holds: neither the control nor what epsilon bounds."""
    world = World(SHORT, tiny_base())
    control = bare(world).control("control", 0.05)
    bounded, *_ = private(world)
    for row in (control, bounded):
        assert not row.held
        assert "20 of 20 levels are at an end of the scale" in row.got


def test_a_noisy_score_is_within_its_epsilon_and_one_without_noise_is_not(base, monkeypatch):
    _, silent, released = private(World(SHORT, base))
    assert silent.held, silent.got
    assert released.held, released.got
    real = scores.noisy_mean
    monkeypatch.setattr(
        scores,
        "noisy_mean",
        lambda losses, score: real(losses, score.model_copy(update={"noise_multiplier": LEAST_NOISE})),
    )
    _, _, released = private(World(SHORT, base))
    assert not released.held, released.got


@pytest.mark.slow
def test_a_score_leaks_without_privacy_and_no_more_than_epsilon_with_it():
    rows = audit(Sites(confidence=0.999))
    for row in rows:
        assert row.held, (row.name, row.got)
    *_, control, asking, silent, released = rows
    assert asking.numbers["area"] < control.numbers["low"]
    assert released.numbers["area"] < silent.numbers["low"]


@pytest.mark.slow
def test_training_with_less_noise_than_is_charged_is_found_out(base, monkeypatch):
    def less(dp):
        return Private(dp.model_copy(update={"noise_multiplier": LEAST_NOISE}))

    monkeypatch.setattr(scores, "Private", less)
    asking, *_ = private(World(Sites(confidence=0.999), base))
    assert not asking.held, asking.got
