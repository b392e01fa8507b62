"""What a site's privacy ledger holds, for people who look at it: an agent of the site may run meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from fedsec.plan.sitefile import Site
from fedsec.site.ledger import Ledger
from fedsec.site.own_log import require_ledger
from fedsec.site.store import RECORD, recorded_ledger_head
from fedsec_secure.accounting.chain import EMPTY, Head, Reservation
from fedsec_secure.accounting.events import Unit
from fedsec_secure.errors import VerificationError


def charged_to(site: Site, unit: Unit) -> tuple[Reservation, ...]:
    """What counts in one account; nothing, and no file is made, where nothing was ever charged.

    VerificationError where the ledger lacks the head that the site's record has: it is gone, or an older copy.
    Or where it is gone with the record, and the site's own log has answers.
    """
    with _account(site, unit) as ledger:
        return () if ledger is None else ledger.history()


def other_populations(site: Site) -> tuple[str, ...]:
    """Names under which the site's ledger has charges that do not count for the site's population. Raises the same."""
    with _account(site, "record") as ledger:
        return () if ledger is None else ledger.others()


@contextmanager
def _account(site: Site, unit: Unit) -> Iterator[Ledger | None]:
    # The record first: an agent that runs writes the ledger before it.
    expected = _expected(site)
    if (expected is None or expected.sequence == 0) and not site.ledger_path.exists():
        require_ledger(site.state_path, EMPTY)
        yield None
        return
    with Ledger(site.ledger_path, site.population, unit, expected=expected) as ledger:
        require_ledger(site.state_path, ledger.head())
        yield ledger


def _expected(site: Site) -> Head | None:
    """The newest head of the ledger that the site's record knows."""
    record = site.state_path / RECORD
    if not record.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{record.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return recorded_ledger_head(db)
    except sqlite3.Error as e:
        raise VerificationError(
            f"expected the newest head of the privacy ledger in {record}, found that it cannot be read: {e}. Without "
            "it an older copy of the ledger would pass for the newest; restore the newest copy of the record"
        ) from e
