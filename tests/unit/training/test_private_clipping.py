"""One record contributes at most the bound, whatever its gradient; the sum is the definition's."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.training.private.clipping import MAX_PARAMETERS, MAX_RECORDS, clip_and_sum
from fedsec.training.private.per_sample import PerSampleLora
from fedsec_secure.errors import ConfigError, LocalMisuseError
from tests.unit.training.private_models import KEYS, build, losses, tokens


def norm(total: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in total.values()))


def exact_square(total: dict[str, torch.Tensor]) -> Fraction:
    """The squared norm without any rounding."""
    return sum((Fraction(v) ** 2 for t in total.values() for v in t.flatten().tolist()), Fraction(0))


def random_gradients(n: int, scale: float, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 5), "b": (7, 2), "c": (4,)}
    return {name: torch.randn(n, *shape, generator=g, dtype=dtype) * scale for name, shape in shapes.items()}


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_sum_is_that_of_the_definition(seed, scale, bound, wide) -> None:
    gradients = random_gradients(5, scale, seed, torch.float64 if wide else torch.float32)
    total, norms = clip_and_sum(gradients, bound)
    expected = {name: torch.zeros(value.shape[1:], dtype=torch.float64) for name, value in gradients.items()}
    for row in range(5):
        one = {name: value[row].double() for name, value in gradients.items()}
        assert float(norms[row]) == pytest.approx(norm(one), rel=1e-14)
        for name, value in one.items():
            expected[name] += min(1.0, bound / norm(one)) * value
    for name, value in expected.items():
        assert total[name].dtype == torch.float64
        assert torch.allclose(total[name], value, rtol=1e-6, atol=1e-6 * min(bound, scale))


@given(st.integers(0, 1000), st.floats(1e-18, 1e18), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_one_record_stays_within_the_bound_exactly(seed, scale, bound) -> None:
    total, _ = clip_and_sum(random_gradients(1, scale, seed), bound)
    assert exact_square(total) <= Fraction(bound) ** 2


@given(st.integers(0, 1000), st.integers(0, 20), st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_one_record_more_moves_the_sum_by_at_most_the_bound(seed, others, bound) -> None:
    gradients = random_gradients(others + 1, 100.0, seed)
    without = {name: value[:others] for name, value in gradients.items()}
    after, before = clip_and_sum(gradients, bound).total, clip_and_sum(without, bound).total
    values = [[v for t in total.values() for v in t.flatten().tolist()] for total in (after, before)]
    moved = [Fraction(p) - Fraction(q) for p, q in zip(*values, strict=True)]
    assert sum((v**2 for v in moved), Fraction(0)) <= Fraction(bound) ** 2


def test_small_gradients_are_not_scaled() -> None:
    gradients = random_gradients(3, 1e-3, 0)
    total, norms = clip_and_sum(gradients, 10.0)
    assert float(norms.max()) < 10.0
    for name, value in gradients.items():
        assert torch.allclose(total[name], value.double().sum(0), rtol=1e-14, atol=1e-18)


def test_clipping_is_flat_and_not_by_layer() -> None:
    gradients = {"a": torch.tensor([[3.0]]), "b": torch.tensor([[4.0]])}
    total, norms = clip_and_sum(gradients, 1.0)
    assert float(norms) == 5.0
    assert float(total["a"]) == pytest.approx(0.6, rel=1e-6)
    assert float(total["b"]) == pytest.approx(0.8, rel=1e-6)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_record_that_is_not_finite_adds_nothing_and_spoils_nothing(bad) -> None:
    gradients = random_gradients(4, 1.0, 2)
    rest = {name: value[[0, 2, 3]] for name, value in gradients.items()}
    gradients["b"][1, 0, 0] = bad
    total, norms = clip_and_sum(gradients, 0.5)
    assert float(norms[1]) == math.inf
    for name, value in clip_and_sum(rest, 0.5).total.items():
        assert torch.equal(total[name], value)


def test_float32_squares_that_overflow_are_clipped_all_the_same() -> None:
    total, norms = clip_and_sum({"a": torch.full((1, 4), 3e38)}, 1.0)
    assert float(norms) == pytest.approx(6e38, rel=1e-6)
    assert norm(total) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_must_bound(bound) -> None:
    with pytest.raises(ConfigError, match="positive finite"):
        clip_and_sum(random_gradients(1, 1.0, 0), bound)


@pytest.mark.parametrize(
    "gradients",
    [
        {},
        {"a": torch.tensor(1.0)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)},
        {"a": torch.zeros(2, 3, dtype=torch.bfloat16)},
        {"a": torch.zeros(MAX_RECORDS + 1, 1)},
        {"a": torch.zeros(0, MAX_PARAMETERS), "b": torch.zeros(0, 1)},
    ],
    ids=["none", "scalar", "counts", "half", "many", "large"],
)
def test_what_the_bound_does_not_cover_is_refused(gradients) -> None:
    with pytest.raises(LocalMisuseError, match="clipping"):
        clip_and_sum(gradients, 1.0)


def test_the_engine_s_sum_keeps_each_record_within_the_bound() -> None:
    model, bound = build("llama", dropout=0.2), 0.05
    batch = tokens()
    with PerSampleLora(model) as engine:
        whole, norms = engine.clipped_sum(KEYS, lambda: losses(model, batch), bound)
        assert bool((norms > bound).all())
        one, _ = engine.clipped_sum(KEYS[3:], lambda: losses(model, batch[3:]), bound)
        assert norm(one) <= bound
        without, _ = engine.clipped_sum(KEYS[:3], lambda: losses(model, batch[:3]), bound)
    moved = norm({name: whole[name] - without[name] for name in whole})
    assert 0.999 * bound < moved <= bound * (1 + 1e-6)
