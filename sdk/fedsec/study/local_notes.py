"""A hospital's own annotated notes, in two parts by patient: to train on, and held out to see whether training helped.

Which patients are held out, and which of the other records are used where not all are, follows from hashes of their ids
alone: more records are the same ones and some more.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedsec.data.schema import Document, Example
from fedsec.data.sitedata import annotated_types, load_site_documents, site_examples
from fedsec.plan.model import Plan
from fedsec.plan.sitefile import DataSection, SiteTemplate
from fedsec.plan.specs import LabelName, PublicTest
from fedsec.plan.toml import read_toml, validate
from fedsec.site.work import TestSet
from fedsec_secure.errors import ConfigError

LEAST_RECORDS: Final = 10
"""The smallest set that the paper adapts with: of a site's annotated records, before any of them is held out."""
LEAST_TRAINED: Final = LEAST_RECORDS // 2
"""Whoever is held out: a patient may have most of the records."""
MOST_SCORED: Final = 200


@dataclass(frozen=True)
class LocalNotes:
    """The hospital's notes as the study's task reads them. A record is an example, as everywhere."""

    train: Sequence[Example]
    of: int
    held_out: TestSet | None
    entity_types: tuple[LabelName, ...]
    relation_types: tuple[LabelName, ...]
    unused_relations: bool
    """Whether the notes have relations that nobody named."""


def read_notes(
    path: Path,
    plan: Plan,
    *,
    records: int | None = None,
    held_out: float = 0.2,
    entity_types: Sequence[str] | None = None,
    relation_types: Sequence[str] | None = None,
) -> LocalNotes:
    """Read a ``site.toml``, or a bare JSON lines file with what it annotates told beside it.

    Args:
        path: of the file.
        plan: whose task the notes are read for.
        records: train on so many; None: on all.
        held_out: share of the patients. A site file that has a ``[test]`` section names the held-out notes itself; 0
            holds out none.
        entity_types: of a bare file; None: all of the plan's, if each occurs.
        relation_types: of a bare file; None: none.

    Raises:
        ConfigError: with file, line and reason; or fewer than `LEAST_RECORDS`, or `LEAST_TRAINED` left to train on.
    """
    folder = path.resolve().parent
    section, test = _sections(path, entity_types, relation_types)
    documents = load_site_documents(section, folder).documents
    if plan.task.kind != "title":
        section = section.model_copy(update={"entity_types": annotated_types(documents, section, plan.task)})
    _require_enough(len(site_examples(documents, section, plan.task)[0]))
    train: Sequence[Document] = documents
    held: Sequence[Document] = ()
    asked = section.model_copy(update={"limit": None})
    if test is not None and held_out:
        held = load_site_documents(test, folder).documents
        asked = test.model_copy(update={"entity_types": test.entity_types or section.entity_types})
        _require_apart(train, held)
    else:
        train, held = hold_out(documents, held_out)
    examples = _chosen(train, section, plan, records, len(held))
    chosen = section.model_copy(update={"limit": records}) if records is not None else section
    return LocalNotes(
        train=site_examples(train, chosen, plan.task)[0],
        of=len(examples),
        held_out=_test_set(held, asked, plan) if held else None,
        entity_types=section.entity_types or (),
        relation_types=section.relation_types or (),
        unused_relations=bool(
            not section.relation_types and plan.task.relation_types and any(d.relations for d in documents)
        ),
    )


def hold_out(documents: Sequence[Document], share: float) -> tuple[list[Document], list[Document]]:
    """(to train on, held out): ``share`` of the patients, at least one, by SHA-256 of their ids; 0 holds out none."""
    patients = sorted(
        {d.patient_id for d in documents}, key=lambda p: hashlib.sha256(f"fedsec hold out 1|{p}".encode()).digest()
    )
    held = set(patients[: math.ceil(share * len(patients))])
    if held and len(held) == len(patients):
        raise ConfigError(
            f"the notes are of {len(patients)} patients: none would be left to train on. Set patient_id to whose note "
            "it is, name held-out notes in [test] of a site.toml, or use --held-out 0"
        )
    return [d for d in documents if d.patient_id not in held], [d for d in documents if d.patient_id in held]


def _sections(
    path: Path, entity_types: Sequence[str] | None, relation_types: Sequence[str] | None
) -> tuple[DataSection, DataSection | None]:
    if path.suffix != ".toml":
        said = {"path": path.name, "entity_types": entity_types, "relation_types": relation_types}
        return validate({k: v for k, v in said.items() if v is not None}, DataSection, str(path)), None
    if entity_types is not None or relation_types is not None:
        raise ConfigError(f"{path} says which labels its notes have; --entity and --relation are for a bare file")
    site = read_toml(path, SiteTemplate)
    return site.data, site.test


def _chosen(
    train: Sequence[Document], section: DataSection, plan: Plan, records: int | None, held: int
) -> list[Example]:
    """All that may be trained on; ConfigError where it is too little."""
    examples, _ = site_examples(train, section, plan.task)
    if records is not None and records > len(examples):
        raise ConfigError(f"--records is {records}; there are {len(examples)} beside {held} held-out notes")
    if len(examples) < LEAST_TRAINED:
        raise ConfigError(
            f"expected at least {LEAST_TRAINED} records to train on; found {len(examples)}, beside {held} held-out "
            "notes. Hold out fewer (--held-out 0: none, and then nothing says whether it helped)"
        )
    if records is not None:
        _require_enough(records, min(LEAST_RECORDS, len(examples)))
    return examples


def _require_enough(records: int, least: int = LEAST_RECORDS) -> None:
    if records < least:
        raise ConfigError(f"expected at least {least} annotated records; found {records}. Annotate or use more")


def _test_set(held: Sequence[Document], section: DataSection, plan: Plan) -> TestSet:
    annotated = any(d.relations is not None for d in held)
    relations = section.relation_types if annotated else None
    asked = section.model_copy(update={"relation_types": relations, "limit": section.limit or MOST_SCORED})
    examples, _ = site_examples(held, asked, plan.task)
    spec = PublicTest(name="held-out", entity_types=asked.entity_types or (), relation_types=relations)
    return TestSet(spec, examples)


def _require_apart(train: Sequence[Document], held: Sequence[Document]) -> None:
    both = {d.patient_id for d in train} & {d.patient_id for d in held}
    if both:
        raise ConfigError(f"{len(both)} patients stand in [data] and in [test]: their held-out notes would not be new")
