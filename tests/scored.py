"""Sentences to be scored, and scores out of counts, as tests make them by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedsec.data.schema import Example
from fedsec.evaluation.scores import ExampleCounts, Scores, kind_scores


def example(name: str, **changes: Any) -> Example:
    """A document of one sentence, without mentions and with no word of relations unless said otherwise."""
    made = Example(
        example_id=name,
        document_id=name,
        patient_id=name,
        text="No harm.",
        offset=0,
        entities=(),
        relations=None,
        prompt="",
        answer="none",
    )
    changed = made.model_copy(update=changes)
    return changed if "prompt" in changes else changed.model_copy(update={"prompt": f"Text: {changed.text}"})


def counted(counts: Iterable[ExampleCounts], **changes: Any) -> Scores:
    """Of entities, unless said otherwise; every line of every answer was well-formed."""
    rows = tuple(counts)
    made = Scores(
        examples=len(rows),
        entities=kind_scores(rows, "entities"),
        relations=None,
        ungrounded=0,
        malformed_lines=0,
        seconds=0.0,
        counts=rows,
    )
    return made.model_copy(update=changes)
