"""From files to examples: a site's training notes, and the plan's public test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedsec.data.schema import Document, Example
from fedsec.data.sitedata import load_site_documents, site_examples
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import COUNTED_AS_PATIENT, DataSection, Site, SiteTemplate
from fedsec.plan.specs import PublicTest, Strict, TaskSpec
from fedsec.plan.toml import read_toml
from fedsec.site.work import TestSet
from fedsec_secure.errors import ConfigError, VerificationError

PUBLIC = "public"


class PublicFile(Strict):
    """``public/NAME.toml``: where a public test set's documents are."""

    data: DataSection
    """The annotated documents; its labels and limit stand in the plan."""


def documents_digest(documents: Iterable[Document], task: TaskSpec) -> str:
    """SHA-256 (hex) over the documents in order, as JSON lines: what a plan pins of a test set.

    Titles count where the task asks for them, and only there.
    """
    digest = hashlib.sha256()
    for document in documents:
        read = document if task.kind == "title" else document.model_copy(update={"title": None})
        digest.update(read.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def require_units(site: SiteTemplate, draft: Draft) -> None:
    """ConfigError where a section of the site file that the plan keeps private is missing, or does not have the plan's
    units.

    Epsilon speaks of two data sets that differ by one unit. Under a limit they differ by others too: a unit that leaves
    lets examples of other units in. And in a format that does not say whose a note is, a patient with two is two units.
    """
    if draft.weighting.private is not None and site.test is None:
        raise ConfigError(
            f"site {site.name}: the plan scores on held-out notes, expected a [test] section in its site file: name "
            "some that are not trained on"
        )
    private = {
        "data": site.data if draft.dp.mode != "none" else None,
        "test": site.test if draft.weighting.private is not None else None,
    }
    for name, section in private.items():
        if section is not None and section.limit is not None:
            raise ConfigError(
                f"site {site.name}: [{name}] sets limit, and the plan promises differential privacy: expected none, "
                "as who is among the first so many depends on all others, which no epsilon covers. Leave it out: cut "
                "the file of notes itself, once and before the study, or bound what a patient adds by dp.max_records"
            )
        if section is not None and draft.dp.unit == "patient":
            _require_patients(site.name, name, section)


def _require_patients(site: str, name: str, section: DataSection) -> None:
    counted = COUNTED_AS_PATIENT.get(section.format)
    if counted is None or section.one_patient_each:
        return
    raise ConfigError(
        f"site {site}: [{name}] has format {section.format}, which does not say whose a note is, and the plan's "
        f"epsilon is per patient: each {counted} would count as one, whoever has several. Give JSON lines with their "
        "patient_id; or, where nobody has several, say so: one_patient_each = true"
    )


def load_training(site: Site, draft: Draft) -> list[Example]:
    """A site's training examples, with the labels that it annotates, at most its limit of them.

    ConfigError for a limit, or notes that do not say whose they are, under differential privacy.
    """
    require_units(site.file, draft)
    return _examples(site, "data", site.file.data, draft)


def _examples(site: Site, name: str, section: DataSection, draft: Draft) -> list[Example]:
    try:
        return site_examples(load_site_documents(section, site.folder).documents, section, draft.task)[0]
    except ConfigError as e:
        # In one process there are many sites, with two sections each.
        raise ConfigError(f"site {site.name}, [{name}]: {e}") from e


def load_public_documents(test: PublicTest, public: Path) -> tuple[Document, ...]:
    """The documents of one public test set, described in ``public/NAME.toml``."""
    path = public / f"{test.name}.toml"
    return load_site_documents(read_toml(path, PublicFile).data, path.parent).documents


@dataclass(frozen=True)
class PublicSets:
    """What everyone in a run has of a plan's data: its public test sets, and the examples that weights are drawn from.

    Both may be empty.
    """

    tests: Sequence[TestSet] = field(repr=False, default=())
    validation: Sequence[Example] = field(repr=False, default=())


def load_public(draft: Draft, public: Path) -> PublicSets:
    """Everything public that the plan names, as it pins it; ``public`` is the folder of it."""
    return PublicSets(load_public_tests(draft, public), load_validation(draft, public))


def load_public_tests(draft: Draft, public: Path) -> list[TestSet]:
    """Every public test set of the plan, its digest checked."""
    tests = []
    for spec in draft.evaluation.public_tests:
        documents = load_public_documents(spec, public)
        if documents_digest(documents, draft.task) != spec.sha256:
            raise VerificationError(f"public test set {spec.name} is not the one that the plan pins")
        tests.append(TestSet(spec, public_examples(spec, documents, draft)))
    return tests


def load_validation(draft: Draft, public: Path) -> list[Example]:
    """The examples that weights are drawn from, digest and number checked; none where the plan weighs otherwise."""
    spec = draft.weighting.validation
    if spec is None:
        return []
    documents = load_public_documents(spec, public)
    examples = public_examples(spec, documents, draft)
    if documents_digest(documents, draft.task) != spec.sha256 or len(examples) != spec.examples:
        raise VerificationError(f"validation set {spec.name} is not the one that the plan pins")
    return examples


def load_held_out(site: Site, draft: Draft) -> list[Example]:
    """A site's own held-out examples, where the plan scores on them; ConfigError for a site that holds out none, or
    limits them.
    """
    if draft.weighting.private is None:
        return []
    require_units(site.file, draft)
    section = site.file.test
    assert section is not None  # require_units
    return _examples(site, "test", section, draft)


def public_examples(spec: PublicTest, documents: Sequence[Document], draft: Draft) -> list[Example]:
    """The test set's examples, asked for its own labels; a limit keeps the same examples always."""
    labels = {"entity_types": spec.entity_types or None, "relation_types": spec.relation_types}
    section = DataSection(path=spec.name, limit=spec.limit).model_copy(update=labels)
    return site_examples(documents, section, draft.task)[0]
