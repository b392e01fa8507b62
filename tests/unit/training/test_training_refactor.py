"""FedSVD's new factors: the product stays, A is orthonormal, and every process gets the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from fedsec.training.adapter import AdapterState
from fedsec.training.refactor import refactored
from fedsec.training.reproducible import eigenvectors, inner, orthonormal_rows
from fedsec_secure.errors import LocalMisuseError

SHAPES = [(16, 40, 24), (16, 40, 24), (16, 24, 24), (5, 9, 7)]  # rank, in, out


def adapter(seed=0, scale=1.0) -> AdapterState:
    rng, tensors = np.random.default_rng(seed), {}
    for i, (rank, wide, high) in enumerate(SHAPES):
        tensors[f"m.{i}.lora_A.weight"] = (rng.normal(size=(rank, wide)) / np.sqrt(wide)).astype(np.float32)
        tensors[f"m.{i}.lora_B.weight"] = (scale * rng.normal(size=(high, rank))).astype(np.float32)
    return AdapterState(tensors)


def pairs(of: AdapterState):
    for i in range(len(SHAPES)):
        yield of[f"m.{i}.lora_A.weight"].astype(np.float64), of[f"m.{i}.lora_B.weight"].astype(np.float64)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
def test_the_product_stays_and_its_factors_are_the_singular_ones(scale):
    before = adapter(scale=scale)
    after = refactored(before)
    assert after.shapes == before.shapes
    for (a, b), (new_a, new_b) in zip(pairs(before), pairs(after), strict=True):
        product, size = b @ a, np.linalg.norm(b @ a)
        np.testing.assert_allclose(new_b @ new_a, product, atol=4e-7 * size, rtol=0)
        np.testing.assert_allclose(new_a @ new_a.T, np.eye(len(a)), atol=1e-6)
        _, values, right = np.linalg.svd(product)
        np.testing.assert_allclose(np.linalg.norm(new_b, axis=0), values[: len(a)], atol=1e-6 * size)
        np.testing.assert_allclose(np.abs((right[: len(a)] * new_a).sum(axis=1)), 1, atol=1e-4)
        assert all(row[np.abs(row).argmax()] > 0 for row in new_a)


def test_again_it_stays_what_it_is():
    once = refactored(adapter())
    twice = refactored(once)
    for (a, b), (new_a, new_b) in zip(pairs(once), pairs(twice), strict=True):
        np.testing.assert_allclose(new_a, a, atol=1e-5)
        np.testing.assert_allclose(new_b, b, atol=1e-4)


def test_zero_b_stays_zero_and_a_becomes_orthonormal():
    before = adapter(scale=0.0)
    after = refactored(before)
    for (a, _), (new_a, new_b) in zip(pairs(before), pairs(after), strict=True):
        assert not new_b.any()
        assert not np.signbit(new_b).any()
        np.testing.assert_allclose(new_a @ new_a.T, np.eye(len(a)), atol=1e-6)
        np.testing.assert_allclose(a - a @ new_a.T @ new_a, 0, atol=1e-6)


def test_a_product_of_lower_rank_keeps_its_product_and_a_full_basis():
    tensors = dict(adapter())
    for i in range(len(SHAPES)):
        b = np.array(tensors[f"m.{i}.lora_B.weight"])
        b[:, 1:] = b[:, :1]  # of rank 1
        tensors[f"m.{i}.lora_B.weight"] = b
    before = AdapterState(tensors)
    after = refactored(before)
    for (a, b), (new_a, new_b) in zip(pairs(before), pairs(after), strict=True):
        np.testing.assert_allclose(new_b @ new_a, b @ a, atol=1e-6 * np.linalg.norm(b @ a))
        np.testing.assert_allclose(new_a @ new_a.T, np.eye(len(a)), atol=1e-6)
        assert np.linalg.norm(new_b[:, 1:]) < 1e-5 * np.linalg.norm(new_b)


def test_dependent_rows_of_a_are_refused():
    tensors = dict(adapter())
    tensors["m.0.lora_A.weight"] = np.ones_like(tensors["m.0.lora_A.weight"])
    with pytest.raises(LocalMisuseError, match="16 independent rows"):
        refactored(AdapterState(tensors))


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_eigenvectors_are_numpys(size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(3, 20, size))
    h = x.transpose(0, 2, 1) @ x
    values, vectors = eigenvectors(h)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(h)[:, ::-1], rtol=1e-10)
    np.testing.assert_allclose(vectors.transpose(0, 2, 1) @ vectors, np.broadcast_to(np.eye(size), h.shape), atol=1e-13)
    np.testing.assert_allclose(h @ vectors, vectors * values[:, None, :], atol=1e-10)


def test_sums_and_bases_are_accurate():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 3, 1001))
    np.testing.assert_allclose(inner(x, y), (x * y).sum(axis=1), rtol=1e-12)
    rows = orthonormal_rows(np.vander(np.linspace(0, 1, 30), 8).T[None])  # nearly dependent
    np.testing.assert_allclose(rows[0] @ rows[0].T, np.eye(8), atol=1e-14)


SCRIPT = """
import sys; sys.path.insert(0, ".")
import numpy as np
from tests.unit.training.test_training_refactor import adapter
from fedsec.training.refactor import refactored
state = adapter(3)
for _ in range(2):
    state = refactored(state)
print(state.digest().hex())
"""


def test_processes_on_other_threads_and_kernels_come_to_the_same_bits():
    ways = [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Prescott"},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "NPY_DISABLE_CPU_FEATURES": disabled()},
    ]
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=os.environ | way, capture_output=True, text=True, check=True
        ).stdout
        for way in ways
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


def disabled() -> str:
    """What this processor has and numpy can do without: without vector units of the newer kinds."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])


def test_an_adapter_of_a_real_model_takes_seconds_at_most():
    rng, tensors = np.random.default_rng(0), {}
    for i in range(30):
        for kind, wide, high in (("q", 576, 576), ("k", 576, 192), ("v", 576, 192), ("o", 576, 576)):
            tensors[f"m.{i}.{kind}.lora_A.weight"] = rng.normal(size=(16, wide)).astype(np.float32)
            tensors[f"m.{i}.{kind}.lora_B.weight"] = rng.normal(size=(high, 16)).astype(np.float32)
    state = AdapterState(tensors)
    began = time.process_time()
    refactored(state)
    assert time.process_time() - began < 5  # 0.9 where it was written
