"""What a site does with its notes: train a round, weigh itself, and go on alone for the baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fedsec.data.schema import Example
from fedsec.evaluation.evaluate import evaluate
from fedsec.evaluation.scores import Scores
from fedsec.plan.model import Plan, PublicTest
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import BaseModel
from fedsec.training.loop import StepInfo, train_round
from fedsec_secure.codec import sha256
from fedsec_secure.errors import ConfigError
from fedsec_secure.weighting.rules import clip_count

Progress = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class TestSet:
    """A public test set as examples, with the labels that its prompts ask for."""

    spec: PublicTest
    examples: Sequence[Example]


@dataclass
class LocalWork:
    """SiteWork on a base model that may be shared with other sites of the same process.

    Attributes:
        name: the site. examples: its training examples. tests: the plan's public test sets.
        progress: called with small dictionaries (counts, losses); they stay at the site.
    """

    name: str
    plan: Plan
    base: BaseModel
    examples: Sequence[Example] = field(repr=False)
    tests: Sequence[TestSet] = field(repr=False, default=())
    progress: Progress = lambda event: None

    def __post_init__(self) -> None:
        if not self.examples:
            raise ConfigError(f"site {self.name}: expected at least one training example, found none")

    @cached_property
    def _initial(self) -> AdapterState:
        return initial_adapter(self.base, self.plan.lora, self.plan.seed)

    def initial_adapter(self) -> AdapterState:
        """The adapter that the plan fixes for round 0."""
        return self._initial

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        """Local training of one round; resumes from ``checkpoint`` to the same bits."""
        return self._train(adapter, run, round_index, checkpoint, "train")

    def weight(self) -> int:
        """1, or the site's own example count within the plan's bounds."""
        rule = self.plan.weighting
        return clip_count(len(self.examples), rule.count_min, rule.count_max) if rule.rule == "size" else 1

    def single_scores(self, first: AdapterState, run: str, checkpoint: Callable[[int], Path]) -> bytes:
        """Train the remaining rounds alone, with the federation's steps, and score every public test set."""
        adapter = first
        for round_index in range(1, self.plan.rounds):
            path = checkpoint(round_index)
            adapter = self._train(adapter, run, round_index, path, "single")
            path.unlink(missing_ok=True)
        limit = self.plan.evaluation.single_test_limit
        scores = {
            t.spec.name: score_test(self.base, adapter, self.plan, t, limit, self._on_batch(t)).model_dump(mode="json")
            for t in self.tests
        }
        return json.dumps(scores, sort_keys=True).encode()

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

        result = train_round(
            self.base,
            adapter,
            self.examples,
            self.plan.training,
            self.plan.lora,
            round_index=round_index,
            rounds=self.plan.rounds,
            seed_material=sha256(
                b"fedsec/site-training/v1\0", self.plan.digest(), run.encode() + b"\0" + self.name.encode()
            ),
            checkpoint=checkpoint,
            on_step=on_step,
        )
        return result.adapter

    def _on_batch(self, test: TestSet) -> Callable[[int], None]:
        return lambda done: self.progress(
            {"event": "score", "site": self.name, "test": test.spec.name, "step": done, "steps": len(test.examples)}
        )


def score_test(
    base: BaseModel,
    adapter: AdapterState | None,
    plan: Plan,
    test: TestSet,
    limit: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """Greedy answers of one adapter (None: zero-shot) to one public test set, scored."""
    return evaluate(
        base,
        adapter,
        plan.lora,
        test.examples[:limit],
        plan.evaluation,
        entity_types=test.spec.entity_types,
        relation_types=test.spec.relation_types,
        kind=plan.task.kind,
        on_batch=on_batch,
    )
