"""The audit's tests of noise and sampling, on draws of which one thing is wrong at a time, and the same every time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedsec.audits import epsilons, mechanism, path
from fedsec.audits.bounds import Bound
from fedsec.audits.crafted import dimension, dp_of, tiny_base
from fedsec.audits.epsilons import COLLUDING, SURVIVORS, shared_step
from fedsec.audits.mechanism import LEVEL, _noise, _sampling, _test, seeds, sensitivity_of_release
from fedsec.audits.setting import LORA, Setting
from fedsec.training.private.mechanism import SLACK
from fedsec_secure.accounting.events import SelfComposed

STEPS, VALUES, UNITS, RATE = 4000, 16, 40, 0.1


def gauss(rng):
    return rng.normal(size=(STEPS, VALUES))


def laplace(rng):
    return rng.laplace(0, math.sqrt(0.5), (STEPS, VALUES))


def other_scales(rng):
    """One value has a fifth too much variance and another as much too little: together they are right."""
    return gauss(rng) * np.sqrt([1.2, 0.8] + [1.0] * (VALUES - 2))


def one_noise(axis):
    """Steps, tensors or values of which each two have the same noise."""

    def draw(rng):
        released = gauss(rng)
        if axis == "steps":
            released[1::2] = released[0::2]
        elif axis == "tensors":
            released[:, VALUES // 2 :] = released[:, : VALUES // 2]
        else:
            released[:, 1::2] = released[:, 0::2]
        return released

    return draw


@pytest.mark.parametrize(
    ("draw", "refuted"),
    [
        (gauss, set()),
        (laplace, {"law"}),
        (other_scales, {"law"}),
        (one_noise("steps"), {"independent"}),
        (one_noise("tensors"), {"independent"}),
        (one_noise("values"), {"independent"}),
        (lambda rng: -gauss(rng) + 0.2, {"variance", "law"}),
    ],
)
def test_noise_is_refuted_by_what_is_wrong_with_it(draw, refuted):
    rows = _noise(draw(np.random.default_rng(0)))
    assert {row.name.removeprefix("noise: ").partition(",")[0] for row in rows if not row.held} == refuted


@pytest.mark.parametrize(("share", "held"), [(0.999, True), (1.001, False)])
@pytest.mark.parametrize("side", ["low", "high"])
def test_a_variance_is_held_to_half_of_the_level_on_either_side(side, share, held):
    """Draws that are scaled to stand just within a quantile, or just without."""
    count = STEPS * VALUES
    edge = stats.chi2(count).ppf(LEVEL / 2) if side == "low" else stats.chi2(count).isf(LEVEL / 2)
    away = (edge / count - 1) * share
    released = gauss(np.random.default_rng(0))
    variance = _noise(released * math.sqrt((1 + away) / np.square(released).mean()))[0]
    assert (variance.held, variance.numbers["p"] >= LEVEL) == (held, held)


def test_one_coordinate_of_many_is_held_to_its_share_of_the_level():
    """Its p-value is ten times the level by itself, and there are sixteen that could have been so low."""
    released = gauss(np.random.default_rng(0))
    released /= np.sqrt(np.square(released).mean(0))
    released[:, 3] *= math.sqrt(stats.chi2(STEPS).isf(5 * LEVEL) / STEPS)
    (p,) = (row.numbers["p"] for row in _noise(released) if row.name == "noise: law")
    assert p == pytest.approx(2 * VALUES * 10 * LEVEL, rel=1e-3)  # two looks: the law of all values, and this


def poisson(rng, rate=RATE):
    return rng.random((STEPS, UNITS)) < rate


def shuffled(rng):
    """Batches of a fixed size: each unit at the right rate."""
    drawn = np.zeros((STEPS, UNITS), np.bool_)
    for step in drawn:
        step[rng.choice(UNITS, round(RATE * UNITS), replace=False)] = True
    return drawn


def never_empty(rng):
    """Of few units, so that an empty batch is not rare: an empty one is drawn again until it is none."""
    drawn = rng.random((STEPS, 6)) < RATE
    while (empty := ~drawn.any(1)).any():
        drawn[empty] = rng.random((int(empty.sum()), 6)) < RATE
    return drawn


def together(rng):
    """Two units that are always drawn together."""
    drawn = poisson(rng)
    drawn[:, 1::2] = drawn[:, 0::2]
    return drawn


def repeated(rng):
    """Each batch twice."""
    drawn = poisson(rng)
    drawn[1::2] = drawn[0::2]
    return drawn


def alternating(rng):
    """Half of the units in odd steps, the others in even ones, at twice the rate: nobody in two steps that follow."""
    drawn = rng.random((STEPS, UNITS)) < 2 * RATE
    drawn[0::2, : UNITS // 2] = False
    drawn[1::2, UNITS // 2 :] = False
    return drawn


@pytest.mark.parametrize(
    ("draw", "refuted"),
    [
        (poisson, set()),
        (lambda rng: poisson(rng, 1.1 * RATE), {"rate"}),
        (lambda rng: poisson(rng, 0.9 * RATE), {"rate"}),
        (shuffled, {"batch sizes"}),
        (never_empty, {"rate", "batch sizes"}),
        (together, {"independent", "batch sizes"}),
        (repeated, {"independent"}),
        (alternating, {"independent"}),
    ],
)
def test_sampling_is_refuted_by_what_is_wrong_with_it(draw, refuted):
    rows = _sampling(RATE, draw(np.random.default_rng(0)))
    assert {row.name.removeprefix("sampling: ") for row in rows if not row.held} >= refuted
    assert bool(refuted) == any(not row.held for row in rows)


def test_batches_that_are_never_empty_are_seen_where_all_else_is_as_usual():
    drawn = poisson(np.random.default_rng(0), 0.05)
    empty = np.flatnonzero(~drawn.any(1))
    assert len(empty) > 100
    drawn[empty, :5] = True
    (row,) = (row for row in _sampling(0.05, drawn) if row.name == "sampling: batch sizes")
    assert not row.held
    assert _sampling(0.05, poisson(np.random.default_rng(0), 0.05))[1].held


def test_everybody_in_every_step_is_what_a_rate_of_one_says():
    assert all(row.held for row in _sampling(1.0, np.ones((STEPS, UNITS), np.bool_)))
    one_missing = np.ones((STEPS, UNITS), np.bool_)
    one_missing[7, 3] = False
    assert not any(row.held for row in _sampling(1.0, one_missing))


@pytest.mark.parametrize(
    ("p_values", "held"),
    [
        ({"one": LEVEL}, True),
        ({"one": 0.99 * LEVEL}, False),
        ({"one": 0.6 * LEVEL, "two": 1.0}, True),  # two looks, so twice the least of their p-values
        ({"one": 1.0, "two": 0.4 * LEVEL}, False),
        ({"one": 1.0, "two": math.nan}, False),
    ],
)
def test_a_row_of_several_looks_is_held_to_its_level_by_all_together(p_values, held):
    row = _test("name", "expected", p_values)
    assert row.held == held
    assert not row.numbers["p"] > 1


@pytest.mark.parametrize(
    ("alone", "moved", "held"),
    [
        (1 + float(SLACK), 1 + float(SLACK), True),
        (1.01 + float(SLACK), 0.5, False),
        (0.5, 1.01 + float(SLACK), False),
        (math.nan, 0.5, False),
        (0.5, math.nan, False),
        (math.inf, 0.5, False),
    ],
)
def test_a_unit_that_moves_more_than_a_clipping_norm_is_seen(monkeypatch, alone, moved, held):
    monkeypatch.setattr(path, "_moved", lambda *_: (alone, moved))
    assert path._row(tiny_base(), path.extremes()[0]).held == held


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("share", "held"), [(0.99, True), (1.01, False)])
def test_a_bound_is_held_to_the_noise_of_all_its_steps(monkeypatch, steps, share, held):
    """What is seen of four steps has twice the deviation of one, so half the signal for its noise."""
    step = shared_step(Setting(), dimension(tiny_base(), LORA))
    (((_, noise, _), _),) = epsilons.mechanisms([step.event]).items()
    mu = share / noise / math.sqrt(steps)
    asked = []

    def found(out, present, rate, delta, level, records):
        asked.append((rate, records))
        return Bound(mu, 1.0, 1.0)

    monkeypatch.setattr(epsilons, "lower_bound", found)
    nothing = np.zeros(1)
    row = epsilons._bounded("name", SelfComposed(step.event, steps), nothing, nothing, Setting())
    assert (row.held, asked) == (held, [(1.0, steps)])


def test_shared_steps_are_audited_with_the_noise_that_can_be_counted_on():
    """Of three sites' noise two parts are looked at, and what is charged is theirs."""
    step = shared_step(Setting(), 8)
    (((_, noise, _), _),) = epsilons.mechanisms([step.event]).items()
    assert noise == pytest.approx(Setting().noise_multiplier, rel=1e-3)
    assert (step.survivors, step.colluding, SURVIVORS - COLLUDING) == (SURVIVORS, COLLUDING, 2)


def test_what_a_release_is_sized_for_has_room_for_mates_and_for_the_grid():
    dp = dp_of(1.0, 0.5, 1, 1e-5)
    assert sensitivity_of_release(dp, 1) > dp.clipping_norm * (1 + float(SLACK))
    assert sensitivity_of_release(dp, 10_001) > sensitivity_of_release(dp, 10_000)


@pytest.mark.parametrize("what", ["released", "drawn"])
def test_a_step_that_a_seed_repeats_is_seen(monkeypatch, what):
    """Whether it is the noise or the sample that comes again."""
    real, first = mechanism.take_steps, []

    def repeats(*a, **k):
        for seen in real(*a, **k):
            first.append(seen)
            yield replace(seen, **{what: getattr(first[0], what)})

    monkeypatch.setattr(mechanism, "take_steps", repeats)
    row = seeds(Setting())
    assert not row.held
    assert row.got == {"released": "the same noise", "drawn": "the same sample"}[what]
