"""Examples for the tests of the paper's experiments."""

from __future__ import annotations

from fedsec.data.schema import Entity, Example


def example(name: str, answer: str = "none", text: str = "No harm.", entities: tuple[Entity, ...] = ()) -> Example:
    """A note of one sentence."""
    return Example(
        example_id=name,
        document_id=name,
        patient_id=name,
        text=text,
        offset=0,
        entities=entities,
        relations=None,
        prompt=f"Text: {text}",
        answer=answer,
    )
