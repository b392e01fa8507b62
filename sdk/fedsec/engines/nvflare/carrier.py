"""The coordinator's side of NVFlare: its server kept running, and one job a segment of rounds that carries the link."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Final

from fedsec.engines.link.desk import Desk
from fedsec.engines.nvflare.gate import CARRY, CONTROL, END, Gate, receive
from fedsec.engines.nvflare.processes import Child, Clerk
from fedsec.engines.nvflare.provision import ADMIN
from fedsec.engines.nvflare.workspace import BEAT_SECONDS, USER, console_workspace, server_workspace
from fedsec.ops.kit import Kit
from fedsec.spool import private_folder
from fedsec_secure.errors import FedsecError, TransportError
from fedsec_secure.identity.roster import SiteId

SEGMENT: Final = 5
"""Rounds that one job carries: what NVFlare keeps of a job does not grow with the run."""


@dataclass(frozen=True)
class Pauses:
    """Seconds. They only decide how long a fault lasts."""

    patience: float = 10.0
    """A job waits so long for sites that are still on their way to the server."""
    silent: float = 30.0
    """A site that the server knows, and that says nothing for so long, is taken into a new job."""
    start: float = 120.0
    """A job that does not run after so long is given up."""
    most: float = 120.0
    """Between two tries, at most."""


@dataclass
class _Job:
    id: str
    sites: frozenset[str]
    submitted: float
    control: Connection | None = None
    begun: bool = False
    ended: bool = False


class NvflareCarrier:
    """A Carrier. ``folder``: for NVFlare's own files, emptied at every start."""

    def __init__(
        self,
        kit: Kit,
        folder: Path,
        desk: Desk,
        *,
        bind: str | None = None,
        segment: int = SEGMENT,
        pauses: Pauses = Pauses(),
        report: Callable[[dict[str, object]], None] = lambda event: None,
    ) -> None:
        self._desk = desk
        self._report = report
        self._segment = segment
        self._pauses = pauses
        self._lock = Lock()
        self._gate = Gate(self._meet)
        arguments = server_workspace(kit, private_folder(folder) / "server", bind)
        log = folder / "nvflare.log"
        self._server = Child(arguments, folder / "server", log, self._gate.environment())
        self._clerk = Clerk(console_workspace(kit.folder / ADMIN, folder / "console"), USER, log)
        self._job: _Job | None = None
        self._ending: list[tuple[_Job, float]] = []
        self._first_round = 0
        self._asked_since: float | None = None
        self._pause, self._not_before = 2.0, 0.0

    def start(self) -> None:
        """The server, so that sites can connect. Sites ask the desk only once there is a job."""
        self._server.keep()

    @property
    def round(self) -> int:
        """The first round of the job that runs."""
        return self._first_round

    @property
    def server_pid(self) -> int | None:
        """Of NVFlare's server."""
        return self._server.pid

    def close(self) -> None:
        """End the job, the console and the server."""
        self._finish()
        self._clerk.close()
        self._server.close()
        self._gate.close()

    # ---- Carrier

    def keep(self, wanted: frozenset[SiteId], round_index: int) -> None:
        """Server up, and a job that reaches the sites that are wanted and connected."""
        if self._server.keep():
            self._report({"event": "engine", "what": "server started", "starts": self._server.starts})
            self._clerk.close()
            self._job, self._ending = None, []
        self._end_stragglers()
        job = self._job
        if job is not None and self._is_over(job, wanted, round_index):
            self._finish()
        if self._job is None:
            self._submit(wanted, round_index)

    def _is_over(self, job: _Job, wanted: frozenset[SiteId], round_index: int) -> bool:
        now = time.monotonic()
        if job.ended:
            return True
        if not job.begun:
            return now - job.submitted > self._pauses.start
        if round_index >= self._first_round + self._segment:
            return True
        if now - job.submitted < self._pauses.silent or now < self._not_before:
            return False
        heard = self._desk.heard()
        silent = {site for site in wanted if heard.get(site, self._pauses.silent) >= self._pauses.silent}
        if not silent:
            return False
        back = silent & self._connected()
        self._postpone()
        if back:
            self._report({"event": "engine", "what": "job ended", "for": sorted(back)})
        return bool(back)

    def _connected(self) -> frozenset[str]:
        """Sites whose client gave a sign of life lately: the server lists one that is cut off for ten minutes more."""
        try:
            clients = self._clerk.ask("info")["clients"]
            return frozenset(site for site, ago in clients.items() if ago < 3 * BEAT_SECONDS)
        except TransportError as e:
            self._report({"event": "engine", "what": str(e)})
            return frozenset()

    def _submit(self, wanted: frozenset[SiteId], round_index: int) -> None:
        """A job for the sites that are there: for all that are wanted, or after some patience for those that came."""
        now = time.monotonic()
        self._asked_since = self._asked_since or now
        if now < self._not_before:
            return
        connected = self._connected() & self._desk.roster()
        if not wanted & connected or (not wanted <= connected and now - self._asked_since < self._pauses.patience):
            self._not_before = now + 0.5
            return
        self._desk.rest(False)
        try:
            job = self._clerk.ask("submit", sites=sorted(connected))["job"]
        except TransportError as e:
            self._report({"event": "engine", "what": str(e)})
            self._postpone()
            return
        with self._lock:
            self._job = _Job(job, connected, now)
        self._asked_since, self._first_round = None, round_index
        self._report({"event": "engine", "what": "job submitted", "job": job, "sites": sorted(connected)})

    def _postpone(self) -> None:
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, self._pauses.most)

    def _finish(self) -> None:
        """Let the sites go, and end the job."""
        job, self._job = self._job, None
        if job is None:
            return
        self._desk.rest(True)
        self._asked_since = None
        if job.control is not None:
            with suppress(OSError):  # it ended by itself
                job.control.send_bytes(END)  # closing would not be seen there while a thread here still reads
            self._ending.append((job, time.monotonic()))
        elif not job.ended:
            self._try_abort(job)

    def _end_stragglers(self) -> None:
        """Jobs that were told to end, and wait for a site that is cut off: no site asks over them any more."""
        now, rest = time.monotonic(), []
        for job, told in self._ending:
            if job.ended:
                continue
            if now - told > self._pauses.silent:
                self._try_abort(job)
            else:
                rest.append((job, told))
        self._ending = rest

    def _try_abort(self, job: _Job) -> None:
        try:
            self._clerk.ask("abort", job=job.id)
        except TransportError as e:
            self._report({"event": "engine", "what": str(e)})

    # ---- NVFlare's job process

    def _meet(self, connection: Connection) -> None:
        first = receive(connection)
        if first == CARRY:
            while True:
                connection.send_bytes(self._desk.answer(receive(connection)))
        if first.startswith(CONTROL):
            self._watch(first.removeprefix(CONTROL).decode("ascii", "replace"), connection)

    def _watch(self, job_id: str, connection: Connection) -> None:
        """Until the job's process ends, or this end is closed."""
        job = self._known(job_id)
        if job is None:
            return
        job.control, job.begun = connection, True
        self._pause = 2.0
        self._report({"event": "engine", "what": "job runs", "job": job_id})
        try:
            receive(connection)
        except (EOFError, OSError, FedsecError):
            pass
        finally:
            job.ended, job.control = True, None

    def _known(self, job_id: str) -> _Job | None:
        """The job's process may be here before the answer to its submission."""
        for _ in range(100):
            with self._lock:
                if self._job is not None and self._job.id == job_id:
                    return self._job
            time.sleep(0.1)
        return None
