"""One masked aggregation at the size of a real adapter: CPU seconds, bytes and memory at a site and at the coordinator.

``python -m benchmarks.masking --params 1e6,42e6 --sites 5,10,100 --dropped 0,2 --json``, beside Flower's SecAgg+ where
the environment variable FEDSEC_PEER names a Python that has it (`make bench` makes one). Every measurement runs in a
process of its own (`benchmarks.tasks.masking`), so that its peak of resident memory is its own. Uploads are made chunk
by chunk into a temporary folder and streamed from there, as the coordinator streams them from its spool. CPU time is
that of one thread; wall time is given for one and for two. With 30 sites and more at over 4 million coordinates, the
coordinator reads one upload again and again, and Flower, which holds whole int64 vectors, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Row, numbers, print_rows
from benchmarks.tasks.masking import parameters

CLIENT_GOAL = 0.35
SITE_RATIO, COORDINATOR_RATIO = 9.0, 8.0
"""Goals at 42M coordinates and ten sites: how many times less CPU than Flower's."""
BYTES_GOAL = 2.7
AES_GOAL = 0.8
MEMORY_TOLERANCE = 0.05
MEMORY_SITES = (3, 10, 30)
REFERENCE = (42_000_000, 10)
_MANY, _LARGE = 30, 4_000_000
_PEER = Path(__file__).parent / "peers" / "flower_secagg.py"
Measured = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One size. ``peer``: a Python with Flower, or None."""

    params: int
    sites: int
    ring: str
    repeat: int
    peer: str | None

    def ours(self, task: str, *more: object, repeat: int | None = None, by: str = "cpu") -> Measured:
        """The run with the least CPU (or wall) time: what other work on the machine adds is no property of the code."""
        command = [sys.executable, "-m", "benchmarks.tasks.masking", task, str(self.params), str(self.sites), self.ring]
        return _best([*command, *map(str, more)], repeat or self.repeat, by)

    def flower(self, task: str, dropped: int = 0) -> Measured | None:
        """The same of Flower's functions; None where there is no peer, or no room for its vectors."""
        if self.peer is None or self.spread:
            return None
        command = [self.peer, str(_PEER), task, str(self.params), str(self.sites), str(dropped)]
        return _best(command, self.repeat)

    @property
    def spread(self) -> bool:
        """Too large to write every site's upload."""
        return self.sites >= _MANY and self.params > _LARGE

    @property
    def title(self) -> str:
        return f"{self.params:.3g} coordinates, {self.sites} sites"

    def row(self, name: str, value: float, unit: str, goal: str | None = None, met: bool | None = None) -> Row:
        return Row(f"{self.title}: {name}", value, unit, goal, met)

    def ratio(self, name: str, peer: Measured | None, own: Measured, goal: float) -> Iterator[Row]:
        if peer is None:
            return
        yield self.row(f"{name}, Flower SecAgg+", peer["cpu"], "CPU s")
        yield self.row(f"{name}, Flower SecAgg+, memory", peer["memory"] / 1e6, "MB")
        ratio, judged = peer["cpu"] / own["cpu"], (self.params, self.sites) == REFERENCE
        text = f">= {goal:g}" if judged else None
        yield self.row(f"{name}, Flower over ours", ratio, "times", text, ratio >= goal if judged else None)


def _best(command: Sequence[str], repeat: int, by: str = "cpu") -> Measured:
    runs: list[Measured] = []
    for _ in range(repeat):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout))
    return min(runs, key=lambda run: run.get(by, 0.0))


def site_rows(case: Case) -> Iterator[Row]:
    client, untagged, check, cipher = (case.ours(t) for t in ("client", "untagged", "check", "cipher"))
    judged = (case.params, case.sites) == REFERENCE
    goal, met = (f"< {CLIENT_GOAL}", client["cpu"] < CLIENT_GOAL) if judged else (None, None)
    yield case.row("site: encode, tag and mask", client["cpu"], "CPU s", goal, met)
    yield case.row("site: the same and SHA-256, one thread", client["wall"], "s")
    yield case.row("site: the same and SHA-256, two threads", case.ours("threads", by="wall")["wall"], "s")
    yield case.row("site: of that, the tag of the verified sum", client["cpu"] - untagged["cpu"], "CPU s")
    yield case.row("site: of that, AES-256-CTR of masks and coins", cipher["cpu"], "CPU s")
    yield case.row("site: check and decode the sum", check["cpu"], "CPU s")
    yield case.row("site: SHA-256 of the upload", client["hash"], "CPU s")
    yield case.row("site: memory beside the update", client["memory"] / 1e6, "MB")
    size = client["bytes"]
    yield case.row("upload", size, "bytes a coordinate", f"<= {BYTES_GOAL}", size <= BYTES_GOAL)
    # Against the untagged run: Flower's has no verified sum.
    yield from case.ratio("site", case.flower("client"), untagged, SITE_RATIO)


def coordinator_rows(case: Case, dropped: Sequence[int], folder: Path) -> Iterator[Row]:
    one = ("one",) if case.spread else ()
    case.ours("upload", folder, *one, repeat=1)
    for gone in dropped:
        server = case.ours("server", gone, folder, 1, *one)
        name = f"coordinator: sum, unmask, decode, {gone} dropped"
        yield case.row(name, server["cpu"], "CPU s")
        yield case.row(f"{name}, memory", server["memory"] / 1e6, "MB")
        yield case.row(f"{name}, one thread", server["wall"], "s")
        side_by_side = case.ours("server", gone, folder, 2, *one, by="wall")
        yield case.row(f"{name}, two threads", side_by_side["wall"], "s")
        yield from case.ratio(name, case.flower("server", gone), server, COORDINATOR_RATIO)
    words = parameters(case.params, case.sites, case.ring).words
    yield case.row("coordinator: of that memory, sum and mean", (8 * words + 4 * case.params) / 1e6, "MB")


def memory_rows(params: int, ring: str, folder: Path) -> Iterator[Row]:
    """The coordinator's memory at several numbers of sites, all uploads on disk."""
    peaks = []
    for sites in MEMORY_SITES:
        case = Case(params, sites, ring, 1, None)
        case.ours("upload", folder)
        peaks.append(case.ours("server", 0, folder, 1)["memory"])
    growth = max(peaks) / max(1.0, min(peaks)) - 1
    goal = f"< {MEMORY_TOLERANCE}"
    name = f"coordinator: growth of memory, {' to '.join(map(str, MEMORY_SITES))} sites"
    yield Row(name, growth, "share", goal, growth < MEMORY_TOLERANCE)


def cipher_rows(params: int, ring: str, repeat: int) -> Iterator[Row]:
    """Expand-and-add against the cipher itself, on one core."""
    own = Case(params, 2, ring, repeat, None).ours("expand")
    rate = own["bytes"] / own["cpu"] / 1e9
    yield Row("keystreams, expanded and added", rate, "GB/s")
    openssl = shutil.which("openssl")
    if openssl is None:
        return
    command = [openssl, "speed", "-mr", "-seconds", "2", "-bytes", "131072", "-evp", "aes-256-ctr"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("+F:"))
    limit = float(line.split(":")[-1]) / 1e9
    yield Row("openssl speed, AES-256-CTR", limit, "GB/s")
    yield Row(
        "expanded and added over openssl speed", rate / limit, "share", f">= {AES_GOAL}", rate / limit >= AES_GOAL
    )


def measure(cases: Sequence[Case], dropped: Sequence[int]) -> Iterator[Row]:
    """All rows, as they come."""
    last = cases[-1]
    yield from cipher_rows(last.params, last.ring, last.repeat)
    for case in cases:
        yield from site_rows(case)
        with tempfile.TemporaryDirectory() as folder:
            yield from coordinator_rows(case, dropped, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from memory_rows(max(last.params // 8, 1000), last.ring, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masking", description=__doc__)
    parser.add_argument("--params", type=numbers, default=[42_000_000], help="coordinates of an update")
    parser.add_argument("--sites", type=numbers, default=[10], help="sites of the round, 3 to 255")
    parser.add_argument("--dropped", type=numbers, default=[0, 2], help="sites that uploaded nothing")
    parser.add_argument("--ring", default="3x21", help="2x32, 3x21 or 4x16")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each timing; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    peer = os.environ.get("FEDSEC_PEER")
    cases = [Case(p, s, given.ring, given.repeat, peer) for p in given.params for s in given.sites]
    print_rows(list(measure(cases, given.dropped)), given.json)


if __name__ == "__main__":
    main()
