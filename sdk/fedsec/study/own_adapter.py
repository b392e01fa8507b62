"""The adapter of a run whose sums are encrypted, from the record of a site that opened the last of them.

The coordinator of such a run has a digest and no adapter, so each site writes its own.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fedsec.plan.model import Plan
from fedsec.plan.sitefile import Site
from fedsec.site.store import RECORD, global_path
from fedsec.study.folder import RunFolder
from fedsec.study.verify import verify_run
from fedsec.training.adapter import AdapterState
from fedsec_secure.errors import CodecError, ConfigError, VerificationError


def adapter_of_run(site: Site, folder: RunFolder) -> AdapterState:
    """What the whole run folder stands behind, from this site's record. VerificationError where it does not hold."""
    adapter = own_adapter(site, folder.run, folder.plan)
    failed = next((r for r in verify_run(folder.path) if r.outcome == "failed"), None)
    if failed is not None:
        raise VerificationError(f"check {failed.number} of {folder.path} failed: {failed.reason}")
    return adapter


def adapter_of_id(site: Site, run: str, plan: Plan) -> AdapterState:
    """What this site verified in the last round of the run with this id, which it may not have seen the end of.

    ConfigError where the plan plants canaries: whether a site withholds the adapter stands in the run folder alone.
    """
    if plan.canaries.per_site:
        raise ConfigError(
            "the plan plants canaries, and any site may withhold the adapter for what they show; expected --run with "
            "the folder of the finished run, which says whether one does"
        )
    return own_adapter(site, run, plan)


def own_adapter(site: Site, run: str, plan: Plan) -> AdapterState:
    """From the site's state folder, which is only read.

    ConfigError where the site has none: sums that are not encrypted, a run that it was not in, or whose last sum it did
    not open. VerificationError where its record is of another plan, or the file is not what was recorded.
    """
    if not plan.secure.is_encrypted:
        raise ConfigError(
            f'secure.mode is "{plan.secure.mode}": the adapter of such a run is in its run folder; expected "he-mask" '
            'or "he"'
        )
    record = site.state_path / RECORD
    if not record.is_file():
        raise ConfigError(f"site {site.name} has no record in {site.state_path}: it took part in no run")
    with closing(sqlite3.connect(f"{record.resolve().as_uri()}?mode=ro", uri=True)) as db:
        row = db.execute("SELECT plan FROM runs WHERE run = ?", (run,)).fetchone()
        # Nobody but this site says what it verified: its own record, and the digest of what lies beside it.
        query = "SELECT result FROM rounds WHERE run = ? AND round = ?"
        verified = db.execute(query, (run, plan.rounds - 1)).fetchone()
    if row is None or row[0] != plan.digest():
        raise VerificationError(f"site {site.name} knows no run {run!r} of the plan {plan.digest().hex()[:12]}…")
    if verified is None or verified[0] is None:
        raise ConfigError(
            f"site {site.name} has not opened the last sum of run {run}: the run is not over, or the site was away. "
            "Another site of the run has the adapter, and its digest stands in the certificate"
        )
    return _read(global_path(site.state_path, run, plan.rounds), verified[0])


def _read(path: Path, digest: bytes) -> AdapterState:
    try:
        adapter = AdapterState.from_bytes(path.read_bytes())
    except (OSError, CodecError):
        raise VerificationError(f"{path} is gone or cannot be read: this site has lost its adapter") from None
    if adapter.digest() != digest:
        raise VerificationError(f"{path} is not the adapter that this site verified in the last round")
    return adapter
