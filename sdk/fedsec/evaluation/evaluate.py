"""Score one adapter on one test set: decode, read the answers, count, sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from fedsec.data.answers import parse_answer
from fedsec.data.schema import Example
from fedsec.evaluation.generate import generate_answers
from fedsec.evaluation.matching import entity_tallies, relation_tallies
from fedsec.evaluation.scores import ExampleCounts, Scores, kind_scores
from fedsec.plan.model import EvaluationSpec, LoraSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.base_model import BaseModel
from fedsec_secure.errors import ConfigError

TaskKind = Literal["entities", "relations", "both"]


def evaluate(
    base: BaseModel,
    adapter: AdapterState | None,
    lora: LoraSpec | None,
    examples: Sequence[Example],
    spec: EvaluationSpec,
    *,
    entity_types: Sequence[str],
    relation_types: Sequence[str] | None,
    kind: TaskKind = "both",
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """Greedy answers to ``examples``, scored against their annotations; ``adapter`` None is zero-shot.

    ``entity_types`` and ``relation_types`` are the labels that the test set's prompts ask for; without relation types
    the relation scores are None. ``kind`` is the plan's ``task.kind``: with ``relations`` the prompts give
    the mentions, and the entity scores are None.
    """
    began = time.perf_counter()
    answers = generate_answers(
        base,
        adapter,
        lora,
        [example.prompt for example in examples],
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.batch_size,
        on_batch=on_batch,
    )
    seconds = time.perf_counter() - began
    return score_answers(answers, examples, entity_types, relation_types, kind=kind, seconds=seconds)


def score_answers(
    answers: Sequence[str],
    examples: Sequence[Example],
    entity_types: Sequence[str],
    relation_types: Sequence[str] | None,
    *,
    kind: TaskKind = "both",
    seconds: float = 0.0,
) -> Scores:
    """Score what was written, one answer an example. Arguments as in `evaluate`."""
    if len(answers) != len(examples) or not examples:
        raise ConfigError(f"scoring needs one answer an example, found {len(answers)} for {len(examples)}")
    links = () if kind == "entities" else tuple(relation_types or ())
    counts, ungrounded, malformed = [], 0, 0
    for answer, example in zip(answers, examples, strict=True):
        given = example.entities if kind == "relations" else ()
        parsed = parse_answer(answer, example.text, entity_types, links, given)
        ungrounded += len(parsed.ungrounded_entities) + len(parsed.ungrounded_relations)
        malformed += parsed.malformed_lines
        counts.append(
            ExampleCounts(
                example_id=example.example_id,
                entities={} if kind == "relations" else entity_tallies(example, parsed, entity_types),
                relations={} if example.relations is None else relation_tallies(example, parsed, links),
                unknown_types=len(parsed.unknown_types),
            )
        )
    annotated = links and any(example.relations is not None for example in examples)
    return Scores(
        examples=len(examples),
        entities=None if kind == "relations" else kind_scores(counts, "entities"),
        relations=kind_scores(counts, "relations") if annotated else None,
        ungrounded=ungrounded,
        malformed_lines=malformed,
        seconds=seconds,
        counts=tuple(counts),
    )
