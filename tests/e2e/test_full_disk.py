"""A disk that is full at any write: a site refuses that exchange, says so, and is back once there is room; a run whose
coordinator has no room stops, and goes on to the same bits. No mask covers two plaintexts.
"""

from __future__ import annotations

import pytest

from fedsec.storage import is_storage
from fedsec_secure.errors import AbortError
from tests.e2e.federation import Federation, Keys, Steady, make_plan
from tests.e2e.full_disk import Disks, files_on, on_disks
from tests.e2e.sent import NeverTheSame, Sent
from tests.marks import sampled

SITES = 4  # threshold and floor 3: one may be lost
FULL = "site-b"
MODES = {"mask": {}, "none": {"mode": "none", "rule": "size"}, "fedsa": {"strategy": "fedsa"}}


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


class FullOnce:
    """A site whose disk has room again after the exchange in which it was full."""

    def __init__(self, agent, disks: Disks) -> None:
        self.agent, self.disks = agent, disks

    def handle(self, name: str, body: bytes):
        try:
            return self.agent.handle(name, body)
        finally:
            if self.disks.full:
                self.disks.room()


def run(folder, keys, plan, disks, monkeypatch, sent, work=NeverTheSame) -> Federation:
    def wrap(site, agent):
        return sent.watch(site, FullOnce(agent, disks) if site == FULL else agent)

    with Federation(folder, keys, plan, work=work, wrap=wrap) as federation:
        on_disks(federation, disks)
        with files_on(disks, monkeypatch):
            federation.adapter = federation.run()
    return federation


def writes(folder, keys, plan, monkeypatch, who: str) -> list[str]:
    disks = Disks(folder)
    run(folder, keys, plan, disks, monkeypatch, Sent())
    return disks.labels[who]


def site_is_full(folder, keys, plan, monkeypatch, number: int, label: str) -> None:
    disks, sent = Disks(folder, FULL, number), Sent()
    federation = run(folder, keys, plan, disks, monkeypatch, sent)
    lost = [(e["exchange"], e["sites"][FULL]) for e in federation.events if e["event"] == "lost"]
    where = f"full at write {number}, {label}"
    assert disks.labels[FULL][number] == label, where
    if lost[1:] and lost[1][0] == "witness" and "no run of this plan" in lost[1][1]:
        lost.pop()  # the run is not on its record yet, in a round in which it did nothing
    assert len(lost) <= 1, where
    if lost:
        assert lost[0][1].startswith("StorageError: "), where
        assert "No space left on device" in lost[0][1] or "disk is full" in lost[0][1], where
        assert str(folder) not in lost[0][1], where
    else:
        assert "sql" in label or "entries" in label or "log" in label, where  # a line in its own log, and no more
    assert sent.wrong() == [], where
    rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
    assert [FULL in names for names in rounds].count(False) <= 1, where
    assert len(rounds) == plan.rounds, where
    answered = {name for site, name in sent.names if site == FULL}
    assert "attest" in answered or (lost and lost[0][0] == "attest"), where
    with Federation(folder, keys, plan) as again:
        left = [p.name for p in again.stores[FULL].folder.iterdir() if p.suffix in (".part", ".tmp")]
    assert left == [], where


@pytest.mark.parametrize("mode", sampled(MODES, "mask", "fedsa"))
def test_a_site_whose_disk_is_full_at_sampled_writes(tmp_path, keys, monkeypatch, mode):
    plan = make_plan(keys, rounds=2, **MODES[mode])
    labels = writes(tmp_path / "calm", keys, plan, monkeypatch, FULL)
    for number in range(3 + list(MODES).index(mode), len(labels), 61):
        site_is_full(tmp_path / str(number), keys, plan, monkeypatch, number, labels[number])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_site_whose_disk_is_full_at_every_write(tmp_path, keys, monkeypatch, mode):
    plan = make_plan(keys, rounds=2, **MODES[mode])
    labels = writes(tmp_path / "calm", keys, plan, monkeypatch, FULL)
    for number, label in enumerate(labels):
        site_is_full(tmp_path / str(number), keys, plan, monkeypatch, number, label)


def coordinator_is_full(folder, keys, plan, monkeypatch, number: int, expected: bytes) -> None:
    disks, sent = Disks(folder, "coordinator", number), Sent()
    with pytest.raises(Exception) as stopped:
        run(folder, keys, plan, disks, monkeypatch, sent, work=Steady)
    where = f"full at write {number}, {disks.labels['coordinator'][number]}"
    assert is_storage(stopped.value), where
    resumed = run(folder, keys, plan, Disks(folder), monkeypatch, sent, work=Steady)
    assert resumed.adapter.digest() == expected, where
    assert sent.wrong() == [], where


def calm(tmp_path, keys, plan, monkeypatch) -> tuple[bytes, int]:
    disks = Disks(tmp_path / "calm")
    federation = run(tmp_path / "calm", keys, plan, disks, monkeypatch, Sent(), work=Steady)
    return federation.adapter.digest(), len(disks.labels["coordinator"])


@pytest.mark.parametrize("mode", sampled(("mask", "none"), "mask"))
def test_a_coordinator_whose_disk_is_full_at_sampled_writes(tmp_path, keys, monkeypatch, mode):
    plan = make_plan(keys, rounds=2, **MODES[mode])
    expected, count = calm(tmp_path, keys, plan, monkeypatch)
    for number in range(1, count, 47):
        coordinator_is_full(tmp_path / str(number), keys, plan, monkeypatch, number, expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mask", "none"])
def test_a_coordinator_whose_disk_is_full_at_every_write(tmp_path, keys, monkeypatch, mode):
    plan = make_plan(keys, rounds=2, **MODES[mode])
    expected, count = calm(tmp_path, keys, plan, monkeypatch)
    for number in range(count):
        coordinator_is_full(tmp_path / str(number), keys, plan, monkeypatch, number, expected)


def test_a_disk_that_stays_full_costs_its_site_the_run_and_the_others_nothing(tmp_path, keys, monkeypatch):
    plan, disks, sent = make_plan(keys, rounds=2), Disks(tmp_path, FULL, 40), Sent()
    with Federation(tmp_path, keys, plan, work=NeverTheSame, wrap=sent.watch) as federation:
        on_disks(federation, disks)
        with files_on(disks, monkeypatch):
            federation.run()
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
    assert disks.full
    assert [FULL in names for names in rounds] == [False, False]
    assert sent.wrong() == []
    with Federation(tmp_path, keys, plan) as again:
        assert again.agents[FULL].log.entries, "with room its log goes on"


def test_a_commit_that_finds_no_room_leaves_no_transaction_for_others_to_be_part_of(tmp_path, keys, monkeypatch):
    """Open, it would have made every later answer leave without being on record."""
    plan = make_plan(keys, rounds=2)
    labels = writes(tmp_path / "calm", keys, plan, monkeypatch, FULL)
    number = labels.index("sql COMMIT", labels.index("rename to .upload"))
    disks, sent = Disks(tmp_path / "run", FULL, number), Sent()
    federation = run(tmp_path / "run", keys, plan, disks, monkeypatch, sent)
    assert sent.wrong() == []
    with Federation(tmp_path / "run", keys, plan) as again:
        rows = again.stores[FULL]._db.execute("SELECT round, stage FROM stages ORDER BY rowid").fetchall()
    answered = [name for site, name in sent.names if site == FULL and name in ("train", "share", "mask", "verdict")]
    assert len(answered) >= 4
    assert [stage for _, stage in rows if stage in ("train", "share", "mask", "verdict")] == answered
    assert [FULL in e["survivors"] for e in federation.events if e["event"] == "round"].count(True) == 1


def test_too_many_full_disks_end_the_run_with_the_reason_and_it_goes_on_with_room(tmp_path, keys):
    """Files on a disk that is not there to write on at all: the real refusal of the operating system's."""
    plan = make_plan(keys, rounds=1)

    class NoRoom(Steady):
        def train(self, *given):
            with open("/dev/full", "wb") as out:  # noqa: PTH123 - a device that is always full
                out.write(b"checkpoint")

    def work(name, plan):
        return (NoRoom if name in ("site-a", FULL) else Steady)(name, plan)

    with Federation(tmp_path, keys, plan, work=work) as federation:
        with pytest.raises(AbortError, match="U1 has 2 sites, 3 are needed"):
            federation.run()
        said = {why for e in federation.events if e["event"] == "lost" for why in e["sites"].values()}
    assert said == {
        "StorageError: this site's disk: expected to write, found that it cannot (No space left on device). "
        "Nothing was answered; with room there, it answers again"
    }
    with Federation(tmp_path, keys, plan, work=Steady) as federation:
        federation.run()
        aborted = [e["attempt"] for e in federation.events if e["event"] == "attempt-aborted"]
        (survivors,) = (e["survivors"] for e in federation.events if e["event"] == "round")
    assert aborted == [0, 1, 2], "what the journal knows is not tried again, and the next attempt is made"
    assert survivors == list(keys.sites)
