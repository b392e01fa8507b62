"""A site's notes, from its ``site.toml`` to training examples, and the check that a site runs before it joins."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from fedsec.data.corpora import load_corpus
from fedsec.data.labelmap import LabelMapReport, apply_label_map, load_label_map
from fedsec.data.readers.brat import read_brat
from fedsec.data.readers.common import Reading, ReadReport
from fedsec.data.readers.e3c import read_e3c
from fedsec.data.readers.jsonl import read_jsonl
from fedsec.data.readers.phee import read_phee
from fedsec.data.readers.pubtator import read_pubtator
from fedsec.data.schema import Document, Example
from fedsec.data.templates import ExampleCounts, build_examples
from fedsec.data.titles import title_examples
from fedsec.data.windows import make_all_windows
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import TaskSpec
from fedsec_secure.errors import ConfigError

READERS: Mapping[str, Callable[[Path], Reading]] = MappingProxyType(
    {"jsonl": read_jsonl, "pubtator": read_pubtator, "brat": read_brat, "phee": read_phee, "e3c": read_e3c}
)
"""Format -> reader of a path."""


class Tokenizer(Protocol):
    """What the check needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""


@dataclass(frozen=True)
class SiteDocuments:
    """A site's documents under the study's labels."""

    documents: tuple[Document, ...]
    report: ReadReport
    label_map: LabelMapReport | None
    excluded: int = 0
    """Documents of patients whom the section's list leaves out."""


@dataclass(frozen=True)
class Lengths:
    """Minimum, median, 95th percentile and maximum; zeros where there is nothing."""

    minimum: int
    median: int
    p95: int
    maximum: int

    @staticmethod
    def of(values: Sequence[int]) -> Lengths:
        """Nearest-rank quantiles."""
        if not values:
            return Lengths(0, 0, 0, 0)
        ordered = sorted(values)
        last = len(ordered) - 1
        return Lengths(ordered[0], ordered[last // 2], ordered[-(-last * 95 // 100)], ordered[-1])


@dataclass(frozen=True)
class DataCheck:
    """What ``fedsec site check`` tells a site about its own notes. Nothing of it leaves the site."""

    documents: int
    patients: int
    sentences: int
    document_chars: Lengths
    sentence_chars: Lengths
    sentence_tokens: Lengths | None
    """With a tokenizer only."""
    entities: Mapping[str, int]
    relations: Mapping[str, int] | None
    """None where no document is annotated with relations."""
    titles: int
    """Documents with a title of their own."""
    documents_without_entities: int
    documents_without_relation_labels: int
    relations_across_sentences: int
    duplicate_document_ids: int
    duplicate_texts: int
    """Documents whose text, white space aside, stands at an earlier document too."""


def load_site_documents(
    section: DataSection,
    folder: Path,
    *,
    root: Path | None = None,
) -> SiteDocuments:
    """Reads what a ``[data]`` or ``[test]`` section of a site file names, and applies its label map.

    Args:
        section: the section.
        folder: the site file's folder, to which its paths are relative.
        root: the corpora's folder for format ``corpus``; None: FEDSEC_DATA.

    Raises:
        ConfigError: with file, line and reason.
    """
    if section.format == "corpus":
        assert section.corpus is not None  # the section's own validator
        corpus = load_corpus(section.corpus, section.split or "train", root)
        documents, report = corpus.documents, corpus.report
    else:
        assert section.path is not None
        reading = READERS[section.format](folder / Path(section.path).expanduser())
        documents, report = reading.documents, reading.report
    exclude = section.excluded_patients(folder) or frozenset()
    kept = [d for d in documents if d.patient_id not in exclude]
    mapping: LabelMapReport | None = None
    excluded = len(documents) - len(kept)
    if section.label_map is not None:
        kept, mapping = apply_label_map(kept, load_label_map(folder / Path(section.label_map).expanduser()))
    if not kept:
        raise ConfigError("the site has no documents left after exclusions; check the data section")
    return SiteDocuments(tuple(kept), report, mapping, excluded)


def site_examples(
    documents: Sequence[Document], section: DataSection, task: TaskSpec
) -> tuple[list[Example], ExampleCounts]:
    """The section's training or test examples for the study's task, at most ``section.limit`` of them.

    A limit keeps those with the lowest SHA-256 of their ids, in the documents' order: they come from all over, and a
    lower limit keeps some of the same. Whether one is kept depends on how many others have a lower hash, so a document
    more or less can exchange examples of others. Callers that promise differential privacy refuse it
    (`fedsec.study.corpora.require_units`).

    Raises:
        ConfigError: labels that the study does not have, relation types at notes without relation labels, or notes
            that lack a label of the study while the section does not say which of them they annotate.
    """
    if task.kind == "title":
        examples, counts = title_examples(_unlabelled(documents, section))
    else:
        examples, counts = _marked_examples(documents, section, task)
    if section.limit is not None and len(examples) > section.limit:
        chosen = sorted(examples, key=lambda e: hashlib.sha256(f"fedsec limit 1|{e.example_id}".encode()).digest())
        kept = {e.example_id for e in chosen[: section.limit]}
        examples = [e for e in examples if e.example_id in kept]
    if not examples:
        raise ConfigError("the data section gives no examples for this task; check its types and the label map")
    return examples, counts


def _unlabelled(documents: Sequence[Document], section: DataSection) -> Sequence[Document]:
    """For a task without labels: ConfigError where the section names some."""
    if section.entity_types or section.relation_types:
        raise ConfigError("the study asks for titles and no labels: leave entity_types and relation_types out")
    return documents


def _marked_examples(
    documents: Sequence[Document], section: DataSection, task: TaskSpec
) -> tuple[list[Example], ExampleCounts]:
    if section.relation_types and all(d.relations is None for d in documents):
        raise ConfigError(
            "the data section names relation_types, but none of its notes is annotated with relations; "
            "leave relation_types out"
        )
    return build_examples(documents, task, annotated_types(documents, section, task), section.relation_types)


def annotated_types(documents: Sequence[Document], section: DataSection, task: TaskSpec) -> tuple[str, ...]:
    """The study's entity types that these notes annotate: what the section says, else all of them.

    Silence counts as all only where each occurs. A label that the notes never hold may be one that nobody looked for,
    and prompts that ask for it would teach that it is not there.
    """
    if section.entity_types is not None:
        return section.entity_types
    missing = never_held(documents, task.entity_types)
    if missing:
        raise ConfigError(
            f"no note here holds {', '.join(missing)}, and the data section does not say whether anyone looked: set "
            f"entity_types to those of {', '.join(task.entity_types)} that these notes annotate"
        )
    return task.entity_types


def never_held(documents: Iterable[Document], entity_types: Sequence[str]) -> list[str]:
    """Those of the types that no mention of the documents has."""
    held = {e.type for d in documents for e in d.entities}
    return [t for t in entity_types if t not in held]


def check_documents(documents: Sequence[Document], tokenizer: Tokenizer | None = None) -> DataCheck:
    """Counts, lengths, labels and duplicates of a site's notes."""
    windows, window_counts = make_all_windows(documents)
    annotated = [d for d in documents if d.relations is not None]
    return DataCheck(
        documents=len(documents),
        patients=len({d.patient_id for d in documents}),
        sentences=window_counts.windows,
        document_chars=Lengths.of([len(d.text) for d in documents]),
        sentence_chars=Lengths.of([len(w.text) for w in windows]),
        sentence_tokens=None if tokenizer is None else Lengths.of([len(tokenizer.encode(w.text)) for w in windows]),
        entities=_counted(e.type for d in documents for e in d.entities),
        relations=_counted(r.type for d in annotated for r in d.relations or ()) if annotated else None,
        titles=sum(d.title is not None for d in documents),
        documents_without_entities=sum(not d.entities for d in documents),
        documents_without_relation_labels=len(documents) - len(annotated),
        relations_across_sentences=window_counts.relations_across_windows,
        duplicate_document_ids=len(documents) - len({d.document_id for d in documents}),
        duplicate_texts=len(documents) - len({" ".join(d.text.split()) for d in documents}),
    )


def _counted(labels: Iterable[str]) -> Mapping[str, int]:
    counts = Counter(labels)
    return MappingProxyType({name: counts[name] for name in sorted(counts)})
