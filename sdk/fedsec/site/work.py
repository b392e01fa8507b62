"""What a site does with its notes: train a round, weigh itself, and go on alone for the baseline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from fedsec.data.canaries import Canary, planted
from fedsec.data.schema import Example
from fedsec.evaluation.evaluate import score_answers
from fedsec.evaluation.exposure import exposures
from fedsec.evaluation.generate import generate_answers
from fedsec.evaluation.loss import example_losses, mean_loss
from fedsec.evaluation.private_score import noisy_loss
from fedsec.evaluation.scores import Scores
from fedsec.evaluation.titles import score_titles
from fedsec.plan.model import Draft, Plan
from fedsec.plan.specs import PublicTest
from fedsec.privacy.distributed import DistributedStep
from fedsec.site.identity import Progress
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import BaseModel
from fedsec.training.batches import require_room
from fedsec.training.loop import train_round
from fedsec.training.private.distributed import noisy_integers
from fedsec.training.private.loop import Private, drawn_units, require_small_batches, train_private_round
from fedsec.training.private.refusals import require_base
from fedsec.training.public_step import adapter_of, between_rounds
from fedsec.training.ranks import cut, padded, spec_of_rank
from fedsec.training.replicas import Replicas
from fedsec.training.round import StepInfo, TrainResult
from fedsec_secure.codec import sha256
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.lanes import Ints
from fedsec_secure.numeric.score_levels import level_of
from fedsec_secure.weighting.rules import clip_count


@dataclass(frozen=True)
class TestSet:
    """A public test set as examples, with the labels that its prompts ask for."""

    spec: PublicTest
    examples: Sequence[Example]


@dataclass
class LocalWork:
    """SiteWork on a base model that may be shared with other sites of the same process.

    Attributes:
        name: the site. examples: its training examples. tests: the plan's public test sets. validation: the examples
            that weights are drawn from, where the plan weighs by scores; held_out: the site's own, where it does so
            with noise.
        models: the base, in as many replicas as sites work at a time.
        progress: called with small dictionaries (counts, losses); they stay at the site.
    """

    name: str
    plan: Plan
    models: Replicas
    examples: Sequence[Example] = field(repr=False)
    tests: Sequence[TestSet] = field(repr=False, default=())
    validation: Sequence[Example] = field(repr=False, default=())
    held_out: Sequence[Example] = field(repr=False, default=())
    progress: Progress = lambda event: None
    _planted: list[Example] = field(repr=False, default_factory=list)

    def __post_init__(self) -> None:
        if not self.examples:
            raise ConfigError(f"site {self.name}: expected at least one training example, found none")
        self._require_room()
        self._require_private_base()

    def _require_private_base(self) -> None:
        """Said before anybody asks, for the same reason."""
        if self.plan.dp.mode != "none":
            training = self.plan.training
            at_once = 1 if self.plan.dp.mode == "distributed" else training.batch_size
            require_base(self.models.base.model, at_once, training.max_tokens)

    def _require_room(self) -> None:
        """Said before anybody asks: in a round budget would be reserved, and the coordinator would hear of it."""
        base, most = self.models.base, self.plan.training.max_tokens
        require_room(base, self.examples, most, f"site {self.name}, its notes")
        require_room(base, self.validation, most, "the validation set")
        require_room(base, self.held_out, most, f"site {self.name}, its held-out notes")

    @cached_property
    def _initial(self) -> AdapterState:
        return initial_adapter(self.models.base, self.plan.lora, self.plan.seed)

    def initial_adapter(self) -> AdapterState:
        """The adapter that the plan fixes for round 0."""
        return self._initial

    def plant(self, canaries: Sequence[Canary]) -> None:
        """Train on these beside the notes. They count in no weight.

        ConfigError where that is more than a private step may draw from: said here, before anybody asks, since in a
        round the coordinator would hear of it.
        """
        self._planted = planted(canaries, self.plan.canaries)
        dp = self.plan.dp
        if dp.mode != "none":
            require_small_batches(len(drawn_units(self._trained_on, dp)), dp, self.plan.training.batch_size)

    @property
    def _trained_on(self) -> list[Example]:
        return [*self.examples, *self._planted]

    def exposure(self, adapter: AdapterState, canaries: Sequence[Canary]) -> tuple[float, ...]:
        """How exposed each of them is under the adapter, in bits."""
        total = len(canaries) * (1 + self.plan.canaries.candidates)
        with self.models.take() as base:
            found = exposures(
                base,
                adapter,
                self.plan.lora,
                canaries,
                max_tokens=self.plan.training.max_tokens,
                on_batch=lambda done: self.progress(
                    {"event": "exposure", "site": self.name, "step": done, "steps": total}
                ),
            )
        return tuple(one.bits for one in found)

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        """Local training of one round; resumes from ``checkpoint`` to the same bits."""
        return self._train(adapter, run, round_index, checkpoint, "train")

    def noisy_sum(self, adapter: AdapterState, step: DistributedStep) -> Ints:
        """One private step, without a step of the optimiser: everyone takes that on the sum."""
        with self.models.take() as base:
            return noisy_integers(base, adapter, self._trained_on, self.plan, step)

    def weight(self) -> int:
        """1, or the site's own example count within the plan's bounds."""
        rule = self.plan.weighting
        return clip_count(len(self.examples), rule.count_min, rule.count_max) if rule.rule == "size" else 1

    def score(self, adapter: AdapterState) -> int | None:
        """The level of the mean loss on the validation set, in nats per answer token; or of a noisy one on held-out
        notes, with fresh noise every time: to be called once a round.
        """
        if self.plan.weighting.rule != "influence":
            return None
        private = self.plan.weighting.private
        if private is not None:
            with self.models.take() as base:
                return level_of(noisy_loss(base, adapter, self.held_out, self.plan, private))
        with self.models.take() as base:
            return level_of(validation_loss(base, adapter, self.plan, self.validation))

    def single_scores(self, first: AdapterState, run: str, checkpoint: Callable[[int], Path]) -> bytes:
        """Train the remaining rounds alone, with the federation's steps, and score every public test set."""
        adapter = first
        for round_index in range(1, self.plan.rounds):
            path = checkpoint(round_index)
            adapter = self._train(between_rounds(self.plan, adapter), run, round_index, path, "single")
            path.unlink(missing_ok=True)
        scores = self._score(adapter_of(adapter))
        return json.dumps({n: s.model_dump(mode="json") for n, s in scores.items()}, sort_keys=True).encode()

    def _train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path, kind: str) -> AdapterState:
        def on_step(step: StepInfo) -> None:
            self.progress(
                {
                    "event": kind,
                    "site": self.name,
                    "round": round_index,
                    "step": step.step,
                    "steps": step.steps,
                    "loss": step.loss,
                }
            )

        how, lora = self._how(run), self.plan.lora
        rank = lora.site_ranks.get(self.name, lora.rank)
        with self.models.take() as base:
            trained = how(
                base,
                cut(adapter, rank) if rank < lora.rank else adapter,
                self._trained_on,
                self.plan.training,
                spec_of_rank(lora, rank) if rank < lora.rank else lora,
                round_index=round_index,
                rounds=self.plan.rounds,
                checkpoint=checkpoint,
                on_step=on_step,
            ).adapter
        return padded(trained, adapter) if rank < lora.rank else trained

    def _how(self, run: str) -> Callable[..., TrainResult]:
        """With the plan's privacy, or in an order that is this site's and this run's own."""
        if self.plan.dp.mode != "none":
            return partial(train_private_round, private=Private(self.plan.dp))
        seed = sha256(b"fedsec/site-training/v1\0", self.plan.digest(), run.encode() + b"\0" + self.name.encode())
        return partial(train_round, seed_material=seed)

    def _score(self, adapter: AdapterState) -> dict[str, Scores]:
        """On one replica: other sites may be at work on the rest."""
        limit = self.plan.evaluation.single_test_limit
        with self.models.take() as base:
            return score_tests(Replicas(base), adapter, self.plan, self.tests, limit, self._on_batch)

    def _on_batch(self, done: int, of: int) -> None:
        self.progress({"event": "score", "site": self.name, "step": done, "steps": of})


def validation_loss(base: BaseModel, adapter: AdapterState, plan: Plan, examples: Sequence[Example]) -> float:
    """Of an adapter on the plan's validation set, in nats an answer token over all examples."""
    return mean_loss(example_losses(base, adapter, plan.lora, examples, max_tokens=plan.training.max_tokens))


def score_tests(
    models: Replicas,
    adapter: AdapterState | None,
    plan: Draft,
    tests: Sequence[TestSet],
    limit: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Scores]:
    """Greedy answers of one adapter (None: zero-shot) to public test sets, scored for each of them.

    All sets are answered together: a decoder reads the whole model once a token however many sentences wait for it.
    ``limit``: at most so many sentences of each set. ``on_batch`` hears how many sentences of all are answered.
    """
    asked = [test.examples[:limit] for test in tests]
    total = sum(map(len, asked))
    began = time.perf_counter()
    answers = generate_answers(
        models,
        adapter,
        plan.lora,
        [example.prompt for examples in asked for example in examples],
        max_new_tokens=plan.evaluation.max_new_tokens,
        batch_size=plan.evaluation.batch_size,
        on_batch=None if on_batch is None else lambda done: on_batch(done, total),
    )
    seconds = time.perf_counter() - began
    scores, at = {}, 0
    for test, examples in zip(tests, asked, strict=True):
        written, took = answers[at : at + len(examples)], seconds * len(examples) / total
        at += len(examples)
        if plan.task.kind == "title":
            scores[test.spec.name] = score_titles(written, examples, _loss(models, adapter, plan, examples), took)
            continue
        labels = (test.spec.entity_types, test.spec.relation_types)
        scores[test.spec.name] = score_answers(written, examples, *labels, kind=plan.task.kind, seconds=took)
    return scores


def _loss(models: Replicas, adapter: AdapterState | None, plan: Draft, examples: Sequence[Example]) -> float:
    """Nats per answer token, with the true answers read and not written."""
    with models.take() as base:
        return mean_loss(example_losses(base, adapter, plan.lora, examples, max_tokens=plan.training.max_tokens))
