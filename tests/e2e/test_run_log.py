"""The log of a run: written by the coordinator, computed anew and cosigned by each site, by none that saw another."""

from __future__ import annotations

import pytest

from fedsec.coordinator import runner as runner_module
from fedsec.coordinator.run_log import RunLog
from fedsec.logfile import CHECKPOINT, ENTRIES, read_entries
from fedsec.wire import WitnessRequest, core_roster, log_of, witness_context
from fedsec_secure.codec import seal
from fedsec_secure.errors import (
    AbortError,
    CodecError,
    FedsecError,
    PeerViolationError,
    TransportError,
    VerificationError,
)
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.record.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from fedsec_secure.record.entries import AggregateEntry, LedgerHeadEntry, RefusalEntry, SurvivorsEntry, printable
from fedsec_secure.record.tree import MerkleTree
from tests.e2e.federation import RUN, Federation, Keys, make_plan

SITES = 4


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def log_folder(tmp_path):
    return tmp_path / "run" / "log"


def opened(tmp_path, plan, threshold=SITES):
    note = (log_folder(tmp_path) / CHECKPOINT).read_bytes()
    return open_checkpoint(note, log_of(plan, RUN), core_roster(plan).sites, threshold)


def test_a_run_leaves_a_log_that_every_site_cosigned(tmp_path, keys):
    plan = make_plan(keys)
    with Federation(tmp_path, keys, plan) as federation:
        adapter = federation.run()
    entries = read_entries(log_folder(tmp_path))
    kinds = [e.kind for e in entries]
    each_round = ["round-started", "survivors", "aggregate", *["ledger-head"] * SITES]
    assert kinds == [*each_round, *each_round, *["attestation"] * SITES, "model", "run-finished"]
    model = entries[-2]
    assert model.adapter_sha256 == adapter.digest().hex() == entries[-1].adapter_sha256
    assert list(model.sites) == list(keys.sites)
    done = opened(tmp_path, plan)
    assert done.checkpoint.head == MerkleTree(e.leaf_hash() for e in entries).head()
    assert set(done.cosigned) == set(keys.sites)
    with Federation(tmp_path, keys, plan) as federation:  # a finished run, resumed: the same log
        federation.run()
    assert read_entries(log_folder(tmp_path)) == entries


@pytest.mark.parametrize("after", ["mask", "attest"])
def test_a_site_that_is_gone_for_good_leaves_a_log_that_ends_with_the_run(tmp_path, keys, after):
    class Gone:
        def __init__(self, agent):
            self.agent, self.is_gone = agent, False

        def handle(self, name, body):
            self.is_gone = self.is_gone or name == after
            if self.is_gone:
                raise TransportError("no connection")
            return self.agent.handle(name, body)

    plan = make_plan(keys, rounds=1)
    wrap = lambda site, agent: Gone(agent) if site == "site-b" else agent  # noqa: E731
    for _ in "once", "resumed":
        with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
            federation.run()
        entries = read_entries(log_folder(tmp_path))
        assert entries[-1].kind == "run-finished"
        done = opened(tmp_path, plan, SITES - 1)
        assert done.checkpoint.head == MerkleTree(e.leaf_hash() for e in entries).head()
        assert set(done.cosigned) == set(keys.sites) - {"site-b"}


def test_who_dropped_out_and_why_is_in_the_log(tmp_path, keys):
    class Silent:
        def __init__(self, agent):
            self.agent = agent

        def handle(self, name, body):
            if name == "mask":
                raise TransportError("connection\nrefused")
            return self.agent.handle(name, body)

    plan = make_plan(keys, rounds=1)
    wrap = lambda site, agent: Silent(agent) if site == "site-b" else agent  # noqa: E731
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
    entries = read_entries(log_folder(tmp_path))
    (refusal,) = (e for e in entries if isinstance(e, RefusalEntry))
    assert (refusal.site, refusal.exchange) == ("site-b", "mask")
    assert refusal.reason == "TransportError: connection refused"
    (survivors,) = (e for e in entries if isinstance(e, SurvivorsEntry))
    assert survivors.sites == ("site-a", "site-c", "site-d")
    assert set(opened(tmp_path, plan).cosigned) == set(keys.sites), "one that dropped out is a witness all the same"


def request(federation: Federation, entries, signer=None, cut: int = 0) -> bytes:
    """The coordinator's request over any entries, properly signed."""
    plan = federation.plan
    tree = MerkleTree(e.leaf_hash() for e in entries)
    head = Checkpoint(log_of(plan, RUN).origin, tree.head())
    note = sign_checkpoint(head, signer or federation.keys.coordinator)
    leaves = tuple(e.leaf_data() for e in entries)[: len(entries) - cut]
    context = witness_context(plan.digest(), RUN, core_roster(plan).digest())
    body = WitnessRequest(note, leaves).encode()
    return seal("witness-request", COORDINATOR, context, body, federation.keys.coordinator.sign)


@pytest.fixture
def finished(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        federation.run()
        yield federation, read_entries(log_folder(tmp_path))


def more(entries):
    return [*entries, RefusalEntry(site="site-a", exchange="mask", reason="late")]


def test_a_site_cosigns_what_goes_on_from_what_it_saw(finished):
    federation, entries = finished
    first = federation.agents["site-a"].handle("witness", request(federation, more(entries)))
    assert first == federation.agents["site-a"].handle("witness", request(federation, more(entries)))


def test_a_second_history_is_not_cosigned(finished):
    federation, entries = finished
    other = [*entries[:-1], entries[-1].model_copy(update={"rounds": 9})]
    for forked in (other, more(other)):
        with pytest.raises(VerificationError, match=r"fork check [24]"):
            federation.agents["site-a"].handle("witness", request(federation, forked))
    with pytest.raises(VerificationError, match="witness check 2"):
        federation.agents["site-a"].handle("witness", request(federation, entries[:-1]))


@pytest.mark.parametrize("kind", [AggregateEntry, SurvivorsEntry])
def test_a_log_that_contradicts_a_sites_own_record_is_not_cosigned(tmp_path, keys, kind):
    """From the first checkpoint on: there is no earlier one to compare with."""
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        federation.run()
        for store in federation.stores.values():
            store._db.execute("DELETE FROM witnessed")
        entries = read_entries(log_folder(tmp_path))
        place = next(i for i, e in enumerate(entries) if isinstance(e, kind))
        lie = (
            {"adapter_after_sha256": "0" * 64} if kind is AggregateEntry else {"sites": ("site-a", "site-b", "site-c")}
        )
        edited = [*entries[:place], entries[place].model_copy(update=lie), *entries[place + 1 :]]
        without = [e for e in entries if not isinstance(e, kind)]
        for log in (edited, without):
            with pytest.raises(PeerViolationError, match=r"the log has (another adapter|other survivors)"):
                federation.agents["site-a"].handle("witness", request(federation, log))
        federation.agents["site-a"].handle("witness", request(federation, entries))


def test_leaves_of_another_tree_and_a_note_by_a_stranger_are_refused(finished):
    federation, entries = finished
    agent = federation.agents["site-a"]
    with pytest.raises(FedsecError):
        agent.handle("witness", request(federation, more(entries), cut=1))
    with pytest.raises(VerificationError, match="checkpoint check 2"):
        agent.handle("witness", request(federation, more(entries), signer=federation.keys.sites["site-b"]))


def test_a_checkpoint_over_other_entries_than_those_shown_is_not_cosigned(finished):
    """From the first checkpoint on: the site is shown the true entries, and asked to sign for others."""
    federation, entries = finished
    for store in federation.stores.values():
        store._db.execute("DELETE FROM witnessed")
    plan, forged = federation.plan, [*entries[:-1], entries[-1].model_copy(update={"rounds": 9})]
    head = Checkpoint(log_of(plan, RUN).origin, MerkleTree(e.leaf_hash() for e in forged).head())
    note = sign_checkpoint(head, federation.keys.coordinator)
    body = WitnessRequest(note, tuple(e.leaf_data() for e in entries)).encode()
    context = witness_context(plan.digest(), RUN, core_roster(plan).digest())
    packet = seal("witness-request", COORDINATOR, context, body, federation.keys.coordinator.sign)
    with pytest.raises(PeerViolationError, match="the checkpoint is not over the"):
        federation.agents["site-a"].handle("witness", packet)


def test_a_ledger_that_was_rolled_back_is_found_by_its_own_site(finished):
    """The log holds heads of every site's ledger: record and ledger of one site set back together differ from it."""
    federation, entries = finished
    head = LedgerHeadEntry(site="site-a", head_sha256="1" * 64)
    with pytest.raises(VerificationError, match="a head of this site's privacy ledger that the ledger does not know"):
        federation.agents["site-a"].handle("witness", request(federation, [*entries, head]))
    federation.agents["site-b"].handle("witness", request(federation, [*entries, head]))


def test_leaves_that_are_no_entries_are_refused(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        federation.run()

        class Odd:
            def leaf_data(self):
                return b"no entry"

            def leaf_hash(self):
                from fedsec_secure.record.merkle import leaf_hash

                return leaf_hash(self.leaf_data())

        entries = read_entries(log_folder(tmp_path))
        with pytest.raises(CodecError, match="not a log entry"):
            federation.agents["site-a"].handle("witness", request(federation, [*entries, Odd()]))


def test_a_run_whose_log_the_sites_do_not_cosign_stops(tmp_path, keys, monkeypatch):
    """The coordinator shows each site a log of its own."""
    honest = RunLog.leaves
    monkeypatch.setattr(RunLog, "leaves", lambda self: honest(self)[:-1])
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        with pytest.raises(AbortError, match="the set of cosignatures of the log has 0 sites"):
            federation.run()
        assert [e["round"] for e in federation.events if e["event"] == "round"] == [0]


def test_an_edited_log_is_found_when_the_run_is_resumed(tmp_path, keys, monkeypatch):
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        monkeypatch.setattr(runner_module.Runner, "close", lambda self, *_: None)
        federation.run()
        monkeypatch.undo()
    path = log_folder(tmp_path) / ENTRIES
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: -3 - SITES]))
    resume_fails(tmp_path, keys, "has no sum of round 1")
    path.write_bytes(b"".join(lines) + lines[0])
    resume_fails(tmp_path, keys, "is another one than this run makes")
    path.write_bytes(b"".join(lines) + lines[0][:30])  # a torn line is no entry
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        federation.run()
    assert len(read_entries(log_folder(tmp_path))) == len(lines) + SITES + 2


def resume_fails(tmp_path, keys, why: str) -> None:
    federation = Federation(tmp_path, keys, make_plan(keys))
    with federation, pytest.raises(VerificationError, match=why):
        federation.run()


def test_a_line_that_is_no_entry_is_named(tmp_path):
    (tmp_path / ENTRIES).write_bytes(b"{}\n")
    with pytest.raises(CodecError, match="line 1: not a log entry"):
        read_entries(tmp_path)


def test_a_reason_becomes_one_line_that_can_be_seen():
    assert printable("a\nb\u202ec") == "a b c"
    assert printable("\n") == "no reason given"
    assert len(printable("x" * 900)) == 500
