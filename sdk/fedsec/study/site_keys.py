"""A site's encryption keys, one a run, looked at and destroyed from outside a run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fedsec.plan.sitefile import Site
from fedsec.site.ledger import Ledger
from fedsec.site.store import RECORD, SiteStore
from fedsec.site.store_key import KeyState, read_key_states
from fedsec_secure.errors import ConfigError, VerificationError


def key_states(site: Site) -> list[KeyState]:
    """Of every run that this site offered to share a key in, without disturbing an agent that runs. By run."""
    record = _record(site)
    if not record.is_file():
        return []
    with closing(sqlite3.connect(f"{record.resolve().as_uri()}?mode=ro", uri=True)) as db:
        return read_key_states(db)


def destroy_key(site: Site, run: str) -> tuple[KeyState, KeyState]:
    """Destroy the key of a run, and what it could be had from: how it was, and how it is. Again, it changes nothing.

    Raises:
        ConfigError: the run is unknown, or another process holds the record: then nothing happened.
        VerificationError: the key is destroyed, but the ledger does not fit the record, and so cannot pin this.
    """
    before = known_state(site, run)
    failed: list[VerificationError] = []

    def pin() -> None:
        try:
            _pin(site, store)
        except VerificationError as e:
            failed.append(e)  # an officer's word counts, whatever became of the ledger

    with closing(SiteStore(site.state_path)) as store:
        store.keys.destroy(run, pin)
    if failed:
        raise failed[0]
    return before, known_state(site, run)


def _pin(site: Site, store: SiteStore) -> None:
    """Otherwise a copy of the record from before, put back, would have the key and would count as the newest."""
    if site.ledger_path.exists():
        with Ledger(site.ledger_path, site.population, "patient", expected=store.ledger_head()) as ledger:
            ledger.verify_record(store.chain.id, store.chain.passed)
            ledger.pin(store.chain.witness())


def known_state(site: Site, run: str) -> KeyState:
    """What is known of one run's key. ConfigError for a run that this site was in no ceremony of."""
    states = {state.run: state for state in key_states(site)}
    if run not in states:
        names = ", ".join(states) or "none"
        raise ConfigError(
            f"site {site.name} was never in a ceremony for an encryption key of run {run!r}; expected one of its runs: "
            f"{names}. `fedsec keys he show` lists them"
        )
    return states[run]


def _record(site: Site) -> Path:
    return site.state_path / RECORD
