"""What a site's record holds of runs: their plans, with whom, and who was in each of their sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from fedsec_secure.errors import PeerViolationError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, plan BLOB NOT NULL, cohort TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS survivors (
  run TEXT NOT NULL, round INTEGER NOT NULL, sites TEXT NOT NULL, PRIMARY KEY (run, round));
"""


class RunRecord:
    """A part of the site's write-ahead record, over its connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)

    def begin(self, run: str, plan: bytes, cohort: frozenset[str], most: int) -> None:
        """Bind a run id to its plan and roster (site keys, hex). At most ``most`` run ids a plan."""
        row = self._db.execute("SELECT plan FROM runs WHERE run = ?", (run,)).fetchone()
        if row is None:
            known = len(self.started(plan))
            # Check 65 (differencing of runs): as many runs as the policy allows.
            if known >= most:
                raise PeerViolationError(f"the policy here has max_runs = {most} for one plan, and {known} began")
            self._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (run, plan, " ".join(sorted(cohort))))
        elif row[0] != plan:
            raise PeerViolationError(f"run {run!r} was started here under another plan")

    def started(self, plan: bytes) -> frozenset[str]:
        """The run ids of this plan that began here."""
        return frozenset(run for (run,) in self._db.execute("SELECT run FROM runs WHERE plan = ?", (plan,)).fetchall())

    def cohorts(self) -> list[frozenset[str]]:
        """The site keys (hex) of every roster that this site took part with."""
        rows = self._db.execute("SELECT cohort FROM runs").fetchall()
        return [frozenset(row[0].split()) for row in rows]

    def survivor_sets(self) -> list[frozenset[str]]:
        """The site keys (hex) of every survivor set that this site signed, in any run."""
        return [frozenset(row[0].split()) for row in self._db.execute("SELECT sites FROM survivors").fetchall()]

    def keep_survivors(self, run: str, round_index: int, sites: frozenset[str]) -> None:
        """Within the transaction of the answer that rests on it."""
        row = (run, round_index, " ".join(sorted(sites)))
        self._db.execute("INSERT INTO survivors VALUES (?, ?, ?)", row)

    def which(self, plan: bytes, matches: Callable[[str], bool]) -> str:
        """The run of this plan that ``matches``."""
        for run in sorted(self.started(plan)):
            if matches(run):
                return run
        raise PeerViolationError(
            "no run of this plan that was started here is meant: this site took no part in it, or its record was lost "
            "since"
        )
