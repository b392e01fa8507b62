"""One step of a private round as its tests run it: whom they say, and without the noise."""

from __future__ import annotations

import math

from fedsec.plan.specs import DpSpec, TrainingSpec
from fedsec.training.private.loop import Private, train_private_round
from tests.unit.training.conftest import LORA

SPEC = TrainingSpec(learning_rate=5e-3, batch_size=4, max_tokens=200, warmup_fraction=0.0, schedule="constant")
DP = DpSpec(
    mode="local", unit="record", target_epsilon=8.0, target_delta=1e-5, noise_multiplier=1.0,
    sampling_rate=0.5, steps=4, clipping_norm=0.5, expected_batch=6,
)  # fmt: skip


def changed(**fields) -> Private:
    return Private(DP.model_copy(update=fields))


def train(tiny, start, examples, private=changed(), **settings):  # noqa: B008 - frozen
    lora = settings.pop("lora", LORA)
    spec = settings.pop("spec", SPEC)
    position = {"round_index": 0, "rounds": 1}
    return train_private_round(tiny, start, examples, spec, lora, private=private, **position, **settings)


def sums_of(quiet, drawing, tiny, start, examples, *drawn, private=changed(steps=1), **settings):  # noqa: B008
    """The clipped sum of one step over each of the given draws."""
    found = []
    for who in drawn:
        quiet.seen.clear()
        drawing(who)
        train(tiny, start, examples, private, **settings)
        found.append(quiet.seen[0])
    return found


def distance(a, b) -> float:
    return math.sqrt(sum(float(((a[n] - b[n]) ** 2).sum()) for n in a))
