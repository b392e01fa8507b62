"""The coordinator's side of NVFlare: its server kept running, and one job a segment of rounds that carries the link."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Final

from fedsec.engines.link.desk import Desk
from fedsec.engines.nvflare.fence import version as landlock_version
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
MOST_JOBS: Final = 6
"""At a time: one for most sites, and others for those that came later or were cut off."""

_LOOK: Final = 10.0
"""Seconds after which a job that does not run yet is asked about, and again."""


@dataclass(frozen=True)
class Pauses:
    """Seconds. They only decide how long a fault lasts."""

    patience: float = 10.0
    """A job waits so long for sites that are still on their way to the server."""
    silent: float = 20.0
    """A site that the server knows, and that says nothing for so long, gets a job of its own; after that one in vain,
    for twice as long, and so on. A site that has nothing to do speaks every 15 s.
    """
    start: float = 120.0
    """A job that does not run after so long is given up."""
    most: float = 60.0
    """Between two tries, at most."""


@dataclass(eq=False)
class _Job:
    id: str
    sites: frozenset[SiteId]
    submitted: float
    asked: float
    """When it was last asked what became of it."""
    control: Connection | None = None
    begun: float | None = None
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
        if not landlock_version():
            report({"event": "unfenced", "what": "no Landlock here: the engine could read what this account can"})
        self._segment = segment
        self._pauses = pauses
        self._lock = Lock()
        self._gate = Gate(self._meet)
        arguments = server_workspace(kit, private_folder(folder) / "server", bind)
        log = folder / "nvflare.log"
        self._server = Child(arguments, folder / "server", log, self._gate.environment())
        self._clerk = Clerk(console_workspace(kit.folder / ADMIN, folder / "console"), USER, log)
        self._jobs: list[_Job] = []
        self._ending: list[tuple[_Job, float]] = []
        """Jobs that were told to end, and when."""
        self._tries: dict[SiteId, int] = {}
        """Jobs in a row that a site was silent in."""
        self._first_round = 0
        self._asked_since: float | None = None
        self._pause, self._not_before = 2.0, 0.0
        self.trouble: str | None = "NVFlare's server has not answered yet"
        """Why no site can be reached, in words for IT; None once the console has reached the server."""

    def start(self) -> None:
        """The server, so that sites can connect. Sites ask the desk only once there is a job."""
        self._server.keep()

    @property
    def round(self) -> int:
        """The first round of the jobs that run."""
        return self._first_round

    def close(self) -> None:
        """End the jobs, the console and the server."""
        self._finish()
        self._clerk.close()
        self._server.close()
        self._gate.close()

    # ---- Carrier

    def keep(self, wanted: frozenset[SiteId], round_index: int) -> None:
        """Server up, and jobs that reach the sites that are wanted and connected.

        A site that comes later, or again, gets a job of its own beside the others: nobody's work is interrupted.
        """
        if self._server.keep():
            self._report(self._server.started("server"))
            self._clerk.close()
            self._forget(self._jobs)
            self._ending = []
        self._end_late()
        if self._jobs and round_index >= self._first_round + self._segment:
            self._finish()
        missing = self._missing(wanted)
        if not missing:
            self._asked_since = None
            return
        if len(self._jobs) >= MOST_JOBS:
            self._finish()
        self._submit(missing, round_index)

    def _end_late(self) -> None:
        """Jobs that ended are no jobs; one that does not begin is given up."""
        now = time.monotonic()
        for job in self._jobs:
            if job.begun is None and now - job.asked >= _LOOK:
                job.asked = now
                job.ended = self._in_vain(job, now)
        self._forget([job for job in self._jobs if job.ended])
        # Jobs that were told to end may wait for a site that is cut off; no site asks over them any more.
        told = [(job, since) for job, since in self._ending if not job.ended]
        for job, since in told:
            if now - since > self._pauses.silent:
                self._try_abort(job)
        self._ending = [(job, since) for job, since in told if now - since <= self._pauses.silent]

    def _in_vain(self, job: _Job, now: float) -> bool:
        """Whether a job that does not run yet failed, or is given up."""
        if now - job.submitted > self._pauses.start:
            self._try_abort(job)
            return True
        try:
            failed = str(self._clerk.ask("status", job=job.id)["status"]).startswith("FINISHED")
        except TransportError:
            return False  # it is given up in the end
        if failed:
            self._report({"event": "engine", "what": "job failed before it ran", "job": job.id})
            self._postpone()
        return failed

    def _forget(self, jobs: Sequence[_Job]) -> None:
        with self._lock:
            self._jobs = [job for job in self._jobs if job not in jobs]

    def _missing(self, wanted: frozenset[SiteId]) -> frozenset[SiteId]:
        """Whom no job reaches: none was submitted for them, or they say nothing in the newest."""
        now, heard = time.monotonic(), self._desk.heard()
        found = set()
        for site in wanted:
            job = next((job for job in reversed(self._jobs) if site in job.sites), None)
            if job is None:
                found.add(site)
                continue
            if job.begun is None:
                continue
            since = now - job.begun
            quiet = min(heard.get(site, since), since)
            if quiet < self._pauses.silent:
                self._tries.pop(site, None)
            elif quiet >= min(self._pauses.silent * 2 ** self._tries.get(site, 0), self._pauses.most):
                found.add(site)
        return frozenset(found)

    def _connected(self) -> frozenset[SiteId]:
        """Sites whose client gave a sign of life lately: the server lists one that is cut off for ten minutes more."""
        try:
            clients = self._clerk.ask("info")["clients"]
            self.trouble = None
            return frozenset(SiteId(s) for s, ago in clients.items() if ago < 3 * BEAT_SECONDS) & self._desk.roster()
        except TransportError as e:
            self.trouble = str(e)
            self._report({"event": "engine", "what": str(e)})
            return frozenset()

    def _submit(self, missing: frozenset[SiteId], round_index: int) -> None:
        """A job for the sites that are there: for all that are missing, or after some patience for those that came."""
        now = time.monotonic()
        self._asked_since = self._asked_since or now
        if now < self._not_before:
            return
        connected = self._connected()
        if not missing & connected or (not missing <= connected and now - self._asked_since < self._pauses.patience):
            self._not_before = now + 0.5
            return
        reached = frozenset[SiteId]().union(*(job.sites for job in self._jobs))
        sites = connected & (missing | (self._desk.roster() - reached))
        self._desk.rest(False)
        try:
            job = self._clerk.ask("submit", sites=sorted(sites))["job"]
        except TransportError as e:
            self._report({"event": "engine", "what": str(e)})
            self._postpone()
            return
        for site in missing & reached:
            self._tries[site] = self._tries.get(site, 0) + 1
        if not self._jobs:
            self._first_round = round_index
        with self._lock:
            self._jobs.append(_Job(job, sites, now := time.monotonic(), now))
        self._asked_since = None
        self._report({"event": "engine", "what": f"job submitted for {', '.join(sorted(sites))}", "job": job})

    def _postpone(self) -> None:
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, self._pauses.most)

    def _finish(self) -> None:
        """Let the sites go, and end the jobs."""
        jobs = self._jobs
        self._forget(jobs)
        if jobs:
            self._desk.rest(True)
        for job in jobs:
            control = job.control  # the thread that watches it may take it away at any moment
            if control is not None:
                with suppress(OSError):  # it ended by itself
                    control.send_bytes(END)  # closing is not seen there while a thread here still reads
                self._ending.append((job, time.monotonic()))
            elif not job.ended:
                self._try_abort(job)
        self._asked_since = None

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
        job.control, job.begun = connection, time.monotonic()
        self._pause = 2.0
        self._report({"event": "engine", "what": "job runs", "job": job_id})
        with suppress(EOFError, OSError, FedsecError):  # whatever it is, the job's process is over
            receive(connection)
        job.ended, job.control = True, None

    def _known(self, job_id: str) -> _Job | None:
        """The job's process may be here before the answer to its submission."""
        for _ in range(100):
            with self._lock:
                found = next((job for job in self._jobs if job.id == job_id), None)
            if found is not None:
                return found
            time.sleep(0.1)
        return None
