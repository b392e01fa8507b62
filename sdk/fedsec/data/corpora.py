"""The real corpora by name. They are not ours to ship: the environment variable FEDSEC_DATA names their folder.

A document's ``patient_id`` is its publication (PubMed number) or case: what must not stand on both sides of a split.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from fedsec.data.readers.brat import read_brat
from fedsec.data.readers.common import Reading, ReadReport, read_text
from fedsec.data.readers.e3c import read_e3c
from fedsec.data.readers.phee import read_phee
from fedsec.data.readers.pubtator import read_pubtator
from fedsec.data.schema import Document
from fedsec_secure.errors import ConfigError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

DATA_VARIABLE = "FEDSEC_DATA"
_HASH_SPLIT: tuple[tuple[Split, int], ...] = (("train", 70), ("dev", 80), ("test", 100))
"""Upper ends, in hundredths, of the parts that a document's hash falls into."""


@dataclass(frozen=True)
class Corpus:
    """One part of a corpus, with what reading it left out."""

    name: str
    split: Split
    documents: tuple[Document, ...]
    report: ReadReport


@dataclass(frozen=True)
class CorpusInfo:
    """What a corpus is: its label sets as they stand in the files, and how a part of it is read."""

    name: str
    title: str
    licence: str
    folder: str
    entity_types: tuple[str, ...]
    relation_types: tuple[str, ...] | None
    splits: tuple[Split, ...]
    read: Callable[[Path, Split], Reading]


def load_corpus(name: str, split: str, root: Path | None = None) -> Corpus:
    """Reads one part of a corpus.

    Args:
        name: a name in ``CORPORA``.
        split: ``train``, ``dev`` or ``test``.
        root: the folder of all corpora; None: the one that FEDSEC_DATA names.

    Raises:
        ConfigError: unknown name or split, no folder, or files that are not as expected.
    """
    if name not in CORPORA:
        raise ConfigError(f"no corpus {name!r}; there are: {', '.join(CORPORA)}")
    info = CORPORA[name]
    wanted = next((s for s in info.splits if s == split), None)
    if wanted is None:
        raise ConfigError(f"corpus {name} has no part {split!r}; it has: {', '.join(info.splits)}")
    folder = data_root(root) / info.folder
    if not folder.exists():
        raise ConfigError(f"corpus {name}: {folder} is not there; put the {info.title} files into it")
    reading = info.read(folder, wanted)
    return Corpus(name, wanted, reading.documents, reading.report)


def data_root(root: Path | None = None) -> Path:
    """The folder of the corpora, from the argument or from FEDSEC_DATA."""
    if root is None:
        named = os.environ.get(DATA_VARIABLE)
        if not named:
            raise ConfigError(f"set {DATA_VARIABLE} to the folder that holds the corpora ({', '.join(CORPORA)})")
        root = Path(named)
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder; set {DATA_VARIABLE} to the folder that holds the corpora")
    return root


def hash_split(document_id: str) -> Split:
    """Part of a document in a corpus without an official split: 70 % train, 10 % dev, 20 % test.

    The first 8 bytes of SHA-256 over "fedsec split 1|" and the document id, modulo 100: it depends on nothing else.
    """
    digest = hashlib.sha256(f"fedsec split 1|{document_id}".encode()).digest()
    place = int.from_bytes(digest[:8]) % 100
    return next(split for split, end in _HASH_SPLIT if place < end)


def shared_document_ids(
    trains: Mapping[str, Iterable[Document]], tests: Mapping[str, Iterable[Document]]
) -> dict[str, frozenset[str]]:
    """For each site: its *training* documents that come from the same publication as any site's *test* document.

    Args:
        trains: site -> training documents.
        tests: site -> test documents; all are checked against all training sets, a site's own included.

    Returns:
        site -> document ids to drop from training.
    """
    tested = {document.patient_id for documents in tests.values() for document in documents}
    return {
        site: frozenset(d.document_id for d in documents if d.patient_id in tested)
        for site, documents in trains.items()
    }


def drop_documents(documents: Iterable[Document], document_ids: frozenset[str]) -> list[Document]:
    """The documents without those named."""
    return [d for d in documents if d.document_id not in document_ids]


def _files(reader: Callable[[Path], Reading], **names: str) -> Callable[[Path, Split], Reading]:
    def read(folder: Path, split: Split) -> Reading:
        return reader(folder / names[split])

    return read


def _ncbi(path: Path) -> Reading:
    return read_pubtator(path, relations=False)


def _related(path: Path) -> Reading:
    return read_pubtator(path, relations=True)


def _maccrobat(folder: Path, split: Split) -> Reading:
    return read_brat(folder, relations=True, select=lambda name: hash_split(name) == split)


def _e3c(folder: Path, split: Split) -> Reading:
    """The corpus's own list names the training documents; the others are for tests."""
    listed = folder / "train_test_split.txt"
    section = re.search(r"^ENGLISH\s*\n(?P<ids>[^\n]+)", read_text(listed), re.MULTILINE)
    if section is None:
        raise ConfigError(f"{listed}: expected a line ENGLISH and a line of document ids after it")
    try:
        train = frozenset(ast.literal_eval(f"({section['ids']},)"))
    except (ValueError, SyntaxError) as e:
        raise ConfigError(f"{listed}: the document ids under ENGLISH are not a list of quoted names") from e
    return read_e3c(folder / "layer1_xmi", select=lambda name: (name in train) == (split == "train"))


def _registry(infos: Sequence[CorpusInfo]) -> Mapping[str, CorpusInfo]:
    return MappingProxyType({info.name: info for info in infos})


CORPORA: Mapping[str, CorpusInfo] = _registry(
    [
        CorpusInfo(
            name="bc5cdr",
            title="BioCreative V Chemical Disease Relation (PubTator)",
            licence="public domain (US Government work)",
            folder="bc5cdr",
            entity_types=("Chemical", "Disease"),
            relation_types=("CID",),
            splits=SPLITS,
            read=_files(
                _related,
                train="CDR_TrainingSet.PubTator.txt.gz",
                dev="CDR_DevelopmentSet.PubTator.txt.gz",
                test="CDR_TestSet.PubTator.txt.gz",
            ),
        ),
        CorpusInfo(
            name="ncbi-disease",
            title="NCBI Disease",
            licence="public domain (US Government work)",
            folder="ncbi-disease",
            entity_types=("SpecificDisease", "Modifier", "DiseaseClass", "CompositeMention"),
            relation_types=None,
            splits=SPLITS,
            read=_files(
                _ncbi,
                train="NCBItrainset_corpus.txt",
                dev="NCBIdevelopset_corpus.txt",
                test="NCBItestset_corpus.txt",
            ),
        ),
        CorpusInfo(
            name="biored",
            title="BioRED",
            licence="public domain (US Government work)",
            folder="biored",
            entity_types=(
                "GeneOrGeneProduct",
                "DiseaseOrPhenotypicFeature",
                "ChemicalEntity",
                "OrganismTaxon",
                "SequenceVariant",
                "CellLine",
            ),
            relation_types=(
                "Association",
                "Positive_Correlation",
                "Negative_Correlation",
                "Bind",
                "Cotreatment",
                "Comparison",
                "Drug_Interaction",
                "Conversion",
            ),
            splits=SPLITS,
            read=_files(_related, train="Train.PubTator", dev="Dev.PubTator", test="Test.PubTator"),
        ),
        CorpusInfo(
            name="phee",
            title="PHEE 2 (pharmacovigilance events)",
            licence="MIT",
            folder="phee",
            entity_types=(
                "Drug",
                "Effect",
                "Subject",
                "Treatment",
                "Subject_Disorder",
                "Treatment_Disorder",
                "Age",
                "Gender",
                "Race",
                "Population",
                "Dosage",
                "Route",
                "Freq",
                "Duration",
                "Time_elapsed",
            ),
            relation_types=("Adverse_event", "Potential_therapeutic_event"),
            splits=SPLITS,
            read=_files(read_phee, train="train.json", dev="dev.json", test="test.json"),
        ),
        CorpusInfo(
            name="maccrobat",
            title="MACCROBAT 2020",
            licence="CC BY 4.0 as published",
            folder="maccrobat/MACCROBAT2020",
            entity_types=(
                *("Diagnostic_procedure", "Sign_symptom", "Biological_structure", "Detailed_description"),
                *("Lab_value", "Disease_disorder", "Medication", "Therapeutic_procedure", "Date", "Clinical_event"),
                *("History", "Severity", "Dosage", "Nonbiological_location", "Coreference", "Duration", "Age", "Sex"),
                *("Administration", "Distance", "Activity", "Family_history", "Frequency", "Shape"),
                *("Personal_background", "Time", "Subject", "Color", "Quantitative_concept", "Texture", "Area"),
                *("Qualitative_concept", "Outcome", "Volume", "Other_event", "Other_entity", "Occupation"),
                *("Biological_attribute", "Height", "Weight", "Mass"),
            ),
            relation_types=(*("MODIFY", "BEFORE", "SUB_PROCEDURE", "IDENTICAL", "AFTER", "CAUSE", "CO-OCCURRENCE"),),
            splits=SPLITS,
            read=_maccrobat,
        ),
        CorpusInfo(
            name="e3c-en",
            title="E3C, English layer 1",
            licence="CC BY-NC: validation only",
            folder="e3c-en",
            entity_types=("CLINENTITY", "EVENT", "BODYPART", "ACTOR", "TIMEX3", "RML"),
            relation_types=(
                "PERTAINS-TO",
                *(f"TLINK-{r}" for r in ("CONTAINS", "BEFORE", "OVERLAP", "SIMULTANEOUS", "BEGINS-ON", "ENDS-ON")),
                *(f"ALINK-{r}" for r in ("INITIATES", "CONTINUES", "TERMINATES", "REINITIATES")),
            ),
            splits=("train", "test"),
            read=_e3c,
        ),
    ]
)
"""Name -> corpus."""
