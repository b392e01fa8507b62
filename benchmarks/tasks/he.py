"""What one process of the encryption benchmark does: ``python -m benchmarks.tasks.he TASK PARAMS SITES FOLDER``.

TASK is ``encrypt``, ``sum`` or ``decrypt``, in this order on one folder: a process for the sites that upload, one for
the coordinator and one for a site that opens the sum, so that each one's memory is its own. A site's CPU time and
memory are those of its process and of all its workers together. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.tasks.masking import FileSource
from fedsec.encryption.workers import EncryptionWorkers
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames, sum_frames
from fedsec_secure.numeric.keystream import CHUNK_WORDS
from fedsec_secure.numeric.lanes import Ints, Lanes, Words, pack_into, unpack
from fedsec_secure.secrets import SecretBytes, derive

Measured = dict[str, float]
LANES = Lanes(2, 23)
"""Of a word below t = 2^46."""
KEY = derive(SecretBytes(b"benchmark"), "encryption")


def lanes_of(site: int, params: int, sites: int) -> Ints:
    """int32[2, words]: a site's random lanes, as large as sums of ``sites`` allow."""
    largest = LANES.largest_sum // sites
    found = np.zeros(2 * LANES.words(params), dtype=np.int32)
    generator = np.random.default_rng(site)
    for start in range(0, params, CHUNK_WORDS):
        part = found[start : min(params, start + CHUNK_WORDS)]
        part[:] = generator.integers(-largest, largest, len(part), dtype=np.int32, endpoint=True)
    return found.reshape(2, -1)


class Usage:
    """CPU and wall seconds since it was made, and the largest resident memory so far: each process's, added up."""

    def __init__(self, workers: list[int]) -> None:
        self._workers = workers
        self._cpu, self._wall = self._seconds(), time.perf_counter()

    def _seconds(self) -> float:
        return sum(time.clock_gettime(cpu_clock(pid)) for pid in self._pids())

    def stop(self) -> Measured:
        wall = time.perf_counter() - self._wall
        return {"cpu": self._seconds() - self._cpu, "wall": wall, "memory": float(sum(map(peak, self._pids())))}

    def _pids(self) -> list[int]:
        return [os.getpid(), *self._workers]


def cpu_clock(pid: int) -> int:
    """Linux' clock of another process's CPU time: clock_getcpuclockid(3), which Python has not."""
    return ~pid << 3 | 2


def peak(pid: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def pids(pool: EncryptionWorkers) -> list[int]:
    return [worker._process.pid for worker in pool._workers]


def chunks(lanes: Ints) -> Iterator[Words]:
    """Packed words, in the same memory every time."""
    buffer: Words = np.empty(CHUNK_WORDS, dtype="<u8")
    for start in range(0, lanes.shape[1], CHUNK_WORDS):
        part = lanes[:, start : start + CHUNK_WORDS]
        pack_into(LANES, list(part), buffer[: part.shape[1]])
        yield buffer[: part.shape[1]]


def upload(pool: EncryptionWorkers, lanes: Ints, path: Path) -> Measured:
    """A site's update, encrypted into a file."""
    with path.open("wb") as out:
        usage = Usage(pids(pool))
        side = pool.encrypting(out.write)
        for chunk in chunks(lanes):
            side.write(chunk)
        side.finish()
        return usage.stop()


def encrypt(params: int, sites: int, folder: Path) -> Measured:
    """Every site's upload into the folder. The times are of the site that took least of each."""
    with EncryptionWorkers(KEY) as pool:
        measured = [upload(pool, lanes_of(site, params, sites), folder / str(site)) for site in range(sites)]
    return {
        "cpu": min(one["cpu"] for one in measured),
        "wall": min(one["wall"] for one in measured),
        "memory": max(one["memory"] for one in measured),
        "bytes": (folder / "0").stat().st_size / params,
    }


def add(params: int, sites: int, folder: Path) -> Measured:
    """The coordinator's sum of all uploads in the folder, streamed as from its spool; CPU seconds a site."""
    with ExitStack() as stack:
        sources = [FileSource(folder / str(site), stack) for site in range(sites)]
        usage = Usage([])
        total = sum_frames(sources, STANDARD, LANES.words(params))
        measured = usage.stop()
    parts = total.parts()
    with (folder / "sum").open("wb") as out:
        out.writelines(parts)
    size = sum(memoryview(part).nbytes for part in parts)
    return {**measured, "cpu": measured["cpu"] / sites, "bytes": size / params}


def decrypt(params: int, sites: int, folder: Path) -> Measured:
    """The sum from the folder, as received: checked, decrypted, unpacked; then compared with the sum of all lanes."""
    data, words = (folder / "sum").read_bytes(), LANES.words(params)
    with EncryptionWorkers(KEY) as pool:
        usage = Usage(pids(pool))
        total = SumFrames.decode(data, STANDARD, words, sites)
        opened = pool.decrypt(total, words)
        found = [unpack(LANES, opened[start : start + CHUNK_WORDS]) for start in range(0, words, CHUNK_WORDS)]
        measured = usage.stop()
    expected = np.zeros((2, words), dtype=np.int32)
    for site in range(sites):
        expected += lanes_of(site, params, sites)
    return {**measured, "exact": float(np.array_equal(np.concatenate(found, axis=1), expected))}


def run_task(task: str, params: str, sites: str, folder: str) -> Measured:
    tasks = {"encrypt": encrypt, "sum": add, "decrypt": decrypt}
    return tasks[task](int(params), int(sites), Path(folder))


if __name__ == "__main__":
    print(json.dumps(run_task(*sys.argv[1:])))
