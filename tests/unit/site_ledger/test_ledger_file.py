"""The ledger on disk: what it answers, and what its file is."""

import math
import shutil
import sqlite3
import stat

import pytest

from fedsec.privacy.accountant import RdpFilter
from fedsec.site.ledger_file import _SCHEMA
from fedsec_secure.accounting.chain import EMPTY, Head
from fedsec_secure.accounting.events import NonPrivateRelease
from fedsec_secure.errors import (
    AbortError,
    ConfigError,
    LocalMisuseError,
    PrivacyBudgetExceededError,
    StorageError,
    VerificationError,
)
from tests.unit.secure.accounting.accounting_additive import Unable, costs
from tests.unit.site_ledger.ledger_files import ADD, DELTA, OUTPUT, fill, open_ledger, reserve, reserve_many


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


# ---- answers


def test_reserve_spend_and_read_back(path):
    with open_ledger(path) as ledger:
        assert (ledger.head(), ledger.history(), ledger.spent(ADD, DELTA)) == (EMPTY, (), 0)
        first = reserve(ledger)
        assert (first.sequence, first.released, first.at) == (2, None, 1_800_000_000)
        assert ledger.spend(first.sequence, OUTPUT).released == OUTPUT
        second = reserve(ledger, 1, costs(2.0))
        assert ledger.spent(ADD, DELTA) == 3
        with pytest.raises(PrivacyBudgetExceededError):
            reserve(ledger, 2, costs(2.0))
        head = ledger.head()
    with open_ledger(path, expected=head) as ledger:
        assert ledger.head() == head == Head(4, head.digest)
        assert [(r.sequence, r.released) for r in ledger.history()] == [(2, OUTPUT), (4, None)]
        assert ledger.history()[1] == second
        assert ledger.spent(ADD, DELTA) == 3


def test_repeating_appends_nothing(path):
    with open_ledger(path) as ledger:
        first = reserve(ledger)
        spent = ledger.spend(first.sequence, OUTPUT)
        head = ledger.head()
    with open_ledger(path) as ledger:
        assert reserve(ledger) == spent
        assert ledger.spend(first.sequence, OUTPUT) == spent
        assert ledger.head() == head
        with pytest.raises(LocalMisuseError, match="another event"):
            reserve(ledger, event=costs(0.5))
        with pytest.raises(LocalMisuseError, match="one output"):
            ledger.spend(first.sequence, b"x" * 32)
        assert ledger.head() == head


def test_a_refusal_writes_nothing_not_even_the_population(path):
    with open_ledger(path) as ledger:
        with pytest.raises(PrivacyBudgetExceededError):
            reserve(ledger, event=costs(8.0))
        with pytest.raises(ConfigError, match="cannot account"):
            reserve(ledger, accountant=Unable())
        assert ledger.head() == EMPTY
        reserve(ledger)
        assert ledger.head().sequence == 2


def test_a_bare_release_is_recorded_as_infinite(path):
    with open_ledger(path, unit="record") as ledger:
        with pytest.raises(PrivacyBudgetExceededError):
            reserve(ledger, event=NonPrivateRelease(), accountant=RdpFilter())
        made = reserve(ledger, event=NonPrivateRelease(), epsilon=None, accountant=RdpFilter())
        assert ledger.spent(RdpFilter(), DELTA) == math.inf
    with open_ledger(path, unit="patient") as ledger:
        assert ledger.spent(RdpFilter(), DELTA) == math.inf
        assert ledger.history() == (made,)
        with pytest.raises(PrivacyBudgetExceededError, match="never undone"):
            reserve(ledger, 1)
    with open_ledger(path, "clinic", "patient") as ledger:
        assert ledger.spent(RdpFilter(), DELTA) == 0


def test_accounts_share_a_file_and_its_head(path):
    with open_ledger(path) as ward, open_ledger(path, "clinic") as clinic, open_ledger(path, unit="record") as records:
        mine = reserve(ward, event=costs(4.0))
        reserve(clinic, event=costs(2.0))
        reserve(records, event=costs(1.0), epsilon=9.0)
        assert [ledger.spent(ADD, DELTA) for ledger in (ward, clinic, records)] == [4, 2, 9]
        assert ward.head() == clinic.head() == records.head() == Head(5, ward.head().digest)
        assert ward.history()[0].charge.population == records.history()[-1].charge.population
        assert ward.history()[0].charge.population != clinic.history()[0].charge.population
        with pytest.raises(LocalMisuseError, match="entry 2 is none"):
            clinic.spend(mine.sequence, OUTPUT)
        with pytest.raises(LocalMisuseError, match="entry 1 is none"):
            ward.spend(1, OUTPUT)


def test_the_name_is_the_population_wherever_the_file_is(path, tmp_path):
    with open_ledger(path) as ledger:
        population = reserve(ledger).charge.population
    moved = tmp_path / "elsewhere"
    moved.mkdir(mode=0o700)
    shutil.move(path, moved / "other.sqlite")
    with open_ledger(moved / "other.sqlite") as ledger:
        assert ledger.history()[0].charge.population == population
        with pytest.raises(PrivacyBudgetExceededError):
            reserve(ledger, 1, costs(4.0))


# ---- the file


def test_the_file_is_private_and_in_wal_with_full_sync(path):
    with open_ledger(path) as ledger:
        reserve(ledger)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert ledger._file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._file._db.execute("PRAGMA synchronous").fetchone() == (2,)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_ledger(path)
    path.chmod(0o600)
    path.parent.chmod(0o750)
    with pytest.raises(ConfigError, match="chmod 700"):
        open_ledger(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = x'00' WHERE sequence = 1",
        "DELETE FROM entries WHERE sequence = 3",
        "DELETE FROM entries",
        "REPLACE INTO entries VALUES (1, x'00', x'00')",
        "INSERT INTO entries VALUES (99, x'00', x'00')",
        "INSERT INTO entries VALUES (-1, x'00', x'00')",
        "INSERT INTO entries VALUES (NULL, x'00', x'00')",
    ],
)
def test_sql_can_only_append(path, statement):
    head = fill(path)
    with sqlite3.connect(path) as db, pytest.raises(sqlite3.IntegrityError, match="ledger entry"):
        db.execute(statement)
    db.close()
    with open_ledger(path, expected=head):
        pass


@pytest.mark.parametrize("name", sorted(_SCHEMA))
def test_a_changed_schema_is_refused(path, name):
    fill(path)
    with sqlite3.connect(path) as db:
        db.execute(f"DROP {'TABLE' if name == 'entries' else 'TRIGGER'} {name}")
    db.close()
    with pytest.raises(VerificationError, match="altered"):
        open_ledger(path)


def test_another_format_is_refused(path):
    fill(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=2")
    db.close()
    with pytest.raises(VerificationError, match="format 1"):
        open_ledger(path)


def test_a_locked_file_says_so(path, monkeypatch):
    monkeypatch.setattr("fedsec.site.ledger_file._BUSY_SECONDS", 0.05)
    with open_ledger(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AbortError, match="locked"):
            reserve(ledger)
        other.close()
        assert reserve(ledger).sequence == 2


def test_one_that_cannot_be_written_says_how_it_is_read(path):
    """A backup on a read-only medium, which only a superuser can make: SQLite says the same where its own log cannot be
    opened.
    """
    open_ledger(path).close()
    path.with_name(f"{path.name}-wal").mkdir()
    with pytest.raises(StorageError, match=r"unable to open.*Nothing was charged.*look at a copy"):
        open_ledger(path)


def test_a_folder_in_its_place_is_named(path):
    path.mkdir(mode=0o700, parents=True)
    path.parent.chmod(0o700)
    with pytest.raises(ConfigError, match="found no file"):
        open_ledger(path)


def test_a_full_disk_charges_nothing(path):
    with open_ledger(path) as ledger:
        reserve(ledger)
        head = ledger.head()
        pages = ledger._file._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._file._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StorageError, match="Nothing was charged"):
            reserve_many(ledger, range(1, 40))
        ledger._file._db.execute("PRAGMA max_page_count=100000")
        assert ledger.spent(ADD, DELTA) == len(ledger.history()) < 40
        reserve(ledger, 40, epsilon=100.0)
    with open_ledger(path, expected=head) as ledger:
        assert ledger.spent(ADD, DELTA) == len(ledger.history())
