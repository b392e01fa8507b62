"""The SDK's examples run as they stand, in one process and in many, and the README shows lines of theirs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsec.plan.document import load_plan
from fedsec.study.folder import RunFolder
from fedsec.study.verify import verify_run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sdk"
PATIENCE = 240


def test_every_line_of_python_in_the_readme_is_one_of_a_script():
    lines = {line for path in EXAMPLE.glob("*.py") for line in path.read_text(encoding="utf-8").splitlines()}
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines()]
    assert len(shown) == 8
    assert set(shown) <= lines


def test_a_site_and_a_coordinator_in_one_process(tmp_path):
    command = [sys.executable, str(EXAMPLE / "site_and_coordinator.py"), str(tmp_path / "study")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
    rows = verify_run(tmp_path / "study" / "run")
    assert {row.outcome for row in rows} == {"held", "not pinned"}
    assert printed.splitlines() == [f"{row.outcome:<11} {row.check}" for row in rows]


def wait_for(what) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.05)


@pytest.fixture
def example(monkeypatch):
    """The script as a module: the coordinator runs in this process, and every site in one of its own."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module("my_transport")


@pytest.mark.slow
def test_processes_over_a_shared_folder_go_on_after_one_is_killed(example, tmp_path):
    study, drive, run = tmp_path / "study", tmp_path / "study" / "drive", tmp_path / "study" / "run"
    plan = example.make_hospitals(study)
    names = tuple(load_plan(plan).roster.sites)

    def site(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, EXAMPLE / "my_transport.py", "site", plan, study / name / "site.toml", drive]
        return subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)

    processes = {name: site(name) for name in names}
    try:
        with ThreadPoolExecutor(1) as threads:
            file = study / "coordinator" / "coordinator.toml"
            coordinator = threads.submit(example.run_coordinator, plan, file, drive, run)
            wait_for(lambda: coordinator.done() or list((drive / names[0]).glob("*.ask")))
            processes[names[0]].kill()
            assert processes[names[0]].wait(timeout=PATIENCE) == -9
            processes[names[0]] = site(names[0])
            coordinator.result(timeout=PATIENCE)
        codes = {process.wait(timeout=PATIENCE) for process in processes.values()}
    finally:
        for process in processes.values():
            process.kill()
    assert codes == {0}
    assert {row.outcome for row in verify_run(run)} == {"held", "not pinned"}
    rounds = [e for e in RunFolder.open(run).events() if e["event"] == "round"]
    assert [e["survivors"] for e in rounds] == [list(names)] * 2, "the site that was killed is in every sum"
