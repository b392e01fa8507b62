"""Local training, losses and answers, each made once: kept in the folder of the runs by what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from cells.table import locked

from fedsec.data.schema import Document, Example
from fedsec.data.sitedata import site_examples
from fedsec.evaluation.loss import ExampleLoss, example_losses
from fedsec.evaluation.scores import Scores
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import TrainingSpec
from fedsec.site.work import TestSet, score_tests
from fedsec.spool import write_durably
from fedsec.study.corpora import public_examples
from fedsec.study.prepare import read_draft
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import BaseModel, load_base
from fedsec.training.loop import train_round
from fedsec.training.replicas import Replicas
from fedsec.training.round import StepInfo
from suite.notes import VALIDATION, Notes, read
from suite.settings import PLAN, Scale

Say = Callable[[str, int, int], None]


@dataclass
class Lab:
    """One suite's folder, scale, notes and base model. ``say`` hears what is being done: words, done, of how many."""

    out: Path
    scale: Scale
    jobs: int = 1
    say: Say = field(default=lambda what, done, of: None, repr=False)

    @cached_property
    def draft(self) -> Draft:
        """The plan that all runs share."""
        return read_draft(PLAN, self.scale.changes)

    @cached_property
    def models(self) -> Replicas:
        """The base model."""
        return Replicas(load_base(self.draft.model), self.jobs)

    @cached_property
    def notes(self) -> Notes:
        """All documents, read once."""
        return read(self.scale)

    def examples(self, documents: Sequence[Document], section: DataSection) -> list[Example]:
        """A site's training examples, as `fedsec run` makes them."""
        return site_examples(documents, section, self.draft.task)[0]

    def initial(self, seed: int) -> AdapterState:
        """The adapter that a plan with this seed begins with."""
        return initial_adapter(self.models.base, self.draft.lora, seed)

    def test(self, name: str, limit: int | None = None) -> TestSet:
        """A test set, or the first sentences of it."""
        spec = self.notes.test_spec(name)
        return TestSet(spec, public_examples(spec, self.notes.tests[name], self.draft)[:limit])

    def wide_test(self, name: str) -> TestSet:
        """Twice as many sentences of a test set, for experiments that have one."""
        spec = self.notes.test_spec(name).model_copy(update={"limit": 2 * self.scale.test})
        return TestSet(spec, public_examples(spec, self.notes.tests[name], self.draft))

    def apart_tests(self, name: str) -> list[TestSet]:
        """The sentences of `wide_test`, asked for one label at a time."""
        whole, found = self.notes.test_spec(name), []
        for label in whole.entity_types or ():
            only = {"name": f"{name}, {label}", "entity_types": (label,), "relation_types": None}
            spec = whole.model_copy(update={**only, "limit": 2 * self.scale.test})
            found.append(TestSet(spec, public_examples(spec, self.notes.tests[name], self.draft)))
        return found

    def validation(self, limit: int) -> list[Example]:
        """The sentences that a plan's validation set of this size has."""
        labels = self.notes.validation_labels
        spec = self.notes.test_spec(self.notes.pool).model_copy(
            update={
                "name": VALIDATION,
                "entity_types": labels.entities,
                "relation_types": labels.relations,
                "limit": limit,
            }
        )
        return public_examples(spec, self.notes.validation, self.draft)

    # ---- made once

    def train(
        self,
        start: AdapterState,
        examples: Sequence[Example],
        who: str,
        *,
        round_index: int,
        rounds: int,
        seed: int,
        spec: TrainingSpec,
        base: BaseModel | None = None,
    ) -> AdapterState:
        """One round of local training: the same for every experiment that asks for the same. Resumed after a kill.

        ``who`` names the site, and orders its batches with ``seed``. ``base``: a replica that the caller has taken.
        """
        material = hashlib.sha256(f"fedsec paper suite 1|{seed}|{who}".encode()).digest()
        key = _key(
            "train",
            self.models.base.weights_sha256,
            start.digest().hex(),
            _digest(examples),
            spec.model_dump(mode="json"),
            self.draft.lora.model_dump(mode="json"),
            [round_index, rounds],
            material.hex(),
        )

        def make(path: Path) -> bytes:
            def on_step(step: StepInfo) -> None:
                self.say(f"{who}, round {round_index + 1}", step.step, step.steps)

            def on(model: BaseModel) -> AdapterState:
                return train_round(
                    model,
                    start,
                    examples,
                    spec,
                    self.draft.lora,
                    round_index=round_index,
                    rounds=rounds,
                    seed_material=material,
                    checkpoint=path.with_suffix(".checkpoint"),
                    on_step=on_step,
                ).adapter

            if base is not None:
                return on(base).to_bytes()
            with self.models.take() as model:
                return on(model).to_bytes()

        return AdapterState.from_bytes(self._once(key, make), start.shapes)

    def losses(self, adapter: AdapterState | None, examples: Sequence[Example]) -> list[ExampleLoss]:
        """The loss of each example."""
        key = _key("losses", self._model(adapter), _digest(examples))

        def make(path: Path) -> bytes:
            with self.models.take() as base:
                found = example_losses(
                    base,
                    adapter,
                    self.draft.lora,
                    examples,
                    max_tokens=self.draft.training.max_tokens,
                    on_batch=lambda done: self.say("loss", done, len(examples)),
                )
            return json.dumps([[one.example_id, one.nats, one.tokens] for one in found]).encode()

        return [ExampleLoss(*one) for one in json.loads(self._once(key, make))]

    def scores(self, adapter: AdapterState | None, tests: Sequence[TestSet]) -> dict[str, Scores]:
        """Greedy answers to test sets, scored. Sets that were not answered yet are answered together."""
        spec = self.draft.evaluation.model_dump(mode="json", include={"max_new_tokens", "batch_size"})
        keys = {t.spec.name: _key("scores", self._model(adapter), _digest(t.examples), spec) for t in tests}
        with self._alone(_key("answers", self._model(adapter))):
            missing = [t for t in tests if not self._path(keys[t.spec.name]).is_file()]
            if missing:
                self._answer(adapter, missing, keys)
        return {name: Scores.model_validate_json(self._path(key).read_bytes()) for name, key in keys.items()}

    def _answer(self, adapter: AdapterState | None, tests: Sequence[TestSet], keys: Mapping[str, str]) -> None:
        """All of them together: a decoder reads the whole model once a token however many sentences wait for it."""
        found = score_tests(
            self.models, adapter, self.draft, tests, None, lambda done, of: self.say("answers", done, of)
        )
        for name, scores in found.items():
            write_durably(self._path(keys[name]), [scores.model_dump_json().encode()])

    def _model(self, adapter: AdapterState | None) -> list[object]:
        lora = self.draft.lora.model_dump(mode="json")
        return [self.models.base.weights_sha256, None if adapter is None else adapter.digest().hex(), lora]

    def _path(self, key: str) -> Path:
        return self.out / "made" / key

    def _alone(self, key: str) -> AbstractContextManager[None]:
        """Other processes and threads that ask for the same wait."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return locked(path.with_suffix(".lock"))

    def _once(self, key: str, make: Callable[[Path], bytes]) -> bytes:
        """What ``make`` gave for this key, now or earlier; other processes and threads that want the same wait."""
        path = self._path(key)
        if not path.is_file():
            with self._alone(key):
                if not path.is_file():
                    write_durably(path, [make(path)])
                    path.with_suffix(".checkpoint").unlink(missing_ok=True)
        return path.read_bytes()


def vector_norm(vector: np.ndarray) -> float:
    """Euclidean norm, in float64."""
    return float(np.linalg.norm(vector.astype(np.float64)))


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def _key(kind: str, *parts: object) -> str:
    return f"{kind}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]}"
