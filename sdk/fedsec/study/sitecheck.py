"""`fedsec site check`: what a site's notes hold, and what a round of training costs there. Nothing is sent."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from fedsec.data.readers.jsonl import malformed_rows
from fedsec.data.schema import Document, Example
from fedsec.data.sitedata import DataCheck, check_documents, load_site_documents, never_held, site_examples
from fedsec.plan.document import load_plan
from fedsec.plan.model import Draft
from fedsec.plan.sitefile import COUNTED_AS_PATIENT, DataSection, SiteTemplate
from fedsec.plan.toml import read_toml
from fedsec.study.corpora import require_units
from fedsec.study.trial import Trial, try_training
from fedsec_secure.errors import ConfigError

_SHORT = 10
_SHOWN = 20


@dataclass(frozen=True)
class Cost:
    """Training of one round at this site."""

    examples: int
    examples_a_round: int
    """With differential privacy what is expected: a coin decides of each."""
    steps_a_round: int
    trial: Trial | None
    """What a few real steps took; None where none were asked for."""


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
            *([("titles", f"{n.titles:,}")] if n.titles else []),
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
                *_trial_rows(self.cost.trial),
            ]
        return rows


def check_site(path: Path, plan: Path | None, measure: bool = False) -> SiteReport:
    """Read everything that the site file names, strictly; ConfigError with file, line and reason, or where a plan with
    differential privacy meets a limit.

    With ``measure`` and a plan, a few steps are trained and thrown away.
    """
    site = read_toml(path, SiteTemplate)
    draft = None if plan is None else _read_plan(plan)
    if draft is not None:
        require_units(site, draft)
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
    if draft is not None and draft.dp.mode != "none" and draft.dp.unit == "patient" and site.data.one_patient_each:
        warnings.append(
            f"each {COUNTED_AS_PATIENT[site.data.format]} counts as a patient, because the site file says that nobody "
            "has several: whoever has is not protected by the plan's ε"
        )
    if loaded.label_map is not None:
        unmapped = sorted({*loaded.label_map.unmapped_entities, *loaded.label_map.unmapped_relations})
        warnings += [f"labels without a place in the map, left out: {', '.join(unmapped)}"] if unmapped else []
    cost = None if draft is None else _cost(draft, loaded.documents, site.data, measure)
    unseen = [] if draft is None else never_held(loaded.documents, site.data.entity_types or draft.task.entity_types)
    if unseen:
        warnings.append(
            f"no note holds {', '.join(unseen)}: unless someone looked for it, take it out of entity_types, or the "
            "training teaches that it is not there"
        )
    if cost is not None and cost.trial is not None and cost.trial.shortened:
        warnings.append(
            f"{cost.trial.shortened} examples are longer than training.max_tokens and lose words at the end"
        )
    report = loaded.report
    return SiteReport(site.name, notes, report.left_out, report.mended, loaded.excluded, cost, tuple(warnings))


def _read_plan(path: Path) -> Draft:
    return load_plan(path) if path.suffix == ".json" else read_toml(path, Draft)


def _cost(draft: Draft, documents: Sequence[Document], data: DataSection, measure: bool) -> Cost:
    examples = site_examples(documents, data, draft.task)[0]
    taken, steps = _round_of(draft, examples)
    trial = try_training(draft, examples, taken, steps) if measure else None
    return Cost(len(examples), taken, steps, trial)


def _round_of(draft: Draft, examples: Sequence[Example]) -> tuple[int, int]:
    """Examples and optimiser steps of one round."""
    from fedsec.training.private.loop import drawn_units  # and torch with it

    dp, training = draft.dp, draft.training
    if dp.mode == "none":
        taken = training.examples_per_round or len(examples)  # more than there are: some twice
        return taken * training.epochs, -(-taken // training.batch_size) * training.epochs
    steps = 1 if dp.mode == "distributed" else dp.steps
    a_step = sum(min(len(unit), dp.max_records) for unit in drawn_units(examples, dp)) * dp.sampling_rate
    return math.ceil(a_step * steps), steps


def _trial_rows(trial: Trial | None) -> list[tuple[str, str]]:
    if trial is None:
        return []
    return [
        ("tokens an example (min, median, 95 %, max)", _lengths(trial.tokens)),
        ("seconds a step, measured here", f"{trial.seconds_a_step:.2f}"),
        ("training of one round, by that rate", f"{datetime.timedelta(seconds=round(trial.seconds_a_round))}"),
        ("memory at its peak", f"{trial.peak_bytes / 1e9:.1f} GB"),
    ]


def _lengths(lengths: object) -> str:
    names = ("minimum", "median", "p95", "maximum")
    return " / ".join(f"{getattr(lengths, name):,}" for name in names)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
