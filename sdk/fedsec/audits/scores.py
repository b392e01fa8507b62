"""What a published score tells: whether one record was there, guessed from the level that a site states.

With `weighting.rule = "influence"` a site publishes, in steps of 0.05, the loss of its own model on the plan's
validation set, or with `[weighting.private]` a noisy one on its held-out notes. Here many sites are trained from the
same start with the same records, half of them with one record more, and an attacker who knows all the rest guesses from
the level alone which ones had it (Yeom et al. 2018 guess membership from a loss in this way). The record is unlike all
others, and who chose the validation set may have asked for it: the worst cases that we know.

The model is the tiny one, first fitted to other records: untrained, it is worse than the worst level, and stays
there with privacy or without. Each row that privacy bounds stands beside a control that has to leak: the same functions
from the same start with next to no noise. Levels that are all the same fail every row (`fedsec.audits.levels`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsec.audits.bounds import LEAST_NOISE, confidence_level
from fedsec.audits.canaries import LORA, Run, text_canaries
from fedsec.audits.crafted import tiny_base
from fedsec.audits.levels import Levels
from fedsec.audits.outcome import Row, Watch, unseen
from fedsec.data.schema import Example
from fedsec.evaluation.loss import example_losses, mean_loss
from fedsec.evaluation.private_score import noisy_mean, unit_losses
from fedsec.plan.specs import PrivateScore, TrainingSpec
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.batches import collate, encode
from fedsec.training.digests import weights_digest
from fedsec.training.loop import train_round
from fedsec.training.objective import record_losses
from fedsec.training.private.loop import Private, train_private_round
from fedsec.training.private.mechanism import MATES
from fedsec_secure.accounting.events import GaussianEvent
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.score_levels import level_of

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

SPEC: Final = TrainingSpec(learning_rate=1e-2, batch_size=4, epochs=6, threads=1, max_tokens=128, warmup_fraction=0.05)
_PRIVATE: Final = SPEC.model_copy(update={"batch_size": 16})
"""How many gradients are computed at a time changes nothing but the time."""
_SCORES: Final = 5
"""Noisy scores of each update with the record held out, and as many without: no update is in one lot more than in the
other, so what updates differ by makes the interval too wide, not too narrow.
"""
_FITTING: Final = 50
"""Steps on other records: the model then knows the form of an answer, at 0.5 nats, and nothing of what differs."""


@dataclass(frozen=True)
class Sites:
    """What is trained and guessed. ConfigError for numbers that no such test can use.

    Attributes:
        trainings: of each kind, half of them with the record.
        records: of a site beside the one in question.
        validation: examples of the validation set.
        noise_multiplier, sampling_rate, steps: of the private trainings.
        held_out: notes that a noisy score is on, beside the one in question.
        score_noise: noise multiplier of that score.
        confidence: of each interval.
    """

    trainings: int = 60
    records: int = 20
    validation: int = 3
    noise_multiplier: float = 2.65
    sampling_rate: float = 0.5
    steps: int = 20
    held_out: int = 10
    score_noise: float = 1.08
    confidence: float = 0.95

    def __post_init__(self) -> None:
        confidence_level(self.confidence)
        if not (20 <= self.trainings <= 10_000 and self.records >= 4 and self.validation >= 2 and self.held_out >= 1):
            raise ConfigError(
                "scores: expected 20 to 10000 trainings, 4 records or more, a validation set of 2 or more and a "
                f"held-out note, found {self.trainings}, {self.records}, {self.validation} and {self.held_out}: use "
                "60, 20, 3 and 10"
            )
        if not LEAST_NOISE <= self.score_noise <= 1000:
            raise ConfigError(
                f"scores: expected a noise multiplier from {LEAST_NOISE} to 1000 for the score, found "
                f"{self.score_noise}: use that of the plan's weighting.private"
            )
        if not (0 < self.sampling_rate <= 1 and 1 <= self.steps <= 100_000):
            raise ConfigError(
                "scores: expected a sampling rate above 0 and up to 1 and 1 to 100000 steps, found "
                f"{self.sampling_rate} and {self.steps}: use 0.5 and 20"
            )
        if (self.records + 1) * self.sampling_rate > MATES / 2:
            raise ConfigError(
                f"scores: expected at most {MATES // 2} units in a step, found {self.records + 1} at a rate of "
                f"{self.sampling_rate:g}: give a site fewer records, or lower the rate"
            )
        _ = self.private  # its own checks, before anything is trained

    @property
    def private(self) -> Run:
        """The private trainings."""
        return Run(self.noise_multiplier, self.sampling_rate, self.steps)


class World:
    """A fitted model, its start, and everybody's records."""

    def __init__(self, sites: Sites, base: BaseModel) -> None:
        self.sites, self.base = sites, base
        self.start = initial_adapter(base, LORA, 0)
        self.own, self.kept = notes("site", sites.records), notes("kept", sites.held_out)
        self.target, alike = text_canaries(2)
        others = notes("elsewhere", sites.validation - 1)
        self.asking, self.apart = [*others, self.target], [*others, alike]

    def trained(self, noise: float | None, what: str, watch: Watch) -> Iterator[tuple[bool, AdapterState]]:
        """Whether the record was there, and a site's model after a round, as it would be scored: every second one with
        it. ``noise``: multiplier of private trainings.
        """
        for number in range(self.sites.trainings):
            having = number % 2 == 0
            yield having, self._train([*self.own, self.target] if having else self.own, noise)
            watch(what, number + 1, self.sites.trainings)

    def _train(self, examples: Sequence[Example], noise: float | None) -> AdapterState:
        if noise is None:
            seed = os.urandom(32)
            return train_round(
                self.base, self.start, examples, SPEC, LORA, round_index=0, rounds=1, seed_material=seed
            ).adapter
        # The plan divides by its own number: a count of the site's would tell one record more.
        how = Private(replace(self.sites.private, noise_multiplier=noise).dp(self.sites.records))
        return train_private_round(
            self.base, self.start, examples, _PRIVATE, LORA, private=how, round_index=0, rounds=1
        ).adapter

    def level(self, adapter: AdapterState, examined: Sequence[Example]) -> int:
        """What is published of an adapter."""
        return level_of(mean_loss(example_losses(self.base, adapter, LORA, examined, max_tokens=SPEC.max_tokens)))

    def held_out_losses(self, adapter: AdapterState) -> list[float]:
        """Of each held-out note, the record last."""
        notes = [*self.kept, self.target]
        return unit_losses(self.base, adapter, LORA, notes, max_tokens=SPEC.max_tokens, unit="record")


def audit(sites: Sites, watch: Watch = unseen) -> list[Row]:
    """Rows that epsilon bounds, each beside controls that have to leak."""
    world, level = World(sites, fitted_base()), confidence_level(sites.confidence)
    control = bare(world, watch).control("control: private, next to no noise", level)
    return [*plain(world, watch), control, *private(world, watch)]


def plain(world: World, watch: Watch = unseen) -> list[Row]:
    """Without privacy: the record is in the validation set, or one like it is."""
    asking, apart = Levels(), Levels()
    for having, adapter in world.trained(None, "scores", watch):
        asking.add(having, world.level(adapter, world.asking))
        apart.add(having, world.level(adapter, world.apart))
    level = confidence_level(world.sites.confidence)
    return [
        asking.control("control: no privacy, the record is in the set", level),
        apart.control("control: no privacy, one like it is", level),
    ]


def bare(world: World, watch: Watch = unseen) -> Levels:
    """Of private trainings with next to no noise: what noise hides, where it hides anything, has to be seen here."""
    found = Levels()
    for having, adapter in world.trained(LEAST_NOISE, "private, next to no noise", watch):
        found.add(having, world.level(adapter, world.asking))
    return found


def private(world: World, watch: Watch = unseen) -> list[Row]:
    """Private updates whose score asks for the record, and noisy scores of the same updates on notes that have it."""
    sites, level = world.sites, confidence_level(world.sites.confidence)
    asking, silent, released = Levels(), Levels(), Levels()
    for having, adapter in world.trained(sites.noise_multiplier, "private", watch):
        asking.add(having, world.level(adapter, world.asking))
        losses = world.held_out_losses(adapter)
        for levels, noise in ((silent, LEAST_NOISE), (released, sites.score_noise)):
            score = PrivateScore(noise_multiplier=noise, expected_units=sites.held_out)
            for _ in range(_SCORES):
                # Far above the middle: the record, which is the last, raises the sum.
                levels.add(False, level_of(noisy_mean(losses, score)))
                levels.add(True, level_of(noisy_mean(losses[:-1], score)))
    delta = sites.private.delta
    return [
        asking.bounded("private, the record is in the set", sites.private.event, delta, level),
        silent.control("control: held out, next to no noise", level),
        released.bounded("noisy score, the record is held out", GaussianEvent(sites.score_noise), delta, level),
    ]


def fitted_base() -> BaseModel:
    """``tiny-random`` after some steps on records of the same form that no site has; the same every time."""
    import torch

    base = tiny_base()
    encoded = [encode(base.tokenizer, note, SPEC.max_tokens) for note in notes("public", 64)]
    batches = [collate(encoded[at : at + 16], base.pad_token) for at in range(0, 64, 16)]
    base.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(base.model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(_FITTING):
        optimiser.zero_grad()
        torch.autograd.backward(record_losses(base, batches[step % len(batches)]).token_mean())
        optimiser.step()
    base.model.requires_grad_(False)
    return replace(base, weights_sha256=weights_digest(base.model, base.tokenizer))


def notes(kind: str, count: int) -> list[Example]:
    """Made-up records of one kind, always the same: a drug with a number in a short sentence."""
    numbers = np.random.default_rng(list(kind.encode())).integers(100, 1000, count)
    found = []
    for index, number in enumerate(numbers):
        text = f"Took drug{number} for pain."
        name = f"{kind}-{index}"
        found.append(
            Example(
                example_id=name, document_id=name, patient_id=name, text=text, offset=0, entities=(), relations=None,
                prompt=f"Text: {text}\nEntities:\n", answer=f"drug{number} | Drug",
            )
        )  # fmt: skip
    return found
