"""What a process that was killed leaves behind: its sockets, its log, its half-made kits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fedsec.engines.nvflare import processes
from fedsec.engines.nvflare.gate import Gate
from fedsec.engines.nvflare.processes import Child
from fedsec.engines.nvflare.provision import COORDINATOR, provision
from fedsec_secure.errors import ConfigError

_OPENS = """
import time
from fedsec.engines.nvflare.gate import Gate
gate = Gate(lambda connection: None)
print(gate.path, flush=True)
time.sleep(60)
"""

_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from fedsec.engines.nvflare import provision
made = provision._made

def killed(*given):
    made(*given)
    os.kill(os.getpid(), signal.SIGKILL)

provision._made = killed
provision.provision(["ash"], "hub.example.org", 8002, Path(sys.argv[1]))
"""


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    folder = Path(tempfile.mkdtemp(prefix="t"))  # a short path, as sockets need
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    for left in sorted(folder.rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    folder.rmdir()


def opened(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, "-c", _OPENS], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip()).parent


def long_ago(folder: Path) -> None:
    os.utime(folder, (time.time() - 3600,) * 2)


def test_a_new_gate_removes_those_of_killed_processes_and_no_others(temporary):
    killed, left = opened(temporary)
    killed.kill()
    killed.communicate()
    lives, kept = opened(temporary)
    young, begun = opened(temporary)
    young.kill()
    young.communicate()
    other = temporary / "fedsec-gate-note"
    other.write_text("a file")
    for folder in (left, kept):
        long_ago(folder)
    try:
        gate = Gate(lambda connection: None)
        assert not left.exists()
        assert kept.is_dir()
        assert lives.poll() is None
        assert begun.is_dir()  # it could be about to listen
        assert other.read_text() == "a file"
        gate.close()
        assert not gate.path.parent.exists()
    finally:
        lives.kill()
        lives.communicate()


def test_what_the_engine_prints_is_bounded_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MOST_LOG", 4096)
    (tmp_path / "engine" / "tmp").mkdir(parents=True)
    log = tmp_path / "nvflare.log"
    child = Child(["http.server", "0", "--bind", "127.0.0.1"], tmp_path / "engine", log, {})
    try:
        log.write_bytes(b"a" * 4096)
        assert child.keep()
        assert not log.with_suffix(".log.1").exists()  # at the bound, not above it
        with log.open("ab") as file:
            file.write(b"b")
        assert not child.keep()
        kept = log.with_suffix(".log.1").read_bytes()
        assert kept.startswith(b"a" * 4096)
        assert b"b" in kept
        until = time.monotonic() + 30
        while b"Serving HTTP" not in log.read_bytes() + log.with_suffix(".log.1").read_bytes():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert log.stat().st_size < 4096
    finally:
        child.close()


def test_a_killed_provisioning_leaves_no_key_elsewhere_and_its_folder_is_refused(tmp_path):
    temporary, out = tmp_path / "tmp", tmp_path / "kits"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", _IS_KILLED, str(out)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(temporary.rglob("*"))
    keys = list(tmp_path.rglob("*.key"))
    assert keys
    assert all(path.is_relative_to(out) for path in keys)
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.iterdir())
    with pytest.raises(ConfigError, match="stopped half-way, remove it: keys"):
        provision(["ash"], "hub.example.org", 8002, out)


def test_kits_are_all_that_provisioning_leaves(tmp_path):
    provision(["ash"], "hub.example.org", 8002, tmp_path / "kits")
    assert sorted(path.name for path in (tmp_path / "kits").iterdir()) == sorted(["ash", COORDINATOR])
