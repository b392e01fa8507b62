"""Workers with a key: chunks in order, limits, one word for every failure, and no key in sight."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsec.encryption import workers as module
from fedsec.encryption.messages import FAILED, LENGTH
from fedsec.encryption.worker import limit, serve
from fedsec.encryption.workers import UNOPENED, EncryptionWorkers
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.he.parameters import SEED_BYTES, STANDARD
from fedsec_secure.he.ring import sum_frames
from fedsec_secure.numeric.keystream import CHUNK_WORDS, ArraySource
from fedsec_secure.secrets import SecretBytes

N = STANDARD.degree
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pool():
    with EncryptionWorkers(SecretBytes.random(), 2) as made:
        yield made


def encrypted(pool, words) -> np.ndarray:
    out: list[bytes] = []
    side = pool.encrypting(out.append)
    buffer = np.empty(CHUNK_WORDS, dtype="<u8")
    for start in range(0, len(words), CHUNK_WORDS):
        part = words[start : start + CHUNK_WORDS]
        buffer[: len(part)] = part
        side.write(buffer[: len(part)])  # the same memory every time
    side.finish()
    return np.frombuffer(b"".join(out), dtype="<u8")


def signed(words) -> np.ndarray:
    return ((words << np.uint64(18)).view(np.int64) >> np.int64(18)).view(np.uint64)


@pytest.mark.parametrize("count", [5, 3 * CHUNK_WORDS, 5 * CHUNK_WORDS + 7, 70 * N])
def test_there_and_back(pool, count):
    inputs = [RNG.integers(0, 2**64, count, dtype=np.uint64) for _ in range(3)]
    uploads = [encrypted(pool, one) for one in inputs]
    assert [8 * len(u) for u in uploads] == [STANDARD.upload_bytes(count)] * 3
    total = sum_frames([ArraySource(u) for u in uploads], STANDARD, count)
    assert np.array_equal(pool.decrypt(total, count), signed(inputs[0] + inputs[1] + inputs[2]))
    weighted = sum_frames([ArraySource(u) for u in uploads], STANDARD, count, [2, -1, 5])
    expected = inputs[0] * np.uint64(2) - inputs[1] + inputs[2] * np.uint64(5)
    assert np.array_equal(pool.decrypt(weighted, count, [2, -1, 5]), signed(expected))


def test_progress_is_told_in_words_up_to_the_last():
    told: list[int] = []
    count = 2 * CHUNK_WORDS + 7
    inputs = RNG.integers(0, 2**40, count, dtype=np.uint64)
    with EncryptionWorkers(SecretBytes.random(), 1, told.append) as workers:
        upload = encrypted(workers, inputs)
        assert told == [CHUNK_WORDS, 2 * CHUNK_WORDS, count]
        told.clear()
        workers.decrypt(sum_frames([ArraySource(upload)], STANDARD, count), count)
    assert told == sorted(told)
    assert told[-1] == count


def test_a_watcher_that_fails_is_no_sum_that_does_not_open():
    """A closed terminal raises what a worker that is gone does."""

    def gone(words: int) -> None:
        raise BrokenPipeError(words)

    inputs = RNG.integers(0, 2**40, CHUNK_WORDS, dtype=np.uint64)
    with EncryptionWorkers(SecretBytes.random(), 1, gone) as workers:
        upload = encrypted(workers, inputs)
        found = workers.decrypt(sum_frames([ArraySource(upload)], STANDARD, CHUNK_WORDS), CHUNK_WORDS)
    assert np.array_equal(found, inputs)


def summed(pool):
    return sum_frames([ArraySource(encrypted(pool, np.ones(2 * N, dtype="<u8")))], STANDARD, 2 * N)


@pytest.mark.parametrize("fault", ["weights", "residue", "killed", "words"])
def test_every_failure_looks_the_same_and_ends_the_workers(fault):
    with EncryptionWorkers(SecretBytes.random(), 2) as pool:
        total = summed(pool)
        processes = [w._process for w in pool._workers]
        if fault == "residue":
            total.c0[1, 5] = STANDARD.modulus
        if fault == "killed":
            killed(pool)
        words = 3 * N if fault == "words" else 2 * N
        with pytest.raises(PeerViolationError) as e:
            pool.decrypt(total, words, [1, 1] if fault == "weights" else None)
        assert str(e.value) == UNOPENED
        assert e.value.__cause__ is None
        assert all(p.poll() is not None for p in processes)


def killed(pool):
    pool._workers[0]._process.kill()
    pool._workers[0]._process.wait()


def test_a_worker_that_ends_while_encrypting_is_said():
    chunk = np.zeros(CHUNK_WORDS, dtype="<u8")
    with EncryptionWorkers(SecretBytes.random(), 1) as pool:
        side = pool.encrypting(lambda frames: None)
        side.write(chunk)
        killed(pool)
        with pytest.raises(LocalMisuseError, match="ended before its time"):
            side.finish()
    with EncryptionWorkers(SecretBytes.random(), 1) as pool:
        killed(pool)
        with pytest.raises(LocalMisuseError, match="ended before its time"):
            pool.encrypting(lambda frames: None).write(chunk)


def test_the_key_is_in_no_argument_variable_or_open_file_of_the_site():
    key = SecretBytes.random()
    with EncryptionWorkers(key, 1) as pool:
        encrypted(pool, np.zeros(N, dtype="<u8"))
        process = Path(f"/proc/{pool._workers[0]._process.pid}")
        for name in ("cmdline", "environ"):
            found = (process / name).read_bytes()
            assert key.reveal() not in found
            assert key.reveal().hex().encode() not in found
        limits = (process / "limits").read_text()
        assert [line.split()[-2] for line in limits.splitlines() if line.startswith("Max core")] == ["0"]
        number = process.name
    assert not Path(f"/proc/{number}").exists()


def test_where_the_library_is_missing_workers_do_not_start(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(LocalMisuseError, match="does not run here"):
        EncryptionWorkers(SecretBytes.random(), 1)


def test_workers_end_with_their_site():
    """Their input ends, whatever killed it."""
    code = (
        "import os, signal, time\n"
        "from fedsec.encryption.workers import EncryptionWorkers\n"
        "from fedsec_secure.secrets import SecretBytes\n"
        "pool = EncryptionWorkers(SecretBytes.random(), 1)\n"
        "print(pool._workers[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            break
        subprocess.run(["/bin/sleep", "0.1"], check=True)
    else:
        pytest.fail("the worker goes on without its site")


class TestServe:
    """The worker's own loop, in this process."""

    def answers(self, tmp_path, requests: bytes) -> bytes:
        (tmp_path / "in").write_bytes(bytes(range(32)) + requests)
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
            serve(source, sink)
        return (tmp_path / "out").read_bytes()

    @pytest.mark.parametrize(
        "request_",
        [b"?" + LENGTH.pack(0), b"D" + LENGTH.pack(3) + b"abc", b"E" + LENGTH.pack(3) + b"abc"],
    )
    def test_rubbish_gets_the_one_byte(self, tmp_path, request_):
        ready = b"\0" + LENGTH.pack(0)
        assert self.answers(tmp_path, request_) == ready + FAILED + LENGTH.pack(0)

    def test_a_request_without_bound_ends_it(self, tmp_path):
        assert self.answers(tmp_path, b"E" + LENGTH.pack(1 << 40)) == b"\0" + LENGTH.pack(0)

    def test_a_request_is_answered(self, tmp_path):
        out = self.answers(tmp_path, b"E" + LENGTH.pack(8) + bytes(8))
        assert len(out) == 2 * (1 + LENGTH.size) + SEED_BYTES + 8 * N

    def test_limits(self):
        if (child := os.fork()) == 0:
            limit()
            kept = resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and resource.getrlimit(resource.RLIMIT_AS)[0] > 0
            os._exit(0 if kept else 1)
        assert os.waitpid(child, 0)[1] == 0
