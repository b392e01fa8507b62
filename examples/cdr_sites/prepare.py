"""Writes the list of shared publications again, and prints what every site and test set holds, as Markdown tables.

Needs FEDSEC_DATA, the folder of the corpora. The tables stand in README.md as this script prints them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedsec.data.schema import Document
from fedsec.data.sitedata import SiteDocuments, load_site_documents, site_examples
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import DataSection, SiteTemplate, site_paths
from fedsec.plan.toml import read_toml
from fedsec.study.corpora import PUBLIC, PublicFile, public_examples

HERE = Path(__file__).resolve().parent
SHARED = "shared_pmids.txt"
_HEADING = """\
# PubMed numbers that stand in the training split of one of the five corpora and in the test split of one of them.
# No site trains on them. Written by prepare.py.
"""

Loaded = tuple[Path, DataSection, SiteDocuments]


def load(folder: Path = HERE, *, exclude: bool = True) -> tuple[dict[str, Loaded], dict[str, Loaded]]:
    """(training data, test data) by name: file, section and documents under the study's labels.

    ``exclude`` False reads the training data without the list of shared publications.
    """
    trains, tests = {}, {}
    for path in site_paths(folder / "sites"):
        site = read_toml(path, SiteTemplate)
        section = site.data if exclude else site.data.model_copy(update={"exclude_patients": None})
        trains[site.name] = (path, section, load_site_documents(section, path.parent))
    for path in sorted((folder / "sites" / PUBLIC).glob("*.toml")):
        section = read_toml(path, PublicFile).data
        tests[path.stem] = (path, section, load_site_documents(section, path.parent))
    return trains, tests


def shared_publications(trains: Mapping[str, Loaded], tests: Mapping[str, Loaded]) -> list[str]:
    """The patient ids (publications) that some site trains on and some test set holds, by number."""
    trained, tested = (
        {d.patient_id for _, _, loaded in some.values() for d in loaded.documents} for some in (trains, tests)
    )
    return sorted(trained & tested, key=int)


def counts_table(draft: Draft, trains: Mapping[str, Loaded], tests: Mapping[str, Loaded]) -> list[str]:
    """One row a training or test set: what it holds after the label map, and how much of it the study uses."""
    specs = {t.name: t for t in draft.evaluation.public_tests}
    rows = [
        "| set | documents | left out | sentences | used | Drug | Problem | other mentions | merged | causes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for part, some in (("train", trains), ("test", tests)):
        for name, (_, section, loaded) in some.items():
            if part == "train":
                examples, counts = site_examples(loaded.documents, section, draft.task)
                related = section.relation_types
            else:
                examples = public_examples(specs[name], loaded.documents, draft)
                counts = site_examples(loaded.documents, DataSection(path=name), draft.task)[1]
                related = specs[name].relation_types
            types = Counter(e.type for d in loaded.documents for e in d.entities)
            assert loaded.label_map is not None
            cells = (
                len(loaded.documents),
                loaded.excluded,
                counts.windows.windows,
                len(examples),
                types["Drug"],
                types["Problem"],
                sum(loaded.label_map.unmapped_entities.values()),
                loaded.label_map.merged_entities,
                _relations(loaded.documents) if related else "–",
            )
            rows.append(f"| {name} {part} | " + " | ".join(_number(c) for c in cells) + " |")
    return rows


def lost_table(draft: Draft, trains: Mapping[str, Loaded], tests: Mapping[str, Loaded]) -> list[str]:
    """Where annotated relations went: one row a set that has relation labels in this study."""
    related = {t.name for t in draft.evaluation.public_tests if t.relation_types}
    rows = [
        "| set | no shared sentence | mention in pieces | other relation types | other ends | across windows | kept |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for part, some in (("train", trains), ("test", tests)):
        for name, (_, _, loaded) in some.items():
            if name not in related:
                continue
            report, mapping = loaded.report.left_out, loaded.label_map
            assert mapping is not None
            windows = site_examples(loaded.documents, DataSection(path=name), draft.task)[1].windows
            cells = (
                report.get("relations across sentences", 0),
                report.get("relations of discontinuous mentions", 0),
                sum(mapping.unmapped_relations.values()),
                sum(mapping.relations_without_mention.values()) + sum(mapping.relations_of_other_types.values()),
                windows.relations_across_windows,
                _relations(loaded.documents) - windows.relations_across_windows,
            )
            rows.append(f"| {name} {part} | " + " | ".join(_number(c) for c in cells) + " |")
    return rows


def unmapped_table(trains: Mapping[str, Loaded], tests: Mapping[str, Loaded]) -> list[str]:
    """Every label of every corpus that the map does not name, training and test splits together."""
    rows = ["| corpus | entity types left out | relation types left out |", "|---|---|---|"]
    for name in trains:
        reports = [some[name][2].label_map for some in (trains, tests)]
        entities = {label for r in reports if r is not None for label in r.unmapped_entities}
        relations = {label for r in reports if r is not None for label in r.unmapped_relations}
        rows.append(f"| {name} | {_listed(entities)} | {_listed(relations)} |")
    return rows


def _relations(documents: Iterable[Document]) -> int:
    return sum(len(d.relations or ()) for d in documents)


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels)) or "none"


def main() -> None:
    shared = shared_publications(*load(exclude=False))
    (HERE / SHARED).write_text(_HEADING + "".join(f"{pmid}\n" for pmid in shared), encoding="utf-8")
    print(f"{len(shared)} shared publications written to {SHARED}\n")
    draft = read_toml(HERE / "plan.toml", Draft)
    trains, tests = load()
    for table in (counts_table(draft, trains, tests), lost_table(draft, trains, tests), unmapped_table(trains, tests)):
        print("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
