"""One masked aggregation at the size of a real adapter: CPU seconds and memory at a site and at the coordinator.

``python -m benchmarks.masking --params 42e6 --sites 10 --json``. Every measurement runs in a process of its own, so
that its peak of resident memory is its own; uploads are made chunk by chunk into a temporary folder and streamed from
there, as the coordinator streams them from its spool. Times are CPU time of the process, all threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.tag import LinearTag
from fedsec_secure.masking.vector import Encoder, decode_sum, sum_words, write_masked
from fedsec_secure.numeric.keystream import Keystream
from fedsec_secure.numeric.lanes import FixedPoint, Lanes
from fedsec_secure.secrets import SecretBytes, derive

CLIENT_GOAL = 0.35
MEMORY_TOLERANCE = 0.05
MEMORY_SITES = (3, 10, 30)


@dataclass(frozen=True)
class Row:
    """One line of the result. ``met`` is None where there is no goal."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    met: bool | None = None


def parameters(params: int, sites: int, ring: str) -> SumParameters:
    return SumParameters(FixedPoint.choose(Lanes.named(ring), sites, 0.5), params, 1, False)


def pair_key(low: int, high: int) -> SecretBytes:
    """The benchmark's stand-in for a key agreement: fixed, so that masks cancel."""
    return derive(SecretBytes(b"benchmark"), "pair", bytes([low, high]))


def self_key(site: int) -> SecretBytes:
    return derive(SecretBytes(b"benchmark"), "self", bytes([site]))


def masks_of(site: int, sites: int) -> tuple[list[SecretBytes], list[SecretBytes]]:
    plus = [self_key(site), *(pair_key(site, peer) for peer in range(site + 1, sites))]
    return plus, [pair_key(peer, site) for peer in range(site)]


def update_of(site: int, params: int) -> np.ndarray:
    rng = np.random.default_rng(site)
    update = np.empty(params, dtype=np.float32)
    for start in range(0, params, 1 << 20):
        part = update[start : start + (1 << 20)]
        rng.standard_normal(out=part, dtype=np.float32)
        part *= np.float32(0.01)
    return update


class Usage:
    """CPU seconds, wall seconds and growth of peak resident memory between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def stop(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "cpu": time.process_time() - self.cpu,
            "wall": time.perf_counter() - self.wall,
            "memory": (peak - self.memory) * 1024,
        }


TAG_KEY = derive(SecretBytes(b"benchmark"), "tag")


def measure_client(params: int, sites: int, ring: str, tagged: bool = True) -> dict[str, float]:
    """Encode, tag and mask one update; then the same words hashed, as an upload is."""
    p, update = parameters(params, sites, ring), update_of(0, params)
    plus, minus = masks_of(0, sites)
    tag = LinearTag(TAG_KEY, p.fixed.lanes) if tagged else None
    digest, seconds = hashlib.sha256(), 0.0

    def write(chunk: np.ndarray) -> None:
        nonlocal seconds
        began = time.process_time()
        digest.update(chunk.data)
        seconds += time.process_time() - began

    usage = Usage()
    coins = derive(SecretBytes(b"benchmark"), "coins")
    write_masked(p.words, Encoder(p, update, 1, coins, tag), plus, minus, write)
    result = usage.stop()
    return result | {"cpu": result["cpu"] - seconds, "hash": seconds, "bytes": p.masked_bytes / params}


def measure_untagged(params: int, sites: int, ring: str) -> dict[str, float]:
    """The same without the tag: the difference is what the verified sum costs a site before the upload."""
    return measure_client(params, sites, ring, tagged=False)


def measure_check(params: int, sites: int, ring: str) -> dict[str, float]:
    """What a site does with the sum: unpack, check the range and the tag, decode."""
    p = parameters(params, sites, ring)
    total = np.zeros(p.words, dtype="<u8")
    usage = Usage()
    decode_sum(p, total, sites, sites, LinearTag(TAG_KEY, p.fixed.lanes))
    return usage.stop()


def measure_cipher(params: int, sites: int, ring: str) -> dict[str, float]:
    """The AES that a site cannot do without: its masks and its rounding coins, and nothing else."""
    p = parameters(params, sites, ring)
    chunk, stream = np.empty(8192, dtype="<u8"), Keystream(SecretBytes(bytes(32)))
    blocks = -(-(sites * p.words + params // 2) // len(chunk))
    usage = Usage()
    for _ in range(blocks):
        stream.read_into(chunk)
    return usage.stop() | {"bytes": 8.0 * blocks * len(chunk)}


class FileSource:
    """A WordSource over a file."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._file = stack.enter_context(path.open("rb"))

    def read_into(self, out: np.ndarray) -> None:
        assert self._file.readinto(out.view(np.uint8).data) == out.nbytes  # type: ignore[attr-defined]


def measure_server(params: int, sites: int, ring: str, dropped: int, folder: Path) -> dict[str, float]:
    """Sum the spooled uploads, remove the masks, decode. The first ``dropped`` sites uploaded nothing."""
    p = parameters(params, sites, ring)
    alive, gone = range(dropped, sites), range(dropped)
    minus = [self_key(site) for site in alive]
    # A survivor adds its pair mask with a site after it and subtracts that with a site before it.
    plus = [pair_key(site, survivor) for site in gone for survivor in alive]
    with ExitStack() as stack:
        sources = [FileSource(folder / str(site), stack) for site in alive]
        usage = Usage()
        total = sum_words(p.words, sources, plus, minus)
        mean = decode_sum(p, total, len(alive), len(alive)).mean
        result = usage.stop()
    expected = sum(update_of(site, 1000).astype(np.float64) for site in alive) / len(alive)
    assert np.abs(mean[:1000] - expected).max() <= p.error_bound(len(alive), len(alive)), "the masks did not cancel"
    return result


def write_uploads(params: int, sites: int, ring: str, folder: Path) -> dict[str, float]:
    """Every site's masked words, into the spool."""
    p = parameters(params, sites, ring)
    for site in range(sites):
        coins = derive(SecretBytes(b"benchmark"), "coins", bytes([site]))
        encoder = Encoder(p, update_of(site, params), 1, coins)
        with (folder / str(site)).open("wb") as out:
            write_masked(p.words, encoder, *masks_of(site, sites), lambda chunk, out=out: out.write(chunk.data))
    return {}


def in_process(task: str, params: int, sites: int, ring: str, *more: object) -> dict[str, float]:
    """Run one task of this module in a fresh interpreter."""
    arguments = [task, str(params), str(sites), ring, *map(str, more)]
    command = [sys.executable, "-m", "benchmarks.masking", "--task", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def run_task(task: str, params: str, sites: str, ring: str, *more: str) -> dict[str, float]:
    size = (int(params), int(sites), ring)
    if task == "server":
        return measure_server(*size, int(more[0]), Path(more[1]))
    if task == "upload":
        return write_uploads(*size, Path(more[0]))
    simple: dict[str, Callable[..., dict[str, float]]] = {
        "client": measure_client,
        "untagged": measure_untagged,
        "check": measure_check,
        "cipher": measure_cipher,
    }
    return simple[task](*size)


def best(results: list[dict[str, float]]) -> dict[str, float]:
    """The run with the least CPU time: what other work on the machine adds is no property of the code."""
    return min(results, key=lambda r: r["cpu"])


def client_rows(params: int, sites: int, ring: str, repeat: int) -> Iterator[Row]:
    client, untagged, check, cipher = (
        best([in_process(task, params, sites, ring) for _ in range(repeat)])
        for task in ("client", "untagged", "check", "cipher")
    )
    met = client["cpu"] < CLIENT_GOAL
    yield Row("site: encode, tag and mask", client["cpu"], "CPU s", f"< {CLIENT_GOAL}", met)
    yield Row("site: of that, the tag of the verified sum", client["cpu"] - untagged["cpu"], "CPU s")
    yield Row("site: check and decode the sum", check["cpu"], "CPU s")
    yield Row("site: of that, AES-256-CTR of masks and coins", cipher["cpu"], "CPU s")
    yield Row("site: AES-256-CTR on this processor", cipher["bytes"] / cipher["cpu"] / 1e9, "GB/s")
    yield Row("site: SHA-256 of the upload", client["hash"], "CPU s")
    yield Row("site: memory beside the update", client["memory"] / 1e6, "MB")
    yield Row("upload", client["bytes"], "bytes a parameter")


def server_rows(params: int, sites: int, ring: str, repeat: int, folder: Path) -> Iterator[Row]:
    in_process("upload", params, sites, ring, folder)
    memory = 0.0
    for dropped in (0, 1, 2):
        server = best([in_process("server", params, sites, ring, dropped, folder) for _ in range(repeat)])
        yield Row(f"coordinator: sum, unmask, decode, {dropped} dropped", server["cpu"], "CPU s")
        memory = max(memory, server["memory"])
    yield Row(f"coordinator: peak memory, {sites} sites", memory / 1e6, "MB")
    yield Row(
        "coordinator: of that, sum and mean", (8 * parameters(params, sites, ring).words + 4 * params) / 1e6, "MB"
    )


def memory_rows(params: int, ring: str, folder: Path) -> Iterator[Row]:
    """The coordinator's memory at several numbers of sites, all uploads on disk."""
    peaks = {}
    for sites in MEMORY_SITES:
        in_process("upload", params, sites, ring, folder)
        peaks[sites] = in_process("server", params, sites, ring, 0, folder)["memory"]
        yield Row(f"coordinator: memory, {params:.3g} parameters, {sites} sites", peaks[sites] / 1e6, "MB")
    growth = max(peaks.values()) / max(1.0, min(peaks.values())) - 1
    goal = f"< {MEMORY_TOLERANCE}"
    yield Row("coordinator: growth of memory with sites", growth, "share", goal, growth < MEMORY_TOLERANCE)


def measure(params: int, sites: int, ring: str, repeat: int) -> list[Row]:
    rows = list(client_rows(params, sites, ring, repeat))
    with tempfile.TemporaryDirectory() as folder:
        rows += server_rows(params, sites, ring, repeat, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows += memory_rows(max(params // 8, 1000), ring, Path(folder))
    return rows


def show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", "unit", "goal", "met")
    for row in rows:
        met = {None: "", True: "yes", False: "[red]no[/red]"}[row.met]
        table.add_row(row.name, f"{row.value:.4g}", row.unit, row.goal or "", met)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masking", description=__doc__)
    parser.add_argument("--params", type=float, default=42e6, help="coordinates of an update")
    parser.add_argument("--sites", type=int, default=10, help="sites of the round, 3 to 255")
    parser.add_argument("--ring", default="3x21", help="2x32, 3x21 or 4x16")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each timing; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(run_task(*options.task)))
        return
    rows = measure(int(options.params), options.sites, options.ring, options.repeat)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
