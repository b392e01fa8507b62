"""Score the answers that a model wrote: read them, count, sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fedsec.data.answers import parse_answer
from fedsec.data.schema import Example
from fedsec.evaluation.matching import entity_tallies, relation_tallies
from fedsec.evaluation.scores import ExampleCounts, Scores, kind_scores
from fedsec_secure.errors import ConfigError

TaskKind = Literal["entities", "relations", "both"]
"""Those whose answers mark something; written titles are scored in ``titles``."""


def score_answers(
    answers: Sequence[str],
    examples: Sequence[Example],
    entity_types: Sequence[str],
    relation_types: Sequence[str] | None,
    *,
    kind: TaskKind = "both",
    seconds: float = 0.0,
) -> Scores:
    """Score one answer an example against the example's annotations.

    ``entity_types`` and ``relation_types`` are the labels that the test set's prompts ask for; without relation types
    the relation scores are None. ``kind`` is the plan's ``task.kind``: with ``relations`` the prompts give
    the mentions, and the entity scores are None. ``seconds``: what writing them took. ConfigError for unequal or no
    answers.
    """
    if len(answers) != len(examples) or not examples:
        raise ConfigError(f"scoring needs one answer an example, found {len(answers)} for {len(examples)}")
    links = () if kind == "entities" else tuple(relation_types or ())
    counts, ungrounded, malformed = [], 0, 0
    for answer, example in zip(answers, examples, strict=True):
        given = example.entities if kind == "relations" else ()
        asked = () if example.relations is None else links  # as its prompt did
        parsed = parse_answer(answer, example.text, entity_types, asked, given)
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
