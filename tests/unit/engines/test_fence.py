"""The fence around NVFlare's processes, tried from inside: real processes, real files, the kernel's own answers."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsec.engines.nvflare import fence
from fedsec.engines.nvflare.processes import Child
from fedsec_secure.errors import ConfigError

needs_landlock = pytest.mark.skipif(fence.version() == 0, reason="this kernel has no Landlock")

_PROBE = """
import json, os, subprocess, sys
from pathlib import Path
folder, secret, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if sys.argv[4] == "fenced":
    from fedsec.engines.nvflare.fence import fence
    assert fence(folder)
tries = {
    "read the key": lambda: secret.read_bytes(),
    "list its folder": lambda: os.listdir(secret.parent),
    "write beside it": lambda: (secret.parent / "left.txt").write_bytes(b"x"),
    "truncate it": lambda: os.truncate(secret, 0) if sys.argv[4] == "fenced" else None,
    "link to it": lambda: (os.link(secret, folder / "link"), (folder / "link").read_bytes()),
    "read it through a symbolic link": lambda: (os.symlink(secret, folder / "soft"), (folder / "soft").read_bytes()),
    "have a child read it": lambda: subprocess.run(["cat", str(secret)], check=True, capture_output=True),
    "open the parent's memory": lambda: open(f"/proc/{parent}/mem", "rb").close(),
    "signal the parent": lambda: os.kill(parent, 0),
}
found = {}
for what, attempt in tries.items():
    try:
        attempt()
        found[what] = "done"
    except (OSError, subprocess.CalledProcessError) as e:
        found[what] = "refused"
(folder / "mine").write_bytes(b"x")
import nvflare.apis.executor, grpc, ssl
ssl.create_default_context()
print(json.dumps(found))
"""


def probe(tmp_path: Path, how: str) -> dict[str, str]:
    folder, owner = tmp_path / f"engine-{how}", tmp_path / f"site-{how}"
    folder.mkdir()
    owner.mkdir()
    (owner / "site.key").write_bytes(b"secret")
    arguments = [str(folder), str(owner / "site.key"), str(os.getpid()), how]
    done = subprocess.run([sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (owner / "site.key").read_bytes() == b"secret"
    return json.loads(done.stdout)


@needs_landlock
def test_what_is_fenced_reaches_no_file_and_no_process_of_the_site(tmp_path):
    found = probe(tmp_path, "fenced")
    if fence.version() < 6:
        assert found.pop("signal the parent") == "done"  # older kernels cannot stop that
    assert set(found.values()) == {"refused"}, found


def test_without_the_fence_all_of_that_is_done(tmp_path):
    """Otherwise the test above would show nothing."""
    found = probe(tmp_path, "open")
    assert {what for what, came in found.items() if came == "refused"} == set(), found


@needs_landlock
def test_what_the_engine_starts_is_fenced(tmp_path):
    (tmp_path / "tmp").mkdir()
    child = Child(["http.server", "0", "--bind", "127.0.0.1"], tmp_path, tmp_path / "log", {})
    try:
        assert child.keep()
        status = Path(f"/proc/{child.pid}/status")
        until = time.monotonic() + 60
        while "NoNewPrivs:\t1" not in status.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        child.close()


def test_a_machine_without_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fence, "version", lambda: 0)
    assert fence.fence(tmp_path) is False
    (tmp_path / "still").write_bytes(b"x")


@pytest.mark.parametrize(("code", "absent"), [(errno.ENOSYS, True), (errno.EOPNOTSUPP, True), (errno.EPERM, False)])
def test_a_filter_that_forbids_it_is_not_a_machine_without_it(monkeypatch, code, absent):
    def refused(*given):
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(fence, "_libc", SimpleNamespace(syscall=refused))
    if absent:
        assert fence.version() == 0
        return
    with pytest.raises(ConfigError, match="Allow the system calls landlock_create_ruleset"):
        fence.version()
