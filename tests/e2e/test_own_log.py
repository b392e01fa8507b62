"""A site's own log: what it answered, once, what it refused, and that nobody takes a line out of it afterwards."""

from __future__ import annotations

import pytest

from fedsec.logfile import ENTRIES
from fedsec.plan.attestation import open_attestation
from fedsec.site import own_log
from fedsec.site.own_log import FOLDER
from fedsec_secure.errors import PeerViolationError, VerificationError
from fedsec_secure.record.entries import AnsweredEntry, ApprovalEntry, RefusalEntry
from fedsec_secure.record.tree import MerkleTree
from tests.e2e.federation import RUN, Federation, Keys, make_plan

SITES = 4
MASKED = ["train", "share", "mask", "confirm", "unmask", "verdict"]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def test_every_answer_stands_in_it_once(tmp_path, keys):
    plan = make_plan(keys)
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
        first, *rest = federation.agents["site-a"].log.entries
        assert isinstance(first, ApprovalEntry)
        assert first.officers == (keys.officers["site-a"].public.hex,)
        assert all(isinstance(e, AnsweredEntry) and e.run == RUN for e in rest)
        expected = [(name, r) for r in (0, 1) for name in (*MASKED, "witness")] + [("attest", 2), ("witness", 2)]
        # The log is cosigned after each round's end: a run-level exchange has the number after the last round.
        assert [(e.exchange, e.round if e.exchange != "witness" else None) for e in rest] == [
            (name, r if name != "witness" else None) for name, r in expected
        ]
        before = federation.agents["site-a"].log.entries
    with Federation(tmp_path, keys, plan) as federation:  # the same requests again: nothing leaves that had not left
        federation.run()
        assert federation.agents["site-a"].log.entries == before


def test_what_is_refused_stands_in_it_with_the_reason(tmp_path, keys, monkeypatch):
    monkeypatch.setattr(own_log, "MOST_REFUSALS", 3)
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        agent = federation.agents["site-a"]
        for name in ("mask", "no\nsuch exchange", "verdict", "share"):
            with pytest.raises(Exception, match=r".+"):
                agent.handle(name, b"rubbish")
        refusals = [e for e in agent.log.entries if isinstance(e, RefusalEntry)]
        assert [e.exchange for e in refusals] == ["mask", "unknown", "verdict"], "who is refused cannot fill the disk"
        assert all("\n" not in e.reason for e in refusals)


def test_its_head_is_in_what_the_site_signs(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        federation.run()
        signed, key = federation.attestations["site-a"], keys.sites["site-a"].public
        said = open_attestation(signed, "site-a", key, federation.plan, RUN)
        entries = federation.agents["site-a"].log.entries
        tree = MerkleTree(e.leaf_hash() for e in entries)
        assert tree.head(said.log.entries).root.hex() == said.log.root_sha256
        assert said.log.entries < len(entries), "the attestation itself comes after"


@pytest.mark.parametrize("change", ["cut", "edited", "gone"])
def test_a_log_that_was_changed_stops_its_site(tmp_path, keys, change):
    plan, path = make_plan(keys, rounds=1), tmp_path / "state" / "site-a" / FOLDER / ENTRIES
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "cut":
        path.write_bytes(b"".join(lines[:-1]))
    elif change == "edited":
        path.write_bytes(b"".join(lines).replace(b'"exchange":"mask"', b'"exchange":"plain"'))
    else:
        path.unlink()
    with pytest.raises(VerificationError, match="was edited or cut"):
        Federation(tmp_path, keys, plan).__enter__()


def test_a_kill_between_log_and_record_is_no_edit(tmp_path, keys):
    """The log may be ahead of the record: the line was written, and the process died."""
    plan = make_plan(keys, rounds=1)
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
        store = federation.stores["site-a"]
        head = federation.agents["site-a"].log.head
        shorter = MerkleTree(e.leaf_hash() for e in federation.agents["site-a"].log.entries[:-1]).head()
        store.log.save_own_head(shorter)
    with Federation(tmp_path, keys, plan) as federation:
        assert federation.agents["site-a"].log.head == head
        with pytest.raises(PeerViolationError):
            federation.agents["site-a"].handle("no such exchange", b"")
