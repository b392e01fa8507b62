"""A clock that is an hour off, or jumps, at a site or the coordinator.

Approvals end by the site's clock, with words that say what time it is there; nothing else depends on one.
"""

from __future__ import annotations

import re
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsec.logfile import read_entries
from fedsec.plan.approval import approve
from fedsec.site import encrypted
from fedsec.study import sites as study_sites
from fedsec_secure.errors import ConfigError
from fedsec_secure.record.entries import AnsweredEntry
from tests.e2e.crash import CrashLab
from tests.e2e.encrypting import InProcess, Stopped
from tests.e2e.federation import Federation, Keys, Steady, loss_of, make_plan
from tests.e2e.test_stopped_site import ASH, Hospital
from tests.marks import sampled

HOUR = 3600
LIBRARY = next(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"), None)
"""Of Debian's package ``faketime``."""


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(6)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(encrypted, "EncryptionWorkers", InProcess)


class Clock:
    """This process's wall clock, as far as fedsec reads it, ``offset`` seconds off."""

    def __init__(self, monkeypatch) -> None:
        self.offset, self.read, right = 0, 0, time.time
        self.jumps = False

        def wrong() -> float:
            self.read += 1
            if self.jumps:
                self.offset = -self.offset
            return right() + self.offset

        class Moment(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromtimestamp(wrong(), tz)

        monkeypatch.setattr(time, "time", wrong)
        monkeypatch.setattr(study_sites, "datetime", SimpleNamespace(datetime=Moment, UTC=UTC))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    "options",
    sampled(
        ({}, {"mode": "none", "rule": "size"}, {"mode": "he-mask"}, {"mode": "he"}, {"rule": "group-influence"}),
        {},
        {"mode": "he"},
    ),
    ids=["mask", "none", "he-mask", "he", "groups"],
)
def test_a_clock_that_jumps_by_two_hours_at_every_reading_changes_no_bit(tmp_path, keys, clock, options):
    plan = make_plan(keys, rounds=2, **options)
    draw: dict[str, bytes] = {}

    def run(folder) -> bytes:
        with Federation(folder, keys, plan, work=Steady, loss=loss_of) as federation:
            adapter = federation.run().digest()
            draw[folder.name] = federation.journal.draw() or b""
        return adapter

    calm = run(tmp_path / "calm")
    clock.offset, clock.jumps, clock.read = HOUR, True, 0
    jumped = run(tmp_path / "jumping")
    assert clock.read > 100, "the clock that was read was this one"
    if options.get("rule") != "group-influence":  # whose groups are drawn anew each time
        assert jumped == calm


@pytest.mark.parametrize(
    ("mode", "offsets"),
    [
        ("mask", (HOUR, -HOUR)),
        ("he", (-HOUR, HOUR)),
        pytest.param("mask", (-HOUR, HOUR), marks=pytest.mark.slow),
        pytest.param("he", (HOUR, -HOUR), marks=pytest.mark.slow),
    ],
)
def test_resumed_on_a_machine_whose_clock_is_two_hours_away(tmp_path, keys, clock, offsets, mode):
    """Ledgers, logs and records that go back in time are opened, and the run ends in the same bits."""
    plan = make_plan(keys, rounds=2, mode=mode)
    with Federation(tmp_path / "calm", keys, plan, work=Steady) as federation:
        expected = federation.run().digest()

    class Stop:
        def __init__(self, transport):
            self.transport, self.verdicts = transport, 0

        def exchange(self, asked, spool):
            outcome = self.transport.exchange(asked, spool)
            self.verdicts += asked.name == "verdict"
            if self.verdicts == 2:
                raise Stopped
            return outcome

    clock.offset = offsets[0]
    with Federation(tmp_path / "run", keys, plan, work=Steady, carry=Stop) as federation, pytest.raises(Stopped):
        federation.run()
    clock.offset = offsets[1]
    with Federation(tmp_path / "run", keys, plan, work=Steady) as federation:
        assert federation.run().digest() == expected


class Short(Hospital):
    """Its approval ends in half an hour."""

    def __init__(self, folder, keys, plan, arrives=None, before="mask"):
        super().__init__(folder, keys, plan, arrives, before)
        self.ends = self.now.replace(microsecond=0) + timedelta(minutes=30)
        self.approval = approve(plan, self.policy, ASH, self.officer, self.ends, self.now)
        self.site.approval_path.write_bytes(self.approval)


def test_a_clock_an_hour_ahead_ends_an_approval_and_says_what_time_it_is(tmp_path, keys, clock):
    """Once it is set right the site is back with the next round, from the same record."""
    plan = make_plan(keys, rounds=2)

    def ahead(hospital):
        clock.offset = HOUR if hospital.answered.count("train") == 1 else 0

    hospital = Short(tmp_path / "ash", keys, plan, ahead)
    with Federation(tmp_path / "run", keys, plan) as federation:
        hospital.move_in(federation)

        class RightAtTrain:
            def __init__(self, transport):
                self.transport = transport

            def exchange(self, asked, spool):
                if asked.name == "train":
                    clock.offset = 0
                return self.transport.exchange(asked, spool)

        federation.carry = RightAtTrain
        federation.run()
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
        reasons = [e["sites"][ASH] for e in federation.events if e["event"] == "lost" and ASH in e["sites"]]
    assert [ASH in names for names in rounds] == [False, True]
    assert reasons
    assert "mask" not in hospital.answered[: hospital.asked.index("mask")]
    for reason in reasons:
        assert f"it ended {hospital.ends:%Y-%m-%dT%H:%M:%SZ}" in reason
        said = re.search(r"this machine's clock says (\S+Z)", reason)[1]
        assert timedelta(minutes=59) < datetime.fromisoformat(said) - hospital.now < timedelta(minutes=70)
        assert "set the clock if it is wrong" in reason


def test_a_clock_an_hour_behind_stops_no_site_and_loses_nothing(tmp_path, keys, clock):
    """An approval has no start that a slow clock would not have reached; one that has ended counts an hour longer."""
    clock.offset = -HOUR
    plan = make_plan(keys, rounds=1)
    hospital = Short(tmp_path / "ash", keys, plan)
    with Federation(tmp_path / "run", keys, plan) as federation:
        hospital.move_in(federation)
        federation.run()
        assert not [e for e in federation.events if e["event"] in ("lost", "refused")]


def test_an_officer_whose_clock_is_ahead_reads_so(tmp_path, keys):
    plan = make_plan(keys, rounds=1)
    hospital = Short(tmp_path / "ash", keys, plan)
    ahead = hospital.now + timedelta(hours=1)
    with pytest.raises(ConfigError, match=rf"this machine's clock says {ahead:%Y-%m-%dT%H:%M:%SZ}"):
        approve(plan, hospital.policy, ASH, hospital.officer, hospital.ends, ahead)


@pytest.mark.skipif(LIBRARY is None, reason="without the library of the package faketime no process has another clock")
def test_processes_with_clocks_two_hours_apart(tmp_path, runs):
    """One is killed with SIGKILL in a round, the other goes on: the same adapter, and logs that go back."""

    def live(offset: str, folder: Path, kill_at: str | None = None) -> dict:
        quiet = {"FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "LD_PRELOAD": str(LIBRARY)}
        lab = CrashLab(tmp_path, 3, **quiet)
        try:
            return lab.run(folder, kill_at)
        finally:
            lab.close()

    calm = live("+0", runs / "calm")
    assert live("+1h", runs / "run", "site-b before confirm #1") == {"signal": signal.SIGKILL}
    resumed = live("-1h", runs / "run")
    assert (resumed["status"], resumed["adapter"]) == (0, calm["adapter"])
    entries = read_entries(runs / "run" / "state" / "site-b" / "log")
    times = [e.at for e in entries if isinstance(e, AnsweredEntry)]
    assert min(times[i] - times[i - 1] for i in range(1, len(times))) < -1.9 * HOUR
