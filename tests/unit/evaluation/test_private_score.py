"""A noisy score: its sensitivity to one unit, its noise, and what a unit is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsec.evaluation import loss
from fedsec.evaluation.private_score import MIDDLE, noisy_loss, noisy_mean, unit_losses
from fedsec.plan.specs import DpSpec, LoraSpec, PrivateScore
from fedsec.training.adapter import initial_adapter
from fedsec.training.private import mechanism
from fedsec.training.private.mechanism import GRID
from tests.e2e.federation import Keys, make_plan, tiny_base, tiny_examples

SCORE = PrivateScore(noise_multiplier=5.0, expected_units=10)
LOSS = st.one_of(st.floats(-1e9, 1e9), st.just(math.inf), st.just(math.nan))


@pytest.fixture
def silent(monkeypatch):
    """No noise: what is left is the sum that it is sized for."""
    monkeypatch.setattr(mechanism.DiscreteGaussian, "sample", lambda self, size: np.zeros(size, np.int64))


def test_without_noise_it_is_the_mean_as_if_of_the_plans_number(silent):
    assert noisy_mean([1.0] * 10, SCORE) == pytest.approx(1.0, abs=1e-5)
    assert noisy_mean([1.0] * 5, SCORE) == pytest.approx(MIDDLE - 5 / 10, abs=1e-5)
    assert noisy_mean([], SCORE) == MIDDLE


@given(st.lists(LOSS, max_size=20), LOSS)
def test_one_unit_moves_the_sum_by_the_middle_at_most(losses, one):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanism.DiscreteGaussian, "sample", lambda self, size: np.zeros(size, np.int64))
        moved = abs(noisy_mean([*losses, one], SCORE) - noisy_mean(losses, SCORE)) * SCORE.expected_units
    assert moved <= MIDDLE * (1 + 1 / GRID) + 1e-9


def test_the_noise_is_what_the_event_says():
    drawn = np.array([noisy_mean([1.5] * 10, SCORE) for _ in range(4000)])
    deviation = MIDDLE * SCORE.noise_multiplier / SCORE.expected_units
    assert stats.kstest((drawn - 1.5) / deviation, "norm").pvalue > 1e-6
    assert 0.9 < drawn.std() / deviation < 1.1


@pytest.mark.parametrize(("unit", "units"), [("record", 6), ("patient", 2)])
def test_a_unit_counts_once(silent, unit, units):
    """Six examples of two patients: six losses, or two."""
    keys = Keys.generate(5)
    dp = DpSpec(mode="local", unit=unit, target_epsilon=8.0, sampling_rate=0.5, steps=2)
    plan = make_plan(keys, rule="influence", dp=dp, weighting={"validation": None, "private": SCORE}, strategy="ffa")
    examples = [e.model_copy(update={"patient_id": f"p{i % 2}"}) for i, e in enumerate(tiny_examples("own", 6))]
    base = tiny_base()
    found = noisy_loss(base, initial_adapter(base, plan.lora, 0), examples, plan, SCORE)
    # Untrained, every loss is above 4 nats: each unit adds 2.
    assert found == pytest.approx(MIDDLE + units * MIDDLE / SCORE.expected_units, abs=1e-4)


def test_no_held_out_note_moves_another_s_loss(monkeypatch):
    """Each is computed alone: a note more would be one more row of what the others are computed in."""
    together, plain = [], loss.record_losses
    monkeypatch.setattr(
        loss, "record_losses", lambda base, batch: (together.append(batch.records), plain(base, batch))[1]
    )
    base, lora = tiny_base(), LoraSpec(rank=2, targets=("q_proj",))
    start = initial_adapter(base, lora, 0)
    found = unit_losses(base, start, lora, tiny_examples("own", 6), max_tokens=300, unit="record")
    assert len(found) == 6
    assert together == [1] * 6
