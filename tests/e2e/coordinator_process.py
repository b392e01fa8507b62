"""A coordinator in a process of its own, whose sites are in the one that started it: real bytes over two pipes.

Run as ``python -m tests.e2e.coordinator_process FOLDER`` it drives the run of ``plan.json`` there, with no other key
than ``coordinator.key``. Requests go out on standard output and replies come in on standard input, each as a line of
JSON with lengths, and then its bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.journal import Journal
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.runner import Runner
from fedsec.engines.embedded import EmbeddedTransport
from fedsec.plan.document import canonical
from fedsec.plan.model import Plan
from fedsec.wire import core_roster, log_of
from fedsec_secure.errors import AbortError, FedsecError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from tests.e2e.federation import ArithmeticWork

_ROOT = Path(__file__).resolve().parents[2]


def send(sink: IO[bytes], body: bytes = b"", **said: object) -> None:
    sink.write(json.dumps(said | {"length": len(body)}).encode() + b"\n" + body)
    sink.flush()


def receive(source: IO[bytes]) -> tuple[dict, bytes]:
    said = json.loads(source.readline())
    return said, source.read(said["length"])


@dataclass(frozen=True)
class FarSite:
    """A site at the other end of the pipes."""

    name: str
    source: IO[bytes]
    sink: IO[bytes]
    folder: Path

    def handle(self, name: str, body: bytes) -> bytes | Path:
        send(self.sink, body, site=self.name, exchange=name)
        said, reply = receive(self.source)
        if "refused" in said:
            raise AbortError(said["refused"])
        if not said["upload"]:
            return reply
        path = self.folder / f"{self.name}.incoming"
        path.write_bytes(reply)
        return path


def main() -> None:
    folder, sink = Path(sys.argv[1]), os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    plan, run = Plan.model_validate_json((folder / "plan.json").read_bytes()), sys.argv[2]
    key, journal = SigningKey.load(folder / "coordinator.key"), Journal(folder)
    journal.bind(plan.digest(), run, core_roster(plan).digest())
    sites = {SiteId(n): FarSite(n, sys.stdin.buffer, sink, folder) for n in plan.roster.sites}
    log, events = RunLog(folder / "log", log_of(plan, run), key), []
    driver = Driver(plan, run, key.sign, events.append, log.record)
    runner = Runner(driver, journal, EmbeddedTransport(sites), events.append, log)
    # What a run begins with is the plan's: any site's work says the same.
    adapter = runner.rounds(ArithmeticWork("coordinator", plan).initial_adapter())
    attested = runner.attest(adapter)
    runner.close(adapter, attested)
    send(sink, done=adapter.digest().hex())
    receive(sys.stdin.buffer)  # everything is still referred to while the other end looks
    journal.close()


class FarCoordinator:
    """The sites' end: starts the process, and gives what it asks."""

    def __init__(self, folder: Path, plan: Plan, key: SigningKey, run: str) -> None:
        folder.mkdir()
        key.save(folder / "coordinator.key")
        (folder / "plan.json").write_bytes(canonical(plan))
        command = [sys.executable, "-m", "tests.e2e.coordinator_process", str(folder), run]
        self.folder, self.result = folder, ""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def requests(self) -> Iterator[tuple[str, str, bytes]]:
        """(site, exchange, body). While the caller has one, the coordinator waits."""
        while True:
            said, body = receive(self._process.stdout)
            if "done" in said:
                self.result = said["done"]
                return
            yield said["site"], said["exchange"], body

    def answer(self, handle, name: str, body: bytes) -> None:
        """With what a site's ``handle`` returns or raises."""
        try:
            reply = handle(name, body)
        except FedsecError as e:
            send(self._process.stdin, refused=str(e))
        else:
            upload = isinstance(reply, Path)
            send(self._process.stdin, reply.read_bytes() if upload else reply, upload=upload)

    def close(self) -> None:
        """Let it end, or end it."""
        if self.result:
            send(self._process.stdin)
        else:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._process.wait()


if __name__ == "__main__":
    main()
