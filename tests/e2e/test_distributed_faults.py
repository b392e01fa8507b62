"""Each fault alone, in a federation of processes: the run ends as if nothing had happened, and nothing is left behind.

Seconds in a report (`--junitxml`): from the fault, or from the restart after it, to the next exchange that is answered.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsec.study.verify import verify_run
from tests.e2e.distributed import PAUSES, Apart, light_set, running, undisturbed, wait_for
from tests.machines import Machines
from tests.unit.cli.smoke import finished_run

HOLD = {"train": 1.0, "mask": 1.0}
"""So that a fault comes while sites work."""


@dataclass(frozen=True)
class Calm:
    """A working set, and the adapter that its run comes to when nothing disturbs it."""

    working_set: Path
    adapter: bytes


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Calm:
    folder = tmp_path_factory.mktemp("calm")
    made = light_set(folder / "set", 3)
    return Calm(made, undisturbed(Machines(made, folder / "machines"), folder / "run"))


@pytest.fixture
def apart(calm, tmp_path):
    with running(tmp_path, calm.working_set, hold=HOLD) as apart:
        yield apart


@pytest.fixture
def far(calm, tmp_path):
    """The way of site-b can be cut."""
    with running(tmp_path, calm.working_set, hold=HOLD, networks=("site-b",)) as apart:
        yield apart


class Recovery:
    """From the fault to the next answered exchange."""

    def __init__(self, apart: Apart, record) -> None:
        self.apart, self.record, self.began = apart, record, time.monotonic()
        self.seen = len(apart.events())

    def over(self, name: str = "recovery") -> float:
        self.apart.until(event="exchange", after=self.seen, seconds=180)
        seconds = round(time.monotonic() - self.began, 1)
        self.record(name, seconds)
        return seconds


def ends_the_same(apart: Apart, calm: Calm) -> None:
    apart.finished()
    assert apart.survivors() == [apart.sites] * 2
    assert apart.adapter() == calm.adapter


# ---- our own processes


def test_the_coordinator_is_killed(apart, calm, record_property):
    apart.asked("mask", 0)
    apart.kill("coordinator")
    record_property("orphans", round(apart.orphans(), 1))
    recovery = Recovery(apart, record_property)
    apart.start("coordinator")
    assert recovery.over() < 60
    ends_the_same(apart, calm)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("train", 0), ("mask", 0), ("confirm", 1), ("attest", 2)])
def test_a_site_is_killed(apart, calm, moment, record_property):
    apart.asked(*moment)
    apart.kill("site-b")
    record_property("orphans", round(apart.orphans(), 1))
    recovery = Recovery(apart, record_property)
    apart.start("site-b")
    assert recovery.over() < 90
    ends_the_same(apart, calm)


@pytest.mark.slow
def test_serve_and_join_are_stopped_and_started_again(apart, calm, record_property):
    apart.asked("mask", 0)
    for who in ("coordinator", "site-b"):
        apart.kill(who, signal.SIGTERM)
        assert apart.processes[who].returncode == 130
    record_property("orphans", round(apart.orphans(), 1))
    recovery = Recovery(apart, record_property)
    apart.start("site-b")
    apart.start("coordinator")
    assert recovery.over() < 90
    ends_the_same(apart, calm)


@pytest.mark.slow
def test_a_second_join_of_a_site_is_refused(apart, calm):
    apart.asked("train", 0)
    first = apart.processes["site-b"]
    second = apart.start("site-b")
    assert second.wait(60) == 2
    assert "takes part already" in apart.said("site-b")
    apart.processes["site-b"] = first
    ends_the_same(apart, calm)


# ---- NVFlare's processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "site", "moment"),
    [
        ("server", None, ("mask", 0)),
        ("server", None, ("train", 1)),
        ("server job", None, ("mask", 0)),
        ("client", "site-b", ("mask", 0)),
        ("site job", "site-b", ("mask", 0)),
        ("site job", "site-b", ("train", 1)),
    ],
)
def test_a_process_of_the_engine_is_killed(apart, calm, role, site, moment, record_property):
    apart.asked(*moment)
    recovery = Recovery(apart, record_property)
    pid = apart.strike(role, site)
    record_property("orphans", round(apart.orphans(), 1))
    assert recovery.over() < 90
    ends_the_same(apart, calm)
    assert pid not in apart.left()


@pytest.mark.slow
def test_the_console_is_killed(calm, tmp_path, record_property):
    """With a job a round, another one is submitted after it."""
    with running(tmp_path, calm.working_set, hold=HOLD, serve={"segment": 1}) as apart:
        apart.asked("mask", 0)
        apart.strike("clerk")
        recovery = Recovery(apart, record_property)
        apart.until(event="asking", exchange="train", round=1)
        assert recovery.over() < 60
        ends_the_same(apart, calm)


# ---- the network


@pytest.mark.slow
@pytest.mark.parametrize(("how", "seconds"), [("drop", 3), ("drop", 25), ("stall", 5), ("stall", 40)])
def test_a_site_is_cut_off_and_comes_back(far, calm, how, seconds, record_property):
    """For shorter and for longer than the coordinator waits before it looks for a silent site."""
    assert (seconds > PAUSES["silent"]) == (seconds > 20)
    far.asked("mask", 0)
    far.cuts["site-b"].say(how)
    time.sleep(seconds)
    recovery = Recovery(far, record_property)
    far.cuts["site-b"].say("pass")
    assert recovery.over() < 90
    ends_the_same(far, calm)


@pytest.mark.slow
def test_a_site_that_stays_away_stops_a_run_that_needs_it(calm, tmp_path, record_property):
    """Three sites tolerate no loss. The reason says who and why; with the site back the same command ends it."""
    options = {"hold": HOLD, "networks": ("site-b",), "serve": {"away": 10.0}}
    with running(tmp_path, calm.working_set, **options) as apart:
        apart.asked("mask", 0)
        apart.cuts["site-b"].say("stall")
        began = time.monotonic()
        assert apart.status("coordinator", 240) == 3
        record_property("given up", round(time.monotonic() - began, 1))
        assert "3 are needed" in apart.said("coordinator")
        lost = [e for e in apart.folder_events() if e["event"] == "exchange" and "site-b" in e["lost"]]
        assert "nothing was heard of it" in lost[0]["lost"]["site-b"]
        apart.cuts["site-b"].say("pass")
        apart.start("coordinator", serve={"bind": "127.0.0.1", "away": 60.0, "linger": 30.0})
        apart.finished()
        assert set(apart.survivors()) == {apart.sites}


# ---- disks


@pytest.mark.slow
def test_a_site_comes_back_with_an_empty_state_folder(tmp_path):
    made = light_set(tmp_path / "set", 4)
    with running(tmp_path / "apart", made, hold=HOLD) as apart:
        apart.asked("mask", 0)
        apart.kill("site-d")
        shutil.rmtree(apart.home("site-d") / "state")
        apart.start("site-d")
        apart.finished()
        assert apart.survivors()[0] == ("site-a", "site-b", "site-c")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own for the coordinator's run."""
    place = tmp_path / "disk"
    place.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
def test_the_disk_is_full_where_uploads_arrive(small_disk, calm, tmp_path, record_property):
    options = {"hold": HOLD | {"mask": 3.0}, "out": small_disk / "run"}
    with running(tmp_path / "apart", calm.working_set, **options) as apart:
        apart.asked("mask", 0)
        filling = small_disk / "filling"
        with suppress(OSError), filling.open("wb", buffering=0) as out:
            while True:
                out.write(bytes(1 << 12))
        assert apart.status("coordinator") == 3
        assert "expected to write, found that it cannot" in apart.said("coordinator")
        assert "make room" in apart.said("coordinator")
        apart.orphans()
        filling.unlink()
        recovery = Recovery(apart, record_property)
        apart.start("coordinator")
        recovery.over()
        ends_the_same(apart, calm)


# ---- the command line itself


@pytest.mark.slow
def test_the_commands_themselves_survive_kills(tmp_path, record_property):
    """Coordinator, a site and the server, one after the other, with the real model."""
    one = finished_run()
    with running(tmp_path, one.with_name("run-sites"), light=False, run="one") as apart:
        apart.asked("train", 0)
        apart.kill("site-b" if "site-b" in apart.sites else apart.sites[1])
        apart.orphans()
        apart.start(apart.sites[1])
        apart.asked("share", 0)
        apart.kill("coordinator")
        record_property("orphans", round(apart.orphans(), 1))
        recovery = Recovery(apart, record_property)
        apart.start("coordinator")
        recovery.over()
        apart.asked("train", 1)
        apart.strike("server")
        apart.finished(400)
        assert apart.adapter() == (one / "adapter" / "adapter_model.safetensors").read_bytes()
        assert {row.outcome for row in verify_run(apart.out)} <= {"held", "not pinned"}
    wait_for("nothing is left", lambda: not apart.left(), 5)
