"""The task kind ``title``: a text, and the title that its authors gave it. What is learnt is written, not marked.

    Write the title of this text.
    Text: Belvapril is given for renal spasm. We report …
    Title:
    Colic after belvapril: a case report

The corpora of abstracts keep title and abstract apart, so there is a summary by the authors' own hands for each. A
text is taken whole; where it exceeds ``training.max_tokens`` it loses words at its end in training, never the title.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsec.data.schema import Document, Example
from fedsec.data.templates import ExampleCounts, flat
from fedsec.data.windows import WindowCounts
from fedsec_secure.errors import ConfigError


def make_title_prompt(text: str) -> str:
    """Prompt for the title of ``text``."""
    return f"Write the title of this text.\nText: {flat(text)}\nTitle:\n"


def title_of(answer: str) -> str:
    """The title in what a model wrote: its first line that is not blank; empty where there is none."""
    return next((line for raw in answer.split("\n") if (line := flat(raw).strip())), "")


def title_examples(documents: Sequence[Document]) -> tuple[list[Example], ExampleCounts]:
    """One example for each document that has a title and a text beside it, and what was left out.

    ConfigError where no document has.
    """
    examples = [_example(d, *d.body) for d in documents if _has_title(d)]
    if not examples:
        raise ConfigError(
            "the task kind is 'title', and no note has one beside its text: set title in JSON lines, or use a corpus "
            "that keeps titles apart (PubTator)"
        )
    counts = ExampleCounts(
        windows=WindowCounts(windows=len(examples)),
        examples=len(examples),
        entities=0,
        relations=0,
        entities_of_other_types=0,
        relations_of_other_types=0,
        windows_without_a_pair=0,
        documents_without_a_title=len(documents) - len(examples),
    )
    return examples, counts


def _has_title(document: Document) -> bool:
    return bool(document.title and document.title.strip() and document.body[1])


def _example(document: Document, start: int, text: str) -> Example:
    assert document.title is not None
    return Example(
        example_id=f"{document.document_id}#title",
        document_id=document.document_id,
        patient_id=document.patient_id,
        text=text,
        offset=start,
        entities=(),
        relations=None,
        prompt=make_title_prompt(text),
        answer=flat(document.title).strip(),
    )
