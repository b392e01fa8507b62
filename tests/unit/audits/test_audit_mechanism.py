"""The audit of a step on this build, which nothing may refute.

No test here fails on a correct build with a probability of 10^-6 or more: bounds on epsilon are asked for with a
confidence of 1 - 5 * 10^-7, and the exact tests, at most nine rows at 10^-8 each, add less than 10^-7.
"""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsec.audits import epsilons, path
from fedsec.audits.bounds import Bound
from fedsec.audits.crafted import dimension, dp_of, take_steps, tiny_base
from fedsec.audits.epsilons import of_records, of_shared, of_units
from fedsec.audits.mechanism import LEVEL, _noise, audit, noise_and_sampling, seeds
from fedsec.audits.setting import LORA, Setting
from fedsec.privacy.accountant import PldAccountant, steps_of
from fedsec.training.lora import attach_lora, lora_parameters
from fedsec.training.private import loop
from fedsec.training.private.clipping import clip_and_sum
from fedsec.training.private.mechanism import NoisySum
from fedsec_secure.errors import ConfigError

SURE = Setting(confidence=1 - 5e-7, trials=2000)


def test_nothing_refutes_this_build():
    told = []
    rows = audit(SURE, lambda *progress: told.append(progress))
    assert [row.name for row in rows if not row.held] == []
    assert len({row.name for row in rows}) == len(rows) == 24
    for row in rows[:6]:
        assert row.numbers["theory"] > row.numbers["lower_bound"] >= 0
    assert all(done <= total for _, done, total in told)
    assert {what for what, done, total in told if done == total} == {what for what, _, _ in told}


@pytest.mark.parametrize(("rate", "noise"), [(0.03, 0.25), (1.0, 3.0), (1e-3, 1.0)])
def test_noise_and_sampling_hold_at_other_settings(rate, noise):
    rows = noise_and_sampling(replace(SURE, sampling_rate=rate, noise_multiplier=noise, trials=400))
    assert [(row.name, row.got) for row in rows if not row.held] == []


@pytest.mark.slow
def test_bounds_come_within_three_quarters_of_epsilon():
    """With more than the command's trials, so that 0.75 is some four deviations away; see docs/privacy.md."""
    rows = [*of_units(Setting(trials=60_000)), of_records(Setting(trials=60_000)), *of_shared(Setting(trials=100_000))]
    assert all(row.held for row in rows)
    assert all(row.numbers["lower_bound"] > 0.75 * row.numbers["theory"] and row.shows for row in rows)


@pytest.mark.slow
def test_a_patient_of_whose_records_one_is_used_is_one_record():
    """Four records lie there and one is used: no other row may be made of four units."""
    one = replace(SURE, records=1)
    rows = [of_records(one), *(row for row in of_shared(one) if "records" in row.name)]
    theory = PldAccountant().epsilon([steps_of(0.5, 1.0, 1)], one.delta)
    assert [(row.held, row.numbers["theory"]) for row in rows] == [(True, pytest.approx(theory, abs=2e-3))] * 2


def test_without_sampling_there_is_one_bound():
    (row,) = of_units(replace(SURE, sampling_rate=1.0, trials=3000, confidence=0.99))
    assert row.name == "ε of a step on all units"
    assert 0 < row.numbers["lower_bound"] < 1.5 * row.numbers["theory"]
    assert row.numbers["level"] == pytest.approx(0.002)


@pytest.mark.parametrize(("found", "shows"), [(0.0, False), (2.0, False), (2.2, True), (9.0, True)])
def test_a_bound_below_half_of_theory_shows_nothing(monkeypatch, found, shows):
    """That of 9 refutes: what refutes has shown something."""
    monkeypatch.setattr(epsilons, "lower_bound", lambda *given: Bound(3.0 if found > 4.377 else 0.5, found, 0.0))
    row = epsilons._bounded("ε", steps_of(1.0, 1.0, 1), np.zeros(2), np.zeros(2), Setting())
    assert row.numbers["theory"] == pytest.approx(4.377, abs=1e-3)
    assert (row.shows, row.held) == (shows, found < 4.377)
    assert row.got.endswith("more trials") != shows


def test_a_delta_at_which_epsilon_is_nought_shows_nothing():
    """At it a build with a third of the noise that is charged has no bound above 0 either."""
    setting = Setting(noise_multiplier=10.0, delta=0.09, trials=400)
    coins = np.random.default_rng(0)
    out, present = coins.normal(0, 10 / 3, 133), coins.normal(1, 10 / 3, 133)
    row = epsilons._bounded("ε", steps_of(1.0, 10.0, 1), out, present, setting)
    assert (row.numbers["theory"], row.numbers["lower_bound"]) == (0.0, 0.0)
    assert (row.held, row.shows) == (True, False)
    assert row.got.endswith("a smaller delta")


def test_steps_are_those_of_a_private_round():
    """The released vector is the clipped sum, undone from the division, with the mechanism's noise."""
    base = tiny_base()
    values = dimension(base, LORA)
    assert values == 32
    gradients = np.vstack([np.full(values, 7.0), -np.eye(values)[0] / 4])
    dp = dp_of(0.125, 1.0, 400, 1e-5)
    seen = list(take_steps(base, LORA, dp, gradients))
    assert {step.drawn for step in seen} == {(0, 1)}
    expected = np.full(values, 1 / np.sqrt(values)) - np.eye(values)[0] / 4
    deviation = NoisySum(dp.clipping_norm, 0.125, values).deviation
    mean = np.mean([step.released for step in seen], axis=0)
    assert abs(mean - expected).max() < 7 * deviation / 20
    model = attach_lora(base, LORA)
    assert not model.training
    assert {(p.requires_grad, p.grad) for p in lora_parameters(model).values()} == {(False, None)}


def test_with_sampled_records_each_is_drawn_by_a_coin_of_its_own():
    """And of a patient's six the same two each time."""
    base = tiny_base()
    dp = dp_of(0.125, 0.5, 300, 1e-5, unit="patient", sampling="record", max_records=2)
    seen = list(take_steps(base, LORA, dp, np.zeros((7, dimension(base, LORA))), [0] * 6 + [1]))
    used = sorted({row for step in seen for row in step.drawn})
    assert len(used) == 3
    assert used[2] == 6
    assert {len(step.drawn) for step in seen} == {0, 1, 2, 3}


@pytest.mark.parametrize("rate", [pytest.param(1.0, marks=pytest.mark.slow), 0.25])
def test_sampled_records_hold_at_other_settings(rate):
    setting = replace(SURE, sampling_rate=rate, records=3, trials=900)
    row, shared = of_records(setting), of_shared(setting)[1]
    assert row.held, row
    assert shared.held, shared
    theory = PldAccountant().epsilon([steps_of(rate, SURE.noise_multiplier, 1, 3)], SURE.delta)
    assert row.numbers["theory"] == pytest.approx(theory)
    assert shared.numbers["theory"] == pytest.approx(theory, rel=1e-3)


def test_seeds_are_put_back():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert seeds(SURE).held
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == before


def test_one_unit_moves_the_sum_by_one_clipping_norm_and_no_more():
    rows = path.audit()
    assert all(row.held for row in rows)
    felt = {row.name: row.numbers["moved"] for row in rows}
    assert felt.pop("one unit: not finite") == 0
    assert all(0.999 < moved <= 1 + 1e-5 for moved in felt.values())  # in full: the audit's records are long enough


def test_a_sum_that_is_no_number_beside_mates_is_refuted(monkeypatch):
    """Alone such a record adds nothing; among others the fault lets it through."""

    def poisoned(gradients, bound):
        found = clip_and_sum(gradients, bound)
        if len(found.norms) > 1 and not found.norms.isfinite().all():
            return found._replace(total={name: tensor * math.nan for name, tensor in found.total.items()})
        return found

    monkeypatch.setattr(loop, "clip_and_sum", poisoned)
    refuted = [row for row in path.audit() if not row.held]
    assert [row.name for row in refuted] == ["one unit: not finite"]
    assert refuted[0].numbers["alone"] == 0


@pytest.mark.parametrize(("deviation", "held"), [(0.95, False), (1.0, True), (1.05, False)])
def test_noise_of_another_deviation_is_seen_whichever_way(deviation, held):
    """Too much of it breaks no promise of privacy, and yet is not what the plan says. The same draw every time."""
    released = np.random.default_rng(0).normal(0, deviation, (2000, 32))
    variance, _, independent = _noise(released)
    assert (variance.held, independent.held) == (held, True)


def test_noise_that_is_no_number_passes_no_test():
    assert not any(row.held for row in _noise(np.full((400, 8), math.nan)))


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_noise_on_half_of_the_values_passes_no_test_of_correlation():
    """There is none with what is always the same, and no p-value."""
    released = np.random.default_rng(0).normal(size=(400, 8))
    released[:, 4:] = 0
    assert [row.held for row in _noise(released)] == [False] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"trials": 399},
        {"trials": 100_001},
        {"noise_multiplier": 0.1},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"delta": 0.0},
        {"confidence": 1.0},
        {"records": 0},
        {"records": 257},
        {"noise_multiplier": float("nan")},
    ],
)
def test_what_cannot_be_audited_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        replace(SURE, **wrong)


def test_levels_are_what_is_said():
    assert LEVEL * 6 < 1e-7
    assert replace(SURE, confidence=0.97).level == pytest.approx(0.005)
