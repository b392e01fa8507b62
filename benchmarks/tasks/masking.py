"""What one process of the masking benchmark does: ``python -m benchmarks.tasks.masking TASK PARAMS SITES RING …``.

A process a measurement, so that its peak of resident memory is its own. Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.tag import LinearTag
from fedsec_secure.masking.vector import Encoder, decode_sum, sum_words, write_masked
from fedsec_secure.numeric.keystream import CHUNK_WORDS, Keystream, MaskStreams
from fedsec_secure.numeric.lanes import FixedPoint, Lanes
from fedsec_secure.secrets import SecretBytes, derive


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


def measure_client(params: int, sites: int, ring: str, tagged: bool = True, threads: int = 1) -> dict[str, float]:
    """Encode, tag and mask one update; then the same words hashed, as an upload is. The hash is in ``wall`` only."""
    p, update = parameters(params, sites, ring), update_of(0, params)
    plus, minus = masks_of(0, sites)
    tag = LinearTag(TAG_KEY, p.fixed.lanes) if tagged else None
    digest, seconds = hashlib.sha256(), 0.0

    def write(chunk: np.ndarray) -> None:
        nonlocal seconds
        began = time.thread_time()
        digest.update(chunk.data)
        seconds += time.thread_time() - began

    usage = Usage()
    coins = derive(SecretBytes(b"benchmark"), "coins")
    write_masked(p.words, Encoder(p, update, 1, coins, tag), plus, minus, write, threads)
    result = usage.stop()
    return result | {"cpu": result["cpu"] - seconds, "hash": seconds, "bytes": p.masked_bytes / params}


def measure_untagged(params: int, sites: int, ring: str) -> dict[str, float]:
    """The same without the tag: the difference is what the verified sum costs a site before the upload."""
    return measure_client(params, sites, ring, tagged=False)


def measure_both_threads(params: int, sites: int, ring: str) -> dict[str, float]:
    """With two threads: what counts is ``wall``."""
    return measure_client(params, sites, ring, threads=2)


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


def measure_expand(params: int, sites: int, ring: str) -> dict[str, float]:
    """Keystreams added to a chunk, as masking does it, and nothing else."""
    p = parameters(params, sites, ring)
    plus, minus = ([pair_key(side, n) for n in range(5)] for side in (0, 1))
    chunk = np.zeros(CHUNK_WORDS, dtype="<u8")
    chunks = -(-p.words // CHUNK_WORDS)
    usage = Usage()
    with MaskStreams(plus, minus, threads=1) as streams:
        for _ in range(chunks):
            streams.begin(CHUNK_WORDS)
            streams.add_to(chunk)
    return usage.stop() | {"bytes": 8.0 * CHUNK_WORDS * chunks * 10}


class FileSource:
    """A WordSource over a file."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._file = stack.enter_context(path.open("rb"))

    def read_into(self, out: np.ndarray) -> None:
        assert self._file.readinto(out.view(np.uint8).data) == out.nbytes  # type: ignore[attr-defined]


def measure_server(
    params: int, sites: int, ring: str, dropped: int, folder: Path, threads: int, one: bool
) -> dict[str, float]:
    """Sum the spooled uploads, remove the masks, decode. The first ``dropped`` sites uploaded nothing.

    With ``one``, the one upload there is stands for everybody's: the same work, and a sum that decodes to nothing.
    """
    p = parameters(params, sites, ring)
    alive, gone = range(dropped, sites), range(dropped)
    minus = [self_key(site) for site in alive]
    # A survivor adds its pair mask with a site after it and subtracts that with a site before it.
    plus = [pair_key(site, survivor) for site in gone for survivor in alive]
    with ExitStack() as stack:
        sources = [FileSource(folder / str(0 if one else site), stack) for site in alive]
        usage = Usage()
        total = sum_words(p.words, sources, plus, minus, threads)
        if one:
            total[:] = 0  # words that decode, in place of noise that would be refused
        mean = decode_sum(p, total, len(alive), len(alive)).mean
        result = usage.stop()
    if one:
        return result
    expected = sum(update_of(site, 1000).astype(np.float64) for site in alive) / len(alive)
    assert np.abs(mean[:1000] - expected).max() <= p.error_bound(len(alive), len(alive)), "the masks did not cancel"
    return result


def write_uploads(params: int, sites: int, ring: str, folder: Path, one: bool) -> dict[str, float]:
    """Every site's masked words, or only the first one's, into the spool."""
    p = parameters(params, sites, ring)
    for site in range(1 if one else sites):
        coins = derive(SecretBytes(b"benchmark"), "coins", bytes([site]))
        encoder = Encoder(p, update_of(site, params), 1, coins)
        with (folder / str(site)).open("wb") as out:
            write_masked(p.words, encoder, *masks_of(site, sites), lambda chunk, out=out: out.write(chunk.data))
    return {}


def run_task(task: str, params: str, sites: str, ring: str, *more: str) -> dict[str, float]:
    size = (int(params), int(sites), ring)
    if task == "server":
        return measure_server(*size, int(more[0]), Path(more[1]), int(more[2]), "one" in more[3:])
    if task == "upload":
        return write_uploads(*size, Path(more[0]), "one" in more[1:])
    simple: dict[str, Callable[..., dict[str, float]]] = {
        "client": measure_client,
        "untagged": measure_untagged,
        "threads": measure_both_threads,
        "check": measure_check,
        "cipher": measure_cipher,
        "expand": measure_expand,
    }
    return simple[task](*size)


if __name__ == "__main__":
    print(json.dumps(run_task(*sys.argv[1:])))
