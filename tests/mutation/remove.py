"""Leave out each numbered check in turn and run the tests: ``python -m tests.mutation.remove [--only N …] [--jobs J]``.

A check without which every test passes is either not needed or not tested: exit code 1. Tests that find no end count as
passed: a slow machine is no test.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.checks import ROOT, Check, find_checks

CORE = (
    "tests/sim/test_each_check.py",
    "tests/sim/test_plain_stage.py",
    "tests/sim/test_weighted_round.py",
    "tests/sim/test_tampering.py",
    "tests/sim/test_verified_sum.py",
    "tests/vectors",
    "tests/sim/test_encrypted_round.py",
    "tests/unit/secure/masking",
    "tests/unit/secure/weighting",
    "tests/unit/secure/numeric",
    "tests/unit/secure/he",
    "tests/unit/encryption",
    "tests/unit/secure/test_codec.py",
    "tests/unit/secure/identity/test_roster.py",
    "tests/unit/secure/identity/test_channel.py",
    "tests/property",
)
SITES = (
    "tests/e2e/test_hostile_requests.py",
    "tests/e2e/test_dropout.py",
    "tests/e2e/test_cohort_change.py",
    "tests/e2e/test_lying_coordinator.py",
    "tests/unit/test_transitions.py",
    "tests/sim/test_attacks.py",
    "tests/e2e/test_run_log.py",
    "tests/e2e/test_charges.py",
    "tests/e2e/test_attest.py",
    "tests/e2e/test_distributed_rounds.py",
    "tests/e2e/test_keys_ahead.py",
    "tests/e2e/test_canaries.py",
    "tests/e2e/test_hostile_groups.py",
    "tests/e2e/test_encrypted_runs.py",
    "tests/e2e/test_shared_key_runs.py",
)
NEAR = {
    "fedsec_secure/he/": ("tests/unit/secure/he", "tests/property/test_he_frames.py"),
    "fedsec_secure/weighting/": ("tests/unit/secure/weighting",),
    "masking/ceremony.py": ("tests/unit/secure/masking/test_ceremony.py",),
    "fedsec/encryption/": ("tests/unit/encryption",),
    "encrypted.py": ("tests/e2e/test_shared_key_runs.py", "tests/e2e/test_encrypted_runs.py"),
    "shared_key.py": ("tests/e2e/test_shared_key_runs.py",),
    "site_plain.py": ("tests/sim/test_plain_stage.py",),
    "site_weighed.py": ("tests/sim/test_plain_stage.py",),
}
"""Part of a file's name -> where its tests are, if in one place: tried first."""
_COPIED = ("secure", "sdk", "tests", "docs", "pyproject.toml")
_SECONDS = 1800
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """``killer`` is the test that failed without the check; empty where none did."""

    check: Check
    killer: str


def copy_tree(folder: Path) -> Path:
    """The sources and tests, without anything that was built."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, folder / name)
    return folder


def first_failure(tree: Path, tests: Sequence[str]) -> str:
    """The first test that fails in ``tree``; empty where all pass, or none does in time."""
    there = [t for t in tests if (tree / t).exists()]
    paths = os.pathsep.join(str(tree / package) for package in ("secure", "sdk"))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *there]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"no end after {_SECONDS} s in {', '.join(there)}", file=sys.stderr, flush=True)
        return ""
    if done.returncode == 0:
        return ""
    found = _FAILED.search(done.stdout)
    if done.returncode != 1 or found is None:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return found[1]


def without(tree: Path, check: Check) -> Verdict:
    """Run the tests of the check's side first, then the others'."""
    path = tree / check.file
    original = path.read_text(encoding="utf-8")
    path.write_text(check.removed(original), encoding="utf-8")
    try:
        near = [tests for part, tests in NEAR.items() if part in check.file]
        stages = (*near, CORE, SITES) if check.file.startswith("secure/") else (*near, SITES, CORE)
        killer = next((found for tests in stages if (found := first_failure(tree, tests))), "")
    finally:
        path.write_text(original, encoding="utf-8")
    return Verdict(check, killer)


def remove_each(checks: Sequence[Check], jobs: int) -> list[Verdict]:
    """A verdict for each, printed as it comes. RuntimeError where a test fails with all checks in place."""
    with tempfile.TemporaryDirectory(prefix="fedsec-mutation-") as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            trees.put(copy_tree(Path(folder) / str(job)))

        def judge(check: Check) -> Verdict:
            tree = trees.get()
            try:
                verdict = without(tree, check)
            finally:
                trees.put(tree)
            said = verdict.killer or "NO TEST FAILS WITHOUT IT"
            print(f"check {check.number:3} ({check.attack}): {said}", flush=True)
            return verdict

        with ThreadPoolExecutor(jobs) as threads:
            return list(threads.map(judge, checks))


def main() -> int:
    """0 where every check is needed by a test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these checks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    checks = [c for c in find_checks() if not options.only or c.number in options.only]
    verdicts = remove_each(checks, options.jobs)
    survivors = [v.check.number for v in verdicts if not v.killer]
    print(
        f"{len(verdicts) - len(survivors)} of {len(verdicts)} are missed by a test; not missed: {survivors or 'none'}"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
