"""`fedsec site check`: what a site's notes hold, and how much of them a round trains on. Nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from fedsec.data.readers.jsonl import malformed_rows
from fedsec.data.sitedata import DataCheck, check_documents, load_site_documents, site_examples
from fedsec.plan.document import load_plan
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import SiteTemplate
from fedsec.plan.toml import read_toml
from fedsec_secure.errors import ConfigError

_SHORT = 10
_SHOWN = 20


@dataclass(frozen=True)
class Cost:
    """Training of one round, from the plan and the notes alone."""

    examples: int
    examples_a_round: int
    steps_a_round: int


@dataclass(frozen=True)
class SiteReport:
    """Everything that the check found."""

    site: str
    notes: DataCheck
    left_out: Mapping[str, int]
    mended: Mapping[str, int]
    excluded: int
    cost: Cost | None
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        value = _plain(self)
        assert isinstance(value, dict)
        return value

    def rows(self) -> list[tuple[str, str]]:
        """For a table."""
        n = self.notes
        rows = [
            ("documents", f"{n.documents:,}"),
            ("patients", f"{n.patients:,}"),
            ("sentences", f"{n.sentences:,}"),
            ("characters a document (min, median, 95 %, max)", _lengths(n.document_chars)),
            ("characters a sentence (min, median, 95 %, max)", _lengths(n.sentence_chars)),
            *((f"entities: {label}", f"{count:,}") for label, count in n.entities.items()),
            *((f"relations: {label}", f"{count:,}") for label, count in (n.relations or {}).items()),
            ("documents of excluded patients", f"{self.excluded:,}"),
            *((f"left out: {why}", f"{count:,}") for why, count in self.left_out.items()),
            *((f"mended: {why}", f"{count:,}") for why, count in self.mended.items()),
        ]
        if self.cost is not None:
            rows += [
                ("training examples", f"{self.cost.examples:,}"),
                ("examples a round", f"{self.cost.examples_a_round:,}"),
                ("optimiser steps a round", f"{self.cost.steps_a_round:,}"),
            ]
        return rows


def check_site(path: Path, plan: Path | None) -> SiteReport:
    """Read everything that the site file names, strictly; ConfigError with file, line and reason."""
    site = read_toml(path, SiteTemplate)
    if site.data.format == "jsonl" and site.data.path is not None:
        rows = malformed_rows(path.resolve().parent / Path(site.data.path).expanduser())
        if rows:
            more = [f"and {len(rows) - _SHOWN} more rows"] if len(rows) > _SHOWN else []
            raise ConfigError("\n".join([*rows[:_SHOWN], *more]))
    loaded = load_site_documents(site.data, path.resolve().parent)
    notes = check_documents(loaded.documents)
    warnings = []
    if notes.duplicate_document_ids:
        warnings.append(f"{notes.duplicate_document_ids} documents share an id with another")
    if notes.duplicate_texts:
        warnings.append(f"{notes.duplicate_texts} documents have the text of another")
    if notes.patients < _SHORT:
        warnings.append(f"only {notes.patients} patients: what an adapter learns here is about few people")
    if loaded.label_map is not None:
        unmapped = sorted({*loaded.label_map.unmapped_entities, *loaded.label_map.unmapped_relations})
        warnings += [f"labels without a place in the map, left out: {', '.join(unmapped)}"] if unmapped else []
    cost = None
    if plan is not None:
        draft: Draft = load_plan(plan) if plan.suffix == ".json" else read_toml(plan, Draft)
        examples = len(site_examples(loaded.documents, site.data, draft.task)[0])
        taken = min(draft.training.examples_per_round or examples, examples) * draft.training.epochs
        cost = Cost(examples, taken, -(-taken // draft.training.batch_size))
    report = loaded.report
    return SiteReport(site.name, notes, report.left_out, report.mended, loaded.excluded, cost, tuple(warnings))


def _lengths(lengths: object) -> str:
    names = ("minimum", "median", "p95", "maximum")
    return " / ".join(f"{getattr(lengths, name):,}" for name in names)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
