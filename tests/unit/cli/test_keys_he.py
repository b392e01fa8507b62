"""`fedsec keys he`: what a site says of its encryption keys, and that one which is destroyed is gone."""

from __future__ import annotations

import base64
import io
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedsec.plan.spoken import spoken_bytes
from fedsec.site.store import SiteStore
from fedsec.wire import core_roster
from fedsec_secure.errors import AbortError, VerificationError
from fedsec_secure.masking.ceremony import ceremony_context, fingerprint
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import RUN, Federation, Keys, make_plan

SITE = """
name = "{name}"
officer = "{officer}"
state = "state/{name}"
ledger = "state/{name}/ledger.sqlite"
[data]
path = "notes.jsonl"
"""


class Stopped(BaseException):
    """Ctrl-C."""


def stopped_before(exchange: str):
    class Stop:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, asked, spool):
            if asked.name == exchange:
                raise Stopped
            return self.transport.exchange(asked, spool)

    return Stop


class Hospitals:
    """Three sites of a run that was stopped, each with its site file."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.folder, self.keys = folder, keys
        self.plan = make_plan(keys, mode="he-mask", rounds=1)
        for name in keys.sites:
            self.site(name).write_text(SITE.format(name=name, officer=keys.officers[name].public.hex))

    def site(self, name: str = "site-b") -> Path:
        return self.folder / f"{name}.toml"

    def state(self, name: str = "site-b") -> Path:
        return self.folder / "state" / name

    def run_until(self, exchange: str) -> Hospitals:
        stop = stopped_before(exchange)
        with Federation(self.folder, self.keys, self.plan, carry=stop) as federation, pytest.raises(Stopped):
            federation.run()
        return self

    def copy(self, folder: Path) -> Hospitals:
        shutil.copytree(self.folder, folder)
        return Hospitals(folder, self.keys)

    def key(self, name: str = "site-b") -> bytes | None:
        with closing(sqlite3.connect(self.state(name) / "record.sqlite")) as db:
            return db.execute("SELECT key FROM encryption").fetchone()[0]

    def on_disk(self, name: str = "site-b") -> bytes:
        return b"".join(p.read_bytes() for p in sorted(self.state(name).rglob("*")) if p.is_file())


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(3)


@pytest.fixture(scope="module")
def once(tmp_path_factory, keys) -> Hospitals:
    """All sites have the key."""
    return Hospitals(tmp_path_factory.mktemp("held"), keys).run_until("train")


@pytest.fixture
def held(once, tmp_path) -> Hospitals:
    return once.copy(tmp_path / "sites")


@pytest.fixture
def offered(tmp_path, keys) -> Hospitals:
    """All sites wait for it."""
    (tmp_path / "sites").mkdir()
    return Hospitals(tmp_path / "sites", keys).run_until("key-deal")


def said(result) -> str:
    """What stands in the error's box."""
    return " ".join(result.err.replace("│", " ").split())


def spelled(key: bytes) -> list[str]:
    return [key.hex(), key.hex().upper(), base64.b64encode(key).decode(), key[:8].hex(), spoken_bytes(key), repr(key)]


def test_show_says_which_run_whose_key_and_by_what_to_know_it(fedsec, held):
    plan, key = held.plan, SecretBytes(held.key())
    expected = fingerprint(key, ceremony_context(plan.digest(), RUN, core_roster(plan).digest()))
    for name in held.keys.sites:
        (row,) = fedsec("keys", "he", "show", "--site", held.site(name), "--json").json["rows"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", row.pop("since"))
        assert row == {
            "run": RUN,
            "plan_sha256": plan.digest().hex(),
            "dealer": "site-a",
            "fingerprint": expected.hex(),
            "words": spoken_bytes(expected),
            "state": "held",
        }
    page = fedsec("keys", "he", "show", "--site", held.site())
    assert page.code == 0
    for part in (RUN, plan.digest().hex()[:12], "site-a", spoken_bytes(expected).split()[-1], "held since"):
        assert part in page.out
    assert max(len(line) for line in page.out.splitlines()) <= 100


def test_nothing_of_the_key_is_ever_shown(fedsec, held):
    key = held.key()
    results = [
        fedsec("keys", "he", "show", "--site", held.site()),
        fedsec("keys", "he", "show", "--site", held.site(), "--json"),
        fedsec("keys", "he", "destroy", "no-such-run", "--site", held.site()),
        fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes", "--json"),
        fedsec("keys", "he", "destroy", RUN, "--site", held.site("site-c"), "--yes"),
    ]
    assert [r.code for r in results] == [0, 0, 2, 0, 0]
    for result in results:
        assert [part for part in spelled(key) if part in result.out + result.err] == []


def test_a_folder_with_a_site_file_is_as_good(fedsec, held):
    shutil.copy(held.site(), held.folder / "site.toml")
    assert fedsec("keys", "he", "show", "--site", held.folder, "--json").json["site"] == "site-b"
    missing = fedsec("keys", "he", "show", "--site", held.folder / "state")
    assert missing.code == 2
    assert "site.toml" in said(missing)


def test_a_destroyed_key_is_nowhere_at_the_site_any_more(fedsec, held):
    key = held.key()
    assert key in held.on_disk()
    done = fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes")
    assert done.code == 0
    assert "opens no more of its sums" in done.out.replace("\n", " ")
    assert key not in held.on_disk()
    assert key in held.on_disk("site-a"), "other sites keep theirs"
    (row,) = fedsec("keys", "he", "show", "--site", held.site(), "--json").json["rows"]
    assert row["state"] == "destroyed"
    assert row["fingerprint"] is not None, "which key it was can still be said"


def test_again_it_changes_nothing(fedsec, held):
    fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes")
    with closing(SiteStore(held.state())) as store:
        head = store.chain.head()
    again = fedsec("keys", "he", "destroy", RUN, "--site", held.site())  # there is nothing left to ask about
    assert again.code == 0
    assert "was destroyed here before" in again.out
    assert fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--json").json["was"] == "destroyed"
    with closing(SiteStore(held.state())) as store:
        assert store.chain.head() == head


def test_the_run_does_not_go_on_without_the_key(fedsec, held):
    fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes")
    with Federation(held.folder, held.keys, held.plan) as federation:
        with pytest.raises(AbortError):
            federation.run()
        reasons = [e["sites"]["site-b"] for e in federation.events if e["event"] == "lost" and "site-b" in e["sites"]]
    assert reasons
    assert all(f"this site destroyed its encryption key of run {RUN}" in reason for reason in reasons)


def test_a_site_that_waits_for_a_key_gets_none_any_more(fedsec, offered):
    (row,) = fedsec("keys", "he", "show", "--site", offered.site(), "--json").json["rows"]
    assert (row["state"], row["fingerprint"], row["words"], row["dealer"]) == ("offered", None, None, "site-a")
    assert "offered since" in fedsec("keys", "he", "show", "--site", offered.site()).out
    assert fedsec("keys", "he", "destroy", RUN, "--site", offered.site(), "--yes", "--json").json["was"] == "offered"
    with (
        Federation(offered.folder, offered.keys, offered.plan) as federation,
        pytest.raises(AbortError, match="site-b did not answer `key-take`"),
    ):
        federation.run()
    assert offered.key() is None
    assert offered.key("site-c") is not None


def test_an_older_copy_of_the_record_with_the_key_in_it_does_not_count(fedsec, held, tmp_path):
    shutil.copy(held.state() / "record.sqlite", tmp_path / "older.sqlite")
    fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes")
    for path in held.state().glob("record.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "older.sqlite", held.state() / "record.sqlite")
    assert held.key() is not None
    with pytest.raises(VerificationError, match="the record was rolled back"):
        Federation(held.folder, held.keys, held.plan).__enter__()


def test_a_record_that_a_process_holds_is_left_alone(fedsec, held):
    key = held.key()
    with closing(SiteStore(held.state())):
        refused = fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes")
        assert refused.code == 2
        assert "another process holds" in said(refused)
        assert fedsec("keys", "he", "show", "--site", held.site()).code == 0
    assert held.key() == key


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "code", "gone"), [("y\n", 0, True), ("n\n", 1, False), ("\n", 1, False)])
def test_on_a_terminal_it_says_what_it_means_and_asks(fedsec, held, monkeypatch, typed, code, gone):
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    asked = fedsec("keys", "he", "destroy", RUN, "--site", held.site())
    assert asked.code == code
    assert "opens no more of its sums" in asked.err.replace("\n", " ")
    assert "Destroy it?" in asked.err
    assert (held.key() is None) == gone


def test_where_nobody_can_be_asked_nothing_happens(fedsec, held, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    refused = fedsec("keys", "he", "destroy", RUN, "--site", held.site())
    assert refused.code == 2
    assert "--yes" in said(refused)
    assert held.key() is not None


def test_an_unknown_run_is_refused_by_name(fedsec, held):
    refused = fedsec("keys", "he", "destroy", "run-7", "--site", held.site(), "--yes")
    assert refused.code == 2
    assert "'run-7'" in said(refused)
    assert f"one of its runs: {RUN}" in said(refused)
    assert held.key() is not None


def test_a_site_that_never_ran_has_none_and_gets_no_record(fedsec, held):
    shutil.rmtree(held.state())
    assert fedsec("keys", "he", "show", "--site", held.site(), "--json").json == {"site": "site-b", "rows": []}
    assert "in no run" in fedsec("keys", "he", "show", "--site", held.site()).out
    assert fedsec("keys", "he", "destroy", RUN, "--site", held.site(), "--yes").code == 2
    assert not held.state().exists()


def test_a_record_from_before_there_were_such_keys(fedsec, held):
    with closing(sqlite3.connect(held.state() / "record.sqlite")) as db:
        db.execute("DROP TABLE encryption")
    assert fedsec("keys", "he", "show", "--site", held.site(), "--json").json["rows"] == []
