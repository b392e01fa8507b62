"""What a finished cell gave, as one row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from fedsec.data.schema import Example
from fedsec.evaluation.loss import example_losses, mean_loss
from fedsec.evaluation.scores import Scores
from fedsec.plan.cost import cost, distributed_step
from fedsec.plan.model import Plan
from fedsec.study.folder import RunFolder
from fedsec.study.results import FEDERATED, ZERO_SHOT
from fedsec.training.adapter import AdapterState, load_peft
from fedsec.training.base_model import load_base
from fedsec.training.private.mechanism import SLACK, NoisySum
from fedsec.training.strategies import shared_vector
from tradeoff.cells import LOCAL, NONE, Cell, Scale
from tradeoff.notes import TEST

Progress = Callable[[int, int], None]


class Row(NamedTuple):
    """A line of results.csv; README.md says what the columns mean."""

    cell: str
    mode: str
    epsilon: float
    epsilon_pld: float
    epsilon_charged: float
    delta: float
    noise_multiplier: float
    unit: str
    strategy: str
    sites: int
    seed: int
    rate: float
    learning_rate: float
    rounds: int
    steps: int
    sampling_rate: float
    expected_batch: int
    clipping_norm: float
    dimension: int
    noise_in_step: float
    noise_in_mean: float
    f1: float
    f1_lenient: float
    loss: float
    f1_sentences: int
    loss_sentences: int
    seconds: float


class Noise(NamedTuple):
    """Expected norm of the noise in a step's mean gradient, in clipping norms."""

    step: float
    """In the gradient that one optimiser takes: a site's own, or that of the sum over all sites."""
    mean: float
    """After an average over the sites, too."""


def noise_of(plan: Plan, dimension: int) -> Noise:
    """As the plan's own mechanisms draw it, all sites being there."""
    dp, sites = plan.dp, len(plan.roster.sites)
    if dp.mode == NONE or dp.noise_multiplier is None:
        return Noise(0.0, 0.0)
    if dp.mode == LOCAL:
        slack = SLACK if plan.training.batch_size > 1 else Fraction(0)
        deviation = NoisySum(dp.clipping_norm, dp.noise_multiplier, dimension, slack).deviation
    else:
        step = distributed_step(plan)
        deviation = step.sigma * step.grid * math.sqrt(sites)
    norm = deviation * math.sqrt(dimension) / dp.expected_batch / dp.clipping_norm
    return Noise(norm, norm / math.sqrt(sites) if dp.mode == LOCAL else norm)


def row_of(cell: Cell, scale: Scale, folder: RunFolder, loss: float) -> Row:
    """The row of a finished run."""
    plan = folder.plan
    dp, planned = plan.dp, cost(plan)
    dimension = shared_vector(plan.lora.strategy, load_peft(folder.adapter), 0).size
    private = cell.mode != NONE
    noise = noise_of(plan, dimension)
    f1, lenient, sentences = _f1(folder.results().scores[FEDERATED][TEST])
    seconds = sum(float(str(event["seconds"])) for event in folder.events() if event["event"] == "round")
    return Row(
        cell=cell.name,
        mode=cell.mode,
        epsilon=cell.epsilon,
        epsilon_pld=planned.epsilon,
        epsilon_charged=planned.charged,
        delta=planned.delta if private else 0.0,
        noise_multiplier=dp.noise_multiplier or 0.0,
        unit=cell.unit if private else "",
        strategy=cell.strategy,
        sites=cell.sites,
        seed=cell.seed,
        rate=cell.rate,
        learning_rate=plan.training.learning_rate,
        rounds=plan.rounds,
        steps=scale.steps,
        sampling_rate=dp.sampling_rate if private else 0.0,
        expected_batch=dp.expected_batch if private else plan.training.batch_size,
        clipping_norm=dp.clipping_norm if private else 0.0,
        dimension=dimension,
        noise_in_step=noise.step,
        noise_in_mean=noise.mean,
        f1=f1,
        f1_lenient=lenient,
        loss=loss,
        f1_sentences=sentences,
        loss_sentences=scale.loss_sentences,
        seconds=seconds,
    )


def untrained_row(trained: Row, folder: RunFolder, loss: float) -> Row:
    """The base model's row, from a run that also scored it."""
    f1, lenient, sentences = _f1(folder.results().scores[ZERO_SHOT][TEST])
    return trained._replace(
        cell=ZERO_SHOT,
        mode=ZERO_SHOT,
        epsilon=0.0,
        epsilon_pld=0.0,
        epsilon_charged=0.0,
        strategy="",
        learning_rate=0.0,
        rounds=0,
        steps=0,
        expected_batch=0,
        dimension=0,
        f1=f1,
        f1_lenient=lenient,
        loss=loss,
        f1_sentences=sentences,
        seconds=0.0,
    )


def _f1(scores: Scores) -> tuple[float, float, int]:
    strict, lenient = scores.f1("entities", "strict"), scores.f1("entities", "lenient")
    return strict or 0.0, lenient or 0.0, scores.examples


def losses_of(plan: Plan, adapters: Sequence[Path | None], examples: Sequence[Example], on: Progress) -> list[float]:
    """Nats per answer token, for each adapter (None: the base model alone), by one loading of the base model."""
    base = load_base(plan.model)
    found = []
    for number, path in enumerate(adapters):
        state: AdapterState | None = None if path is None else load_peft(path)

        def on_batch(done: int, number: int = number) -> None:
            on(number * len(examples) + done, len(adapters) * len(examples))

        tokens = plan.training.max_tokens
        losses = example_losses(base, state, plan.lora, examples, max_tokens=tokens, on_batch=on_batch)
        found.append(mean_loss(losses))
    return found
