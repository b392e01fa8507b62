"""From a plan file and a folder of sites to a run folder: pin what must be pinned, make what is missing."""

from __future__ import annotations

import datetime
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from fedsec.plan.document import load_plan
from fedsec.plan.init import complete_working_set
from fedsec.plan.matrix import verify_supported
from fedsec.plan.model import Draft, Plan
from fedsec.plan.sitefile import DataSection, SiteTemplate, load_sites, site_paths
from fedsec.plan.specs import Strict, ValidationSet
from fedsec.plan.toml import override, read_toml, write_toml
from fedsec.spool import private_folder, write_durably
from fedsec.study.corpora import (
    PUBLIC,
    PublicFile,
    documents_digest,
    load_public_documents,
    public_examples,
    require_units,
)
from fedsec.study.folder import RunFolder
from fedsec.study.sites import require_approved, require_startable
from fedsec.training.adapter import initial_adapter
from fedsec.training.base_model import load_base
from fedsec.training.strategies import shared_vector
from fedsec_secure.errors import ConfigError


def new_run_id(name: str) -> str:
    """``NAME-`` and eight random hex digits."""
    return f"{name}-{secrets.token_hex(4)}"


def require_new(out: Path) -> None:
    """ConfigError where a run is there already."""
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; choose another --out, or go on with `fedsec resume {out}`")


def approvals_of(plan: Plan, sites: Path) -> dict[str, bytes]:
    """The approvals that stand at the sites of a plan, for the run folder."""
    paths = {name: site.approval_path for name, site in load_sites(sites).items() if name in plan.roster.sites}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def working_set(out: Path) -> Path:
    """Where the keys, notes and states of a run that was initialised here stand: ``OUT-sites``."""
    return out.with_name(out.name + "-sites")


def read_draft(path: Path, assignments: Sequence[str] = ()) -> Draft:
    """A draft from TOML, with ``--set`` applied, in a combination that this version supports."""
    draft = override(read_toml(path, Draft), assignments)
    verify_supported(draft)
    return draft


def pin(draft: Draft, sites: Path) -> Draft:
    """Fill in what a plan must have and only data tells: digests of base model and test sets, trained coordinates."""
    weights, dp = draft.model.weights_sha256, draft.dp
    counted = dp.mode != "distributed" or dp.dimension is not None
    if weights is None or not counted:
        base = load_base(draft.model)
        weights = base.weights_sha256
        if not counted:
            trained = shared_vector(draft.lora.strategy, initial_adapter(base, draft.lora, draft.seed), 0).size
            dp = dp.model_copy(update={"dimension": trained})
    tests = tuple(
        t
        if t.sha256
        else t.model_copy(update={"sha256": documents_digest(load_public_documents(t, sites / PUBLIC), draft.task)})
        for t in draft.evaluation.public_tests
    )
    return draft.model_copy(
        update={
            "weighting": draft.weighting.model_copy(update={"validation": _pinned_validation(draft, sites)}),
            "model": draft.model.model_copy(update={"weights_sha256": weights}),
            "dp": dp,
            "evaluation": draft.evaluation.model_copy(update={"public_tests": tests}),
        }
    )


def _pinned_validation(draft: Draft, sites: Path) -> ValidationSet | None:
    spec = draft.weighting.validation
    if spec is None or (spec.sha256 and spec.examples):
        return spec
    documents = load_public_documents(spec, sites / PUBLIC)
    count = len(public_examples(spec, documents, draft))
    return spec.model_copy(update={"sha256": documents_digest(documents, draft.task), "examples": count})


def initialise(draft: Draft, templates: Path, target: Path, now: datetime.datetime) -> Plan:
    """Make the working set ``target`` (mode 0700) from site templates: keys, policies, approvals by generated officers,
    and the compiled plan. Nothing that exists is overwritten, and nothing is made for sites that the plan cannot have.
    Of a template notes, population and privacy ledger stay.
    """
    found = [(path, read_toml(path, SiteTemplate)) for path in site_paths(templates)]
    for _, template in found:
        require_units(template, draft)
    private_folder(target)
    folders: dict[str, Path] = {}
    for path, template in found:
        folder = private_folder(target / template.name)
        folders[template.name] = folder
        data = _anchored(template.data, path.parent)
        test = None if template.test is None else _anchored(template.test, path.parent)
        ledger, whose = _ledger(template, path.parent), template.population
        kept = SiteTemplate(name=template.name, population=whose, ledger=ledger, data=data, test=test)
        _write_new(folder / "site.toml", kept, f"Site {template.name}")
    _write_new(target / "plan.toml", draft, f"Draft of the plan {draft.name}, as it was initialised")
    if templates.resolve() != target.resolve():
        _copy_public(templates / PUBLIC, target / PUBLIC)
    return complete_working_set(pin(draft, target), folders, private_folder(target / "coordinator"), now)


def _write_new(path: Path, value: Strict, heading: str) -> None:
    """Whole or not at all: half a file would be taken for a user's own by the next try."""
    if not path.exists():
        write_durably(path, [write_toml(value, heading).encode()])


def _anchored(section: DataSection, base: Path) -> DataSection:
    """Paths of a template are relative to it; in the working set they stand whole."""
    changed = {
        name: str((base / value).resolve())
        for name in ("path", "label_map", "exclude_patients")
        if (value := getattr(section, name)) is not None
    }
    return section.model_copy(update=changed)


def _ledger(template: SiteTemplate, folder: Path) -> str:
    """Where these patients are charged: the ledger that the template names, or that was made beside it, stays theirs.

    In one of the working set's own they would start from 0, whatever was released about them before.
    """
    path = (folder / Path(template.ledger).expanduser()).resolve()
    named = template.ledger != SiteTemplate.model_fields["ledger"].default
    return str(path) if named or path.is_file() else template.ledger


def _copy_public(source: Path, target: Path) -> None:
    for path in sorted(source.glob("*.toml")) if source.is_dir() else ():
        private_folder(target)
        data = _anchored(read_toml(path, PublicFile).data, source)
        _write_new(target / path.name, PublicFile(data=data), f"Public test set {path.stem}")


def prepare_run(
    plan_path: Path, sites: Path, out: Path, *, init: bool, assignments: Sequence[str] = (), run: str | None = None
) -> RunFolder:
    """A fresh run folder, or ConfigError with nothing left behind that a second try would trip over."""
    require_new(out)
    with _taken_back(working_set(out), out) if init else nullcontext():
        return _prepared(plan_path, sites, out, init, assignments, run)


@contextmanager
def _taken_back(target: Path, out: Path) -> Iterator[None]:
    """A working set that is new goes again where its run is refused: policies that were drafted for this plan would
    refuse the next. Not where another process, started with the same names, has a run on it: that one's ledgers stay.
    """
    is_new = not target.exists()
    try:
        yield
    except BaseException:
        begun = any(target.glob("*/state")) or (out.is_dir() and any(out.iterdir()))
        if is_new and not begun:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _prepared(
    plan_path: Path, sites: Path, out: Path, init: bool, assignments: Sequence[str], run: str | None
) -> RunFolder:
    if init:
        now = datetime.datetime.now(datetime.UTC)
        sites, plan = working_set(out), initialise(read_draft(plan_path, assignments), sites, working_set(out), now)
    elif assignments:
        raise ConfigError("--set changes a plan, and an approved plan cannot change; use it with --init or a draft")
    elif plan_path.suffix == ".toml":
        raise ConfigError(
            f"{plan_path} is a draft, and nobody has approved it; run it with --init (keys and approvals are made on "
            "the spot), or give the compiled plan.json that the officers approved"
        )
    else:
        plan = load_plan(plan_path)
    verify_supported(plan)
    taking_part = {name: site for name, site in load_sites(sites).items() if name in plan.roster.sites}
    require_approved(plan, taking_part)
    for site in taking_part.values():
        require_units(site.file, plan)
    run = run or new_run_id(plan.name)
    require_startable(plan, taking_part, run)
    return RunFolder.create(out, run, sites, plan, approvals_of(plan, sites))
