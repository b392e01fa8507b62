from __future__ import annotations

import pytest
import torch

from fedsec.training.dropout import DropoutSeed, SeededDropout
from fedsec_secure.errors import LocalMisuseError


def test_mask_is_a_function_of_seed_and_module() -> None:
    seed = DropoutSeed(b"one")
    first, second = SeededDropout(0.5, "a", seed), SeededDropout(0.5, "b", seed)
    x = torch.ones(64, 33)
    kept = first(x)
    assert torch.equal(first(x), kept)
    assert not torch.equal(second(x), kept)
    seed.value = b"two"
    assert not torch.equal(first(x), kept)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_rate_and_scale(p: float) -> None:
    x = torch.ones(500, 501)
    kept = SeededDropout(p, "a", DropoutSeed(b"s"))(x)
    dropped = float((kept == 0).float().mean())
    assert abs(dropped - p) < 4 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-16
    assert float(kept.max()) == pytest.approx(1 / (1 - p), rel=1e-4)


def test_identity_outside_training_and_never_unseeded() -> None:
    module = SeededDropout(0.5, "a", DropoutSeed())
    x = torch.ones(3)
    with pytest.raises(LocalMisuseError, match="seed"):
        module(x)
    assert module.eval()(x) is x
    assert SeededDropout(0.0, "a", DropoutSeed())(x) is x
