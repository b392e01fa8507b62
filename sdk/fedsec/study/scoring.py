"""Which examples `fedsec evaluate` scores: a public test set of the run, or a corpus under the plan's labels."""

from __future__ import annotations

from pathlib import Path

from fedsec.data.sitedata import load_site_documents
from fedsec.plan.model import Plan
from fedsec.plan.sitefile import DataSection
from fedsec.plan.specs import PublicTest
from fedsec.plan.toml import validate
from fedsec.site.work import TestSet
from fedsec.study.adapted import is_adapted
from fedsec.study.corpora import load_public_tests, public_examples
from fedsec.study.folder import RunFolder
from fedsec_secure.errors import ConfigError


def load_test(run: Path, plan: Plan, name: str, split: str, label_map: Path | None, limit: int | None) -> TestSet:
    """The run's public test set of that name, else the corpus; labels outside the plan's are not asked for."""
    if name in {t.name for t in plan.evaluation.public_tests} and not is_adapted(run):
        tests = load_public_tests(plan, RunFolder.open(run).coordinator.public_path)
        test = next(t for t in tests if t.spec.name == name)
        return TestSet(test.spec, test.examples[:limit])
    where = {"format": "corpus", "corpus": name, "split": split}
    if label_map is not None:
        where["label_map"] = str(label_map.resolve())
    section = validate(where, DataSection, "--corpus and --split")
    documents = load_site_documents(section, Path()).documents
    if plan.task.kind == "title":
        spec = PublicTest(name=name, limit=limit)
        return TestSet(spec, public_examples(spec, documents, plan))
    present = {e.type for d in documents for e in d.entities}
    linked = {r.type for d in documents for r in d.relations or ()}
    entity_types = tuple(t for t in plan.task.entity_types if t in present)
    relation_types = tuple(t for t in plan.task.relation_types if t in linked) or None
    if not entity_types:
        raise ConfigError(
            f"corpus {name} has the labels {', '.join(sorted(present))}, the plan asks for "
            f"{', '.join(plan.task.entity_types)}: give a --label-map"
        )
    spec = PublicTest(name=name, entity_types=entity_types, relation_types=relation_types, limit=limit)
    return TestSet(spec, public_examples(spec, documents, plan))
