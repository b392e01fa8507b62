"""Which notes each site trains on, which test sets there are, and what is left out because it stands in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cells.folders import NOTES

from fedsec.data.partition import by_patient
from fedsec.data.schema import Document
from fedsec.data.sitedata import load_site_documents
from fedsec.data.synthetic import hospital, make_site
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import PublicTest
from suite.settings import FULL, LABEL_MAP, Scale

DRUG, PROBLEM, CAUSES = "Drug", "Problem", "causes"
SITES: Final = ("bc5cdr", "maccrobat", "ncbi-disease", "phee")
POOL, LINKS, NEW, CLINICAL = "bc5cdr", "phee", "biored", "e3c-en"
"""The corpus that is dealt to like sites; the one with most relations; the one that no site holds at first; the one
that none may train on.
"""
VALIDATION: Final = "validation"
FOUR = "four"
TITLED = "titled"
COMPLETE, INCOMPLETE, DISJOINT = "complete", "incomplete", "disjoint"
AT_ALL, AT_ONE = "linked-at-all", "linked-at-one"
LINKED = (AT_ALL, AT_ONE)
"""On the corpus that has a relation in most sentences."""
HETEROGENEOUS = (COMPLETE, INCOMPLETE, DISJOINT, *LINKED)
Deal = dict[str, tuple[Sequence[Document], DataSection]]


@dataclass(frozen=True)
class Labels:
    """What a corpus annotates, under the study's labels; no relation types: it annotates none. Titles need neither."""

    entities: tuple[str, ...]
    relations: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Notes:
    """Every document of the suite, with nothing in training that is tested or validated on."""

    scale: Scale
    labels: Mapping[str, Labels]
    train: Mapping[str, Sequence[Document]] = field(repr=False)
    tests: Mapping[str, Sequence[Document]] = field(repr=False)
    validation: Sequence[Document] = field(repr=False)
    left_out: Mapping[str, int]
    """Training documents that stood in a test set too (or, for the new site, at another site), by corpus."""
    sites: tuple[str, ...] = SITES
    external: tuple[str, ...] = (NEW, CLINICAL)
    new: str = NEW
    pool: str = POOL
    links: str = LINKS
    titled: tuple[str, ...] = (POOL, "ncbi-disease", NEW)
    """Those that keep titles apart from texts."""

    def deal(self, name: str, seed: int) -> Deal:
        """The sites of one federation, dealt by ``seed``: `FOUR`, `TITLED`, ``pool-N`` or one of `HETEROGENEOUS`."""
        records = self.scale.records
        if name in (FOUR, TITLED):
            return {site: (self.train[site], self._section(self.labels[site], records)) for site in self.sites}
        if name.startswith("pool-"):
            count = int(name.removeprefix("pool-"))
            return self._dealt(self.pool, [self.labels[self.pool]] * count, self.scale.pool // count, seed)
        corpus = self.corpus_of(name)
        return self._dealt(corpus, heterogeneous(name, self.labels[corpus]), records, seed)

    def corpus_of(self, kind: str) -> str:
        """The corpus that one of `HETEROGENEOUS` is dealt from, and tested on."""
        return self.links if kind in LINKED else self.pool

    def _dealt(self, corpus: str, labels: Sequence[Labels], records: int, seed: int) -> Deal:
        names = [f"site-{number:02d}" for number in range(1, len(labels) + 1)]
        dealt = by_patient(self.train[corpus], names, seed)
        return {n: (dealt[n], self._section(a, records)) for n, a in zip(names, labels, strict=True)}

    @staticmethod
    def _section(labels: Labels, limit: int) -> DataSection:
        return DataSection(
            path=NOTES, entity_types=labels.entities or None, relation_types=labels.relations, limit=limit
        )

    def test_spec(self, name: str) -> PublicTest:
        """A test set, asked only for what its corpus annotates."""
        labels = self.labels[name]
        types, links = labels.entities, labels.relations
        return PublicTest(name=name, entity_types=types, relation_types=links, limit=self.scale.test)

    def of_titles(self, changes: Sequence[str]) -> Notes:
        """The same documents for the deal `TITLED`: whole ones, no labels, as many as the scale has for titles.

        ``changes``: of the plan.
        """
        scale = self.scale
        scale = replace(
            scale,
            records=scale.abstracts,
            test=scale.titles,
            changes=(*scale.changes, *changes),
        )
        return replace(self, scale=scale, sites=self.titled, labels=dict.fromkeys(self.titled, Labels(())))

    @property
    def validation_labels(self) -> Labels:
        """What all four corpora annotate: nobody is weighed by a label that it does not have."""
        return Labels((PROBLEM,))


def heterogeneous(name: str, labels: Labels) -> list[Labels]:
    """Three sites on one corpus that annotate all of its labels, or less."""
    first, second = labels.entities[:2]
    bare, one, other = Labels(labels.entities), Labels((first,)), Labels((second,))
    return {
        COMPLETE: [labels, labels, labels],
        AT_ALL: [labels, labels, labels],
        AT_ONE: [labels, bare, bare],
        INCOMPLETE: [labels, one, other],
        DISJOINT: [one, other, one],
    }[name]


def without(documents: Iterable[Document], patients: Iterable[str]) -> list[Document]:
    """The documents whose patient (for abstracts: PubMed number) is none of these."""
    held_out = set(patients)
    return [d for d in documents if d.patient_id not in held_out]


def patients_of(some: Iterable[Iterable[Document]]) -> set[str]:
    """Everyone in any of them."""
    return {d.patient_id for documents in some for d in documents}


def separated(
    train: Mapping[str, Sequence[Document]], held_out: Iterable[Iterable[Document]], new: str
) -> tuple[dict[str, list[Document]], dict[str, int]]:
    """(training documents, how many were left out), by corpus: no patient of ``held_out`` is trained on, and the corpus
    ``new`` has no patient of the others either.
    """
    tested = patients_of(held_out)
    known = patients_of(documents for name, documents in train.items() if name != new)
    kept = {name: without(documents, tested | known if name == new else tested) for name, documents in train.items()}
    return kept, {name: len(train[name]) - len(documents) for name, documents in kept.items()}


def read(scale: Scale) -> Notes:
    """The corpora that FEDSEC_DATA names, or, at another scale, invented notes."""
    return _corpora(scale) if scale is FULL else _invented(scale)


def _corpora(scale: Scale) -> Notes:
    both = Labels((DRUG, PROBLEM), (CAUSES,))
    labels = {
        "bc5cdr": both,
        "maccrobat": Labels((DRUG, PROBLEM)),
        "ncbi-disease": Labels((PROBLEM,)),
        "phee": both,
        NEW: both,
        CLINICAL: Labels((PROBLEM,)),
    }

    def part(corpus: str, split: str) -> tuple[Document, ...]:
        section = DataSection.model_validate(
            {"format": "corpus", "corpus": corpus, "split": split, "label_map": str(LABEL_MAP)}
        )
        return load_site_documents(section, LABEL_MAP.parent).documents

    tests = {name: part(name, "test") for name in labels}
    validation = [d for name in SITES for d in part(name, "dev")]
    train, left_out = separated({n: part(n, "train") for n in (*SITES, NEW)}, [*tests.values(), validation], NEW)
    # The documents of a validation set that some test set holds as well.
    validation = without(validation, patients_of(tests.values()))
    return Notes(scale, labels, train, tests, validation, left_out)


def _invented(scale: Scale) -> Notes:
    sites, new = ("clifton", "harbour", "northgate", "westlake"), "priory"
    labels = {name: Labels(hospital(name).entity_types, hospital(name).relation_types) for name in (*sites, new)}
    many = 2 * max(scale.records, scale.pool)
    train = {name: _with_titles(make_site(name, "train", many, 0)) for name in labels}
    tests = {name: _with_titles(make_site(name, "test", 2 * scale.test, 0)) for name in labels}
    validation = make_site("harbour", "test", 2 * scale.validation_pool, 1)
    kept, left_out = separated(train, [*tests.values(), validation], new)
    return Notes(scale, labels, kept, tests, validation, left_out, sites, (new,), new, "harbour", "harbour", sites[:3])


def _with_titles(documents: Iterable[Document]) -> list[Document]:
    """The first line of each as its title."""
    return [d.model_copy(update={"title": d.text.split("\n")[0]}) for d in documents]
