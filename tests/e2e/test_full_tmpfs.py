"""A real file system without room, under everybody at once: the run stops with the reason, and goes on with room."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fedsec.storage import is_storage
from fedsec_secure.errors import AbortError, FedsecError, StorageError
from tests.e2e.federation import Federation, Keys, Steady, make_plan
from tests.e2e.sent import Sent

SIZE = 16 << 20


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(4)


@pytest.fixture
def disk(tmp_path):
    """A file system of 16 MiB. Mounting takes an administrator: without one there is no such disk to fill."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """All of it but ``left`` bytes."""
    about = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as out:
        out.write(bytes(max(0, about.f_bavail * about.f_frsize - left)))
    return ballast


@pytest.mark.parametrize("left", [0, 24 << 10, 100 << 10, 220 << 10])
@pytest.mark.parametrize("mode", ["mask", "none"])
def test_a_full_file_system_under_everybody(disk, tmp_path, keys, left, mode):
    """Sites refuse or the coordinator stops, whoever meets it first; with room the same command goes on."""
    plan = make_plan(keys, rounds=2, mode=mode)
    with Federation(tmp_path / "calm", keys, plan, work=Steady) as federation:
        expected = federation.run().digest()
    sent = Sent()
    with Federation(disk / "run", keys, plan, work=Steady):
        pass  # the folders are there
    ballast = fill(disk, left)
    with (
        pytest.raises(Exception) as stopped,
        Federation(disk / "run", keys, plan, work=Steady, wrap=sent.watch) as federation,
    ):
        federation.run()
    assert is_storage(stopped.value) or isinstance(stopped.value, (StorageError, AbortError)), repr(stopped.value)
    if isinstance(stopped.value, FedsecError):
        assert any(words in str(stopped.value) for words in ("room", "disk", "are needed")), str(stopped.value)
    ballast.unlink()
    with Federation(disk / "run", keys, plan, work=Steady, wrap=sent.watch) as federation:
        adapter = federation.run()
        rounds = [e["survivors"] for e in federation.events if e["event"] == "round"]
    assert sent.wrong() == []
    assert len(rounds) == 2
    if rounds == [list(keys.sites)] * 2:
        assert adapter.digest() == expected
