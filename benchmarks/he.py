"""Encrypted aggregation at the size of a real adapter: bytes, CPU seconds and memory at a site and at the coordinator.

``python -m benchmarks.he --params 1e6,42e6 --sites 10 --json``, beside NVFlare's encryption where the environment
variable FEDSEC_HE_PEER names a Python that has it (`make bench` makes one). An update is random lanes, two of 23 bits a
word: what is measured starts and ends at integers, without fixed point and masks (`benchmarks.masking` has those).
CPU seconds of a site are those of its process and all its workers, pipes and writing to disk among them. Every upload
is real, and the decrypted sum is compared with the plain one. Memory is resident memory at its largest, libraries
included. Of several runs the one that took least counts, ours and NVFlare's: what other work on the machine adds is no
property of the code.

NVFlare is measured at 1M parameters at most, where all uploads of a round fit in memory; all seconds are for a million.
A larger update is tried as one vector, and what came of it is a row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.rows import Row, numbers, print_rows

UPLOAD_GOAL, MEMORY_GOAL = 4.2, 1000
"""Bytes a parameter; MB."""
RATIOS = {"up": 13.0, "encrypt": 6.0, "coordinator": 40.0}
"""Goals: how many times less than NVFlare."""
JUDGED_FROM = 1_000_000
"""Smaller updates are not judged: a ciphertext has 8192 parameters, filled or not."""
_PEER = Path(__file__).parent / "peers" / "nvflare_he.py"
_PEER_PARAMS = 1_000_000
Measured = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One size."""

    params: int
    sites: int
    repeat: int

    def row(self, name: str, value: float, unit: str, goal: str | None = None, met: bool | None = None) -> Row:
        judged = self.params >= JUDGED_FROM
        title = f"{self.params:.3g} parameters, {self.sites} sites: {name}"
        return Row(title, value, unit, goal if judged else None, met if judged else None)

    def per_million(self, measured: Measured) -> float:
        return measured["cpu"] * 1e6 / self.params

    def measure(self, task: str, folder: str, repeat: int) -> Measured:
        command = [sys.executable, "-m", "benchmarks.tasks.he", task, str(self.params), str(self.sites), folder]
        return min((answer(command) for _ in range(repeat)), key=lambda run: run["cpu"])


def answer(command: Sequence[str]) -> Measured:
    """What the command prints as JSON; the end of what it said instead, if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: Measured = json.loads(done.stdout)
    return found


def own_rows(case: Case, own: Measured, memory: Measured, wall: Measured) -> Iterator[Row]:
    yield case.row("upload", own["up"], "bytes a parameter", f"<= {UPLOAD_GOAL}", own["up"] <= UPLOAD_GOAL)
    yield case.row("download", own["down"], "bytes a parameter")
    yield case.row("site: encrypt", own["encrypt"], "CPU s a million")
    yield case.row("coordinator: sum, each site", own["coordinator"], "CPU s a million")
    yield case.row("site: decrypt", own["decrypt"], "CPU s a million")
    for name, seconds in wall.items():
        yield case.row(f"{name}, whole update", seconds, "s")
    for name, size in memory.items():
        goal = (f"< {MEMORY_GOAL}", size < MEMORY_GOAL) if name.startswith("site") else (None, None)
        yield case.row(f"{name}, memory", size, "MB", *goal)
    yield case.row("the decrypted sum is the plain one", own["exact"], "1: yes", "= 1", own["exact"] == 1)


def measured_here(case: Case) -> tuple[Measured, list[Row]]:
    """The figures that a peer has too; and all rows of ours."""
    with tempfile.TemporaryDirectory() as folder:
        site = case.measure("encrypt", folder, 1)  # all sites in one process, the least of them counts
        coordinator, receiver = (case.measure(task, folder, case.repeat) for task in ("sum", "decrypt"))
    own = {
        "up": site["bytes"],
        "down": coordinator["bytes"],
        "encrypt": case.per_million(site),
        "coordinator": case.per_million(coordinator),
        "decrypt": case.per_million(receiver),
        "exact": receiver["exact"],
    }
    parts = {"site: encrypt, with workers": site, "coordinator": coordinator, "site: decrypt, with workers": receiver}
    memory = {name: part["memory"] / 1e6 for name, part in parts.items()}
    return own, list(own_rows(case, own, memory, {name: part["wall"] for name, part in parts.items()}))


@cache
def nvflare(python: str, params: int, sites: int, repeat: int) -> Measured:
    """Of one round; seconds are for a million. The least of each figure."""
    runs = [answer([python, str(_PEER), "round", str(params), str(sites)]) for _ in range(repeat)]
    least = {name: min(run[name] for run in runs) for name in runs[0]}
    return {k: v * (1e6 / params if k in {"encrypt", "coordinator", "decrypt"} else 1) for k, v in least.items()}


def peer_rows(case: Case, python: str, own: Measured) -> Iterator[Row]:
    peer = nvflare(python, min(case.params, _PEER_PARAMS), case.sites, case.repeat)
    yield case.row("NVFlare: largest error of the mean", peer["error"], "of updates with deviation 0.01")
    units = {"up": "bytes a parameter", "down": "bytes a parameter"}
    for name in ("up", "down", "encrypt", "coordinator", "decrypt"):
        yield case.row(f"NVFlare: {name}", peer[name], units.get(name, "CPU s a million"))
        ratio, goal = peer[name] / own[name], RATIOS.get(name)
        judged = (None, None) if goal is None else (f">= {goal:g}", ratio >= goal)
        yield case.row(f"NVFlare over ours: {name}", ratio, "times", *judged)
    if case.params > _PEER_PARAMS:
        yield one_vector(case, python)


def one_vector(case: Case, python: str) -> Row:
    """Whether NVFlare uploads all parameters as one vector; if not, the last that it said."""
    done = subprocess.run([python, str(_PEER), "upload", str(case.params)], check=False, capture_output=True, text=True)
    name = "NVFlare: the update as one vector, encrypted and serialised"
    if done.returncode == 0:
        return case.row(name, 1, "1: yes")
    said = [line for line in done.stderr.splitlines() if line.strip()]
    protobuf = [line for line in said if "libprotobuf" in line]
    why = (protobuf or said or [f"ended with {done.returncode}"])[-1]
    return case.row(name, 0, f"1: yes. It said: {why.rsplit('] ', 1)[-1]}")


def measure(cases: Sequence[Case], peer: str | None) -> Iterator[Row]:
    """All rows, as they come."""
    for case in cases:
        own, rows = measured_here(case)
        yield from rows
        if peer is not None:
            yield from peer_rows(case, peer, own)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.he", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=numbers, default=[1_000_000, 42_000_000], help="parameters of an update")
    parser.add_argument("--sites", type=numbers, default=[10], help="sites of the round")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each timing; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    cases = [Case(params, sites, given.repeat) for params in given.params for sites in given.sites]
    print_rows(list(measure(cases, os.environ.get("FEDSEC_HE_PEER"))), given.json)


if __name__ == "__main__":
    main()
