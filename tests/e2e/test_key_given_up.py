"""Once a site's encryption key is gone, no copy of its record from before counts.

Killed with SIGKILL at any write of it: the ledger pins the record that gives the key up before the key leaves it.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec.site.store_key import read_key_states
from fedsec_secure.errors import PeerViolationError, StorageError, VerificationError
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import RUN

SITE = "site-a"


def has_key(state: Path) -> bool:
    with closing(sqlite3.connect(state / "record.sqlite")) as db:
        return db.execute("SELECT key FROM encryption").fetchone()[0] is not None


def counts(state: Path, record_of: Path) -> bool:
    """Whether the ledger in ``state`` takes the record that stands in ``record_of`` for the site's own."""
    with (
        closing(SiteStore(record_of)) as store,
        Ledger(state / "ledger.sqlite", SITE, "record", expected=store.ledger_head()) as ledger,
    ):
        try:
            ledger.verify_record(store.chain.id, store.chain.passed)
        except VerificationError:
            return False
    return True


def older_beside(state: Path, older: Path, place: Path) -> Path:
    """The older record with the ledger that stands in ``state``: what somebody who puts a backup back has."""
    shutil.copytree(state, place)
    for path in place.glob("record.sqlite*"):
        path.unlink()
    for path in older.glob("record.sqlite*"):
        shutil.copy(path, place)
    return place


def test_where_the_key_is_gone_an_older_record_does_not_count(lab, runs):
    before = runs / "before"
    assert lab.run(before, f"{SITE} before attest #1", mode="he") == {"signal": signal.SIGKILL}
    older = before / "state" / SITE
    assert has_key(older)

    def again(name: str, kill_at: int | None = None) -> dict:
        shutil.copytree(before, runs / name)
        return lab.run(runs / name, kill_at, mode="he")

    labels = again("calm")["moments"]
    first, last = labels.index(f"{SITE} before attest #1"), labels.index(f"{SITE} after attest #1")
    seen = []
    for moment in range(first, last + 1):
        assert again(str(moment), moment) == {"signal": signal.SIGKILL}
        state = runs / str(moment) / "state" / SITE
        place = older_beside(state, older, runs / f"older-{moment}")
        seen.append((has_key(state), counts(state, place)))
        assert seen[-1] != (False, True), f"killed at {labels[moment]}, an older record brings the key back"
        assert counts(state, state), "the newest record always counts"
        assert lab.run(runs / str(moment), 0, mode="he") == {"signal": signal.SIGKILL}
        if (True, False) in seen:  # pinned: however the site died, it ends the key when it starts again
            assert not has_key(state)
    assert list(dict.fromkeys(seen)) == [(True, True), (True, False), (False, False)]


@pytest.fixture
def store(tmp_path):
    with closing(SiteStore(tmp_path)) as store:
        sql = "INSERT INTO encryption (run, dealer, packet, key, since) VALUES (?, 'site-a', x'', ?, 0)"
        store._db.execute(sql, (RUN, SecretBytes.random().reveal()))
        store._db.execute("INSERT INTO runs VALUES (?, x'', '')", (RUN,))
        yield store


def no_room() -> None:
    raise StorageError("no room")


def state_of(store: SiteStore) -> str:
    (found,) = read_key_states(store._db)
    return found.state


def test_a_ledger_without_room_leaves_a_key_that_is_given_up_and_not_gone(store):
    with pytest.raises(StorageError):
        store.keys.destroy(RUN, no_room)
    assert state_of(store) == "held", "it is said to be gone only once it is"
    with pytest.raises(PeerViolationError, match="destroyed its encryption key"):
        store.keys.key(RUN)
    pinned = []
    store.keys.sweep(lambda: pinned.append(store.chain.head()))
    assert state_of(store) == "destroyed"
    assert len(pinned) == 1
    assert store.chain.passed(pinned[0])
    assert store.chain.head() != pinned[0], "what was pinned is from before the key went"


def test_a_record_without_room_still_gives_the_key_up_in_this_process(store):
    store._db.execute("CREATE TRIGGER full BEFORE UPDATE ON encryption BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with pytest.raises(sqlite3.Error):
        store.keys.destroy(RUN, no_room)
    with pytest.raises(PeerViolationError, match="destroyed its encryption key"):
        store.keys.key(RUN)
    store._db.execute("DROP TRIGGER full")
    store.keys.destroy(RUN, lambda: None)
    assert state_of(store) == "destroyed"
