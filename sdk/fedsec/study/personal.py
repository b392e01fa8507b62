"""A site's personal adapter of a ``fedsa`` run: the run's A with the B that never left the site."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from fedsec.plan.sitefile import Site
from fedsec.site.store import RECORD
from fedsec.site.store_personal import newest_values
from fedsec.study.folder import RunFolder
from fedsec.study.own_adapter import adapter_of_run
from fedsec.study.verify import verify_run
from fedsec.training.adapter import AdapterState, load_peft
from fedsec.training.strategies import personal_names, with_personal
from fedsec_secure.errors import ConfigError, VerificationError


def personal_adapter(site: Site, folder: RunFolder) -> AdapterState:
    """From the site's state folder, which is only read, and a finished run.

    ConfigError where the run has no adapter, its strategy no personal part, or the site trained nothing in it;
    VerificationError where the run's adapter is not the one that this site verified.
    """
    plan = folder.plan
    shared = _shared(site, folder)
    if not personal_names(plan.lora.strategy, shared):
        raise ConfigError(
            f"the plan's strategy is {plan.lora.strategy}, which keeps nothing at a site; use {folder.adapter} as it is"
        )
    record = site.state_path / RECORD
    if not record.is_file():
        raise ConfigError(f"site {site.name} has no record in {site.state_path}: it took part in no run")
    with closing(sqlite3.connect(f"{record.resolve().as_uri()}?mode=ro", uri=True)) as db:
        _require_verified(db, folder, shared)
        values = newest_values(db, site.state_path, folder.run, plan.rounds)
    if values is None:
        raise ConfigError(f"site {site.name} trained nothing in run {folder.run}: it has no B of its own")
    return with_personal(plan.lora.strategy, shared, values)


def _shared(site: Site, folder: RunFolder) -> AdapterState:
    """The run's adapter; of a run whose sums are encrypted from the site's record, if the folder has none."""
    if (folder.adapter / "adapter_config.json").is_file():
        return load_peft(folder.adapter)
    if folder.plan.secure.is_encrypted and folder.distributed:
        return adapter_of_run(site, folder)
    raise ConfigError(f"{folder.path} has no adapter yet: finish it with {folder.goes_on_by}")


def _require_verified(db: sqlite3.Connection, folder: RunFolder, shared: AdapterState) -> None:
    """The run is of the plan that this site knows it by, and its adapter what this site, or enough others, attested."""
    row = db.execute("SELECT plan FROM runs WHERE run = ?", (folder.run,)).fetchone()
    if row is None or row[0] != folder.plan.digest():
        raise VerificationError(f"this site knows no run {folder.run} of the plan in {folder.path}")
    query = "SELECT result FROM rounds WHERE run = ? AND round = ?"
    row = db.execute(query, (folder.run, folder.plan.rounds - 1)).fetchone()
    if row is not None and row[0] is not None:
        if row[0] != shared.digest():
            raise VerificationError(f"{folder.adapter} is not the adapter that this site verified in the last round")
        return
    failed = next((r for r in verify_run(folder.path) if r.outcome == "failed"), None)  # it was away at the end
    if failed is not None:
        raise VerificationError(f"check {failed.number} of {folder.path} failed: {failed.reason}")
