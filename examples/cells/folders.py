"""A folder of sites and public sets, as `fedsec run --sites` reads it, from documents in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cells.table import locked
from fedsec.data.readers.jsonl import write_jsonl
from fedsec.data.schema import Document
from fedsec.plan.sitefile import DataSection, SiteTemplate
from fedsec.plan.specs import Strict
from fedsec.plan.toml import write_toml
from fedsec.study.corpora import PUBLIC, PublicFile

NOTES = "notes.jsonl"


def write_sites(
    target: Path,
    sites: Mapping[str, tuple[Sequence[Document], DataSection]],
    public: Mapping[str, Sequence[Document]],
) -> Path:
    """The folder ``target``, whole or not at all: notes and settings of every site (its section's path is `NOTES`),
    and the documents of every public set. Nothing is written where the folder is there; another process that writes
    beside it is waited for.

    SystemExit where a patient of a site stands in a public set.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):
        return target if target.is_dir() else _written(target, sites, public)


def _written(
    target: Path,
    sites: Mapping[str, tuple[Sequence[Document], DataSection]],
    public: Mapping[str, Sequence[Document]],
) -> Path:
    trained = {d.patient_id for documents, _ in sites.values() for d in documents}
    for name, documents in public.items():
        if trained & {d.patient_id for d in documents}:
            raise SystemExit(f"a patient stands in the training notes and in the {name} notes")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name, (documents, section) in sites.items():
        site = SiteTemplate(name=name, data=section)
        _write(part / name / NOTES, documents, part / name / "site.toml", site, f"Site {name}")
    for name, documents in public.items():
        settings = PublicFile(data=DataSection(path=f"{name}.jsonl"))
        here = part / PUBLIC
        _write(here / f"{name}.jsonl", documents, here / f"{name}.toml", settings, f"Public set {name}")
    part.rename(target)
    return target


def _write(notes: Path, documents: Sequence[Document], path: Path, settings: Strict, heading: str) -> None:
    notes.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(notes, documents)
    path.write_text(write_toml(settings, heading), encoding="utf-8")
