"""A site's integers: each unit's rounded gradient within the norm that the noise is sized for, and nothing else."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from fedsec.plan.cost import distributed_step
from fedsec.plan.specs import DpSpec, LoraSpec, TrainingSpec
from fedsec.site.work import LocalWork
from fedsec.training.adapter import initial_adapter
from fedsec.training.batches import encode
from fedsec.training.private import distributed, loop
from fedsec.training.private.distributed import noisy_integers
from fedsec.training.private.loop import PrivateRound, UnitGradients
from fedsec.training.replicas import Replicas
from fedsec.training.strategies import shared_vector
from fedsec_secure.errors import ConfigError, FedsecError
from fedsec_secure.numeric.conditional_rounding import ConditionalRounding
from fedsec_secure.numeric.discrete_gaussian import DiscreteGaussian
from tests.e2e.federation import Keys, make_plan, tiny_base, tiny_examples

KEYS = Keys.generate(4)
LORA = LoraSpec(rank=2, dropout=0.05, targets=("q_proj", "v_proj"))


def world(unit="record", **dp):
    base = tiny_base()
    start = initial_adapter(base, LORA, 7)
    spec = DpSpec(
        mode="distributed",
        unit=unit,
        target_epsilon=8.0,
        sampling_rate=0.5,
        dimension=shared_vector("fedit", start, 0).size,
    )
    training = TrainingSpec(batch_size=4, max_tokens=300)
    plan = make_plan(KEYS, training=training, dp=spec.model_copy(update=dp), weights_sha256=base.weights_sha256)
    return base, start, plan, distributed_step(plan)


@pytest.fixture
def silent(monkeypatch):
    """Without noise: what is left is what it hides."""
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, size: np.zeros(size, dtype=np.int64))


def drawing(monkeypatch, units):
    monkeypatch.setattr(PrivateRound, "drawn", lambda self: [self.units[i] for i in units])


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_one_unit_more_is_one_vector_within_the_sensitivity(monkeypatch, silent, unit):
    base, start, plan, step = world(unit, clipping_norm=1e-3)
    examples = tiny_examples("site-a", 6)
    if unit == "patient":
        examples = [e.model_copy(update={"patient_id": f"p{i % 3}"}) for i, e in enumerate(examples)]
    for units in ([0], [1], [2]):
        drawing(monkeypatch, units)
        alone = noisy_integers(base, start, examples, plan, step)
        assert alone.dtype == np.int32
        norm = float(np.linalg.norm(alone.astype(np.float64)))
        assert 0.99 * step.clip_in_steps < norm <= step.sensitivity


def test_batch_mates_change_nothing_of_a_unit_s_vector(monkeypatch, silent):
    """Rounded to the nearest instead of by coins, so that it can be seen."""
    rounded = []

    def nearest(self, values):
        rounded.append(np.rint(values).astype(np.int64))
        return rounded[-1]

    monkeypatch.setattr(ConditionalRounding, "round", nearest)
    base, start, plan, step = world(clipping_norm=0.05)
    plan = plan.model_copy(update={"lora": plan.lora.model_copy(update={"dropout": 0.0})})
    examples, sums = tiny_examples("site-a", 5), {}
    for units in ([0], [1], [2], [3], [4], [0, 1, 2, 3, 4], [4, 1]):
        drawing(monkeypatch, units)
        rounded.clear()
        sums[tuple(units)] = noisy_integers(base, start, examples, plan, step)
        assert len(rounded) == len(units), "each unit's vector is rounded by itself, by what bounds its norm"
        np.testing.assert_array_equal(sums[tuple(units)], sum(rounded))
    np.testing.assert_array_equal(sums[0, 1, 2, 3, 4], sum(sums[(i,)] for i in range(5)))
    np.testing.assert_array_equal(sums[4, 1], sums[4,] + sums[1,])


def test_nobody_drawn_is_noise_alone_and_noise_is_always_fresh(monkeypatch):
    base, start, plan, step = world()
    drawing(monkeypatch, [])
    a, b = (noisy_integers(base, start, tiny_examples("site-a", 3), plan, step) for _ in range(2))
    assert not np.array_equal(a, b)
    for drawn in (a, b):
        assert np.std(drawn) == pytest.approx(step.sigma, rel=0.3)  # 224 coordinates: six deviations
        assert abs(np.mean(drawn)) < 6 * step.sigma / np.sqrt(len(drawn))


def test_a_gradient_that_is_not_finite_adds_nothing(monkeypatch, silent):
    base, start, plan, step = world()
    drawing(monkeypatch, [0, 1])
    original = UnitGradients.each

    def poisoned(self, units):
        for found in original(self, units):
            next(iter(found.values())).view(-1)[0] = torch.inf
            yield found

    monkeypatch.setattr(UnitGradients, "each", poisoned)
    assert not noisy_integers(base, start, tiny_examples("site-a", 3), plan, step).any()


def test_another_model_than_the_plan_s_is_refused():
    base, start, plan, _ = world()
    fewer = plan.model_copy(update={"dp": plan.dp.model_copy(update={"dimension": 10})})
    with pytest.raises(ConfigError, match=r"dp.dimension is 10; expected the \d+ coordinates that are trained"):
        noisy_integers(base, start, tiny_examples("site-a", 3), fewer, distributed_step(fewer))


def test_a_site_has_as_many_units_as_it_likes(monkeypatch):
    """What is summed is what is drawn: of 40,000 some four."""
    seen, original = [], PrivateRound.drawn

    def drawn(self):
        seen.append((len(self.units), original(self)))
        return seen[-1][1]

    monkeypatch.setattr(PrivateRound, "drawn", drawn)
    monkeypatch.setattr(loop, "encode", cache(encode))
    base, start, plan, step = world(sampling_rate=1e-4)
    (one,) = tiny_examples("site-a", 1)
    assert noisy_integers(base, start, [one] * 40_000, plan, step).any()
    ((units, sample),) = seen
    assert units == 40_000
    assert len(sample) < 40  # by chance, once in 2^70


def test_a_draw_that_integers_may_not_hold_stops_the_site_before_a_gradient(monkeypatch):
    """With an error that is none of the protocol's: those are told to the coordinator."""
    base, start, plan, step = world()
    monkeypatch.setattr(UnitGradients, "each", lambda *_: pytest.fail("a gradient was computed"))
    drawing(monkeypatch, [0] * math.ceil(2**31 / step.sensitivity))
    with pytest.raises(OverflowError, match="expected fewer, as their sum may exceed 2"):
        noisy_integers(base, start, tiny_examples("site-a", 3), plan, step)
    assert not issubclass(OverflowError, FedsecError)


def test_every_plan_has_room_for_more_than_is_ever_drawn():
    """The least is where three sites' noise almost fills the widest lanes."""
    plan, steps = make_plan(Keys.generate(3), ring="2x32"), []
    for noise, dimension, ring in product((0.125, 1.0, 300.0, 2200.0, 32768.0), (1, 1 << 31), ("2x32", "3x21")):
        numbers = {"noise_multiplier": noise, "dimension": dimension, "expected_batch": 1, "colluders": 0}
        dp = DpSpec(mode="distributed", target_epsilon=8.0, **numbers)
        secure = plan.secure.model_copy(update={"ring": ring})
        with suppress(ConfigError):  # too much noise for the ring: there is no such plan
            steps.append(distributed_step(plan.model_copy(update={"dp": dp, "secure": secure})))
    rooms = [(2**31 - 14 * step.sigma) / step.sensitivity for step in steps]
    assert len(rooms) > 10
    assert 13_000 < min(rooms) < 13_200
    for room, step in zip(rooms, steps, strict=True):
        distributed._require_room(math.floor(room) - 1, step)
        with pytest.raises(OverflowError):
            distributed._require_room(math.floor(room) + 1, step)


@pytest.mark.parametrize(
    ("ring", "batch", "grid"), [("3x21", 16, 14), ("3x21", 1, 15), ("2x32", 16, 16), ("4x16", 16, 9)]
)
def test_the_grid_is_the_finest_that_lanes_carry_and_no_finer_than_2_to_the_16(ring, batch, grid):
    plan = make_plan(Keys.generate(5), ring=ring)
    dp = DpSpec(mode="distributed", target_epsilon=8.0, noise_multiplier=1.0, dimension=192, expected_batch=batch)
    assert distributed_step(plan.model_copy(update={"dp": dp})).clip_in_steps == 1 << grid


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.05, 0.5, 0.9])
def test_what_is_drawn_is_close_to_what_is_expected(rate):
    units = math.floor(8192 / rate)
    loop.require_small_batches(units, DpSpec(mode="distributed", target_epsilon=8.0, sampling_rate=rate), 4)
    assert stats.binom.logsf(9031, units, rate) < -60 * math.log(2)
    assert stats.binom.logsf(12_999, units, rate) < -1700 * math.log(2)


def test_a_site_that_may_draw_too_many_is_told_before_anybody_asks_and_without_its_count():
    base, _, plan, _ = world(sampling_rate=1.0)
    (one,) = tiny_examples("site-a", 1)
    work = LocalWork("site-a", plan, Replicas(base), [one] * 8193)
    with pytest.raises(ConfigError, match=r"expected at most 8192 units in a step, found more here: lower the rate$"):
        work.plant([])
    LocalWork("site-a", plan, Replicas(base), [one] * 8192).plant([])
    LocalWork("site-a", make_plan(KEYS), Replicas(base), [one] * 8193).plant([])
