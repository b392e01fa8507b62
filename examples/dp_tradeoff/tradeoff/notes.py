"""The sites' notes as JSON lines in the run's folder: BC5CDR's training abstracts dealt to sites, or invented ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cells.folders import NOTES, write_sites

from fedsec.data.partition import by_patient
from fedsec.data.schema import Document, Example
from fedsec.data.sitedata import load_site_documents, site_examples
from fedsec.data.synthetic import make_site
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import DataSection
from fedsec.plan.toml import read_toml
from fedsec.study.corpora import PUBLIC, PublicFile, public_examples
from fedsec.study.prepare import read_draft
from tradeoff.cells import HERE, PLAN, Scale

TEST: Final = "test"
Corpus = tuple[Sequence[Document], Sequence[Document]]


def bc5cdr() -> Corpus:
    """(training, test) abstracts under the study's labels; FEDSEC_DATA names the folder of the corpora."""
    sections = (
        DataSection(format="corpus", corpus="bc5cdr", split="train", label_map="label_map.toml"),
        DataSection(format="corpus", corpus="bc5cdr", split="test", label_map="label_map.toml"),
    )
    train, test = (load_site_documents(section, HERE).documents for section in sections)
    return train, test


def invented(scale: Scale) -> Corpus:
    """(training, test) notes of one invented hospital: half as many sentences again as the sites use."""
    return make_site("harbour", "train", 3 * scale.records // 2, 0), make_site("harbour", TEST, scale.loss_sentences, 0)


def deal(target: Path, corpus: Corpus, sites: int, seed: int, records: int) -> Path:
    """The folder ``target``, whole or not at all: a folder a site, patients dealt by ``seed``, and the test set.

    Each site's file has ``records / sites`` of the sentences that were dealt to it, and nothing else.
    """
    if target.is_dir():
        return target
    train, test = corpus
    names = [f"site-{number:02d}" for number in range(1, sites + 1)]
    section = DataSection(path=NOTES, entity_types=("Drug", "Problem"))
    dealt = {name: sentences(some, section, records // sites) for name, some in by_patient(train, names, seed).items()}
    return write_sites(target, {name: (some, section) for name, some in dealt.items()}, {TEST: test})


def sentences(documents: Sequence[Document], section: DataSection, most: int) -> list[Document]:
    """At most so many sentences of the documents, from all over them, each as a note of its own.

    Cut here and written, they are a site's whole data set. A limit in its ``site.toml`` would choose anew whenever a
    patient comes or goes, which no epsilon speaks about.
    """
    chosen = site_examples(documents, section.model_copy(update={"limit": most}), read_draft(PLAN).task)[0]
    return [
        Document(
            document_id=e.example_id, patient_id=e.patient_id, text=e.text, entities=e.entities, relations=e.relations
        )
        for e in chosen
    ]


def loss_examples(sites: Path, draft: Draft, limit: int) -> list[Example]:
    """``limit`` sentences of the test set, always the same; the first so many of them by hash are those of F1."""
    path = sites / PUBLIC / f"{TEST}.toml"
    documents = load_site_documents(read_toml(path, PublicFile).data, path.parent).documents
    spec = next(t for t in draft.evaluation.public_tests if t.name == TEST)
    return public_examples(spec.model_copy(update={"limit": limit}), documents, draft)
