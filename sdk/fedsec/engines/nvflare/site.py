"""A site's side of NVFlare: its client kept running, and the station served over one job after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Final

from fedsec.engines.link.station import LineEndedError, Station, UndeliveredError
from fedsec.engines.nvflare.fence import version as landlock_version
from fedsec.engines.nvflare.gate import CARRIED, UNDELIVERED, Gate, receive
from fedsec.engines.nvflare.processes import Child
from fedsec.engines.nvflare.workspace import client_workspace
from fedsec.ops.kit import Kit
from fedsec.spool import private_folder
from fedsec_secure.errors import FedsecError

_ALONE: Final = 60.0
"""Seconds after which a site that nobody asks anything says so; then after twice as long, and so on."""


class NvflareSite:
    """Serves one station. ``folder``: for NVFlare's own files, emptied at every start."""

    def __init__(
        self,
        kit: Kit,
        site: str,
        folder: Path,
        report: Callable[[dict[str, object]], None] = lambda event: None,
    ) -> None:
        self._report = report
        if not landlock_version():
            report({"event": "unfenced", "what": "no Landlock here: the engine could read what this account can"})
        self._waiting: SimpleQueue[tuple[Connection, Event]] = SimpleQueue()
        self._gate = Gate(self._meet)
        arguments = client_workspace(kit, site, private_folder(folder) / "client")
        self._client = Child(arguments, folder / "client", folder / "nvflare.log", self._gate.environment())

    def start(self) -> None:
        """NVFlare's client, so that it connects while the site's model is loaded."""
        self._client.keep()

    def serve(self, station: Station, tick: Callable[[], None] = lambda: None) -> str:
        """Until the run is over, in the coordinator's words. Raises what `Station.serve` raises but LineEndedError."""
        alone, told = time.monotonic(), _ALONE
        while True:
            if self._client.keep():
                self._report(self._client.started("client"))
            tick()
            try:
                connection, done = self._waiting.get(timeout=1.0)
            except Empty:
                if time.monotonic() - alone > told:
                    what = f"no job of the coordinator's for {told:.0f} s; `fedsec doctor --site` checks the way there"
                    self._report({"event": "alone", "what": what})
                    told *= 2
                continue
            try:
                words = station.serve(partial(self._deliver, connection, tick))
            except LineEndedError as e:
                self._report({"event": "disconnected", "reason": str(e)})
                continue
            finally:
                done.set()
                alone, told = time.monotonic(), _ALONE
            if words is not None:
                return words

    def close(self) -> None:
        """End the client."""
        self._client.close()
        self._gate.close()

    def _meet(self, connection: Connection) -> None:
        """A job's process: its connection stays open until the station is done with it."""
        done = Event()
        self._waiting.put((connection, done))
        done.wait()

    def _deliver(self, connection: Connection, tick: Callable[[], None], frame: bytes) -> bytes:
        tick()
        try:
            connection.send_bytes(frame)
            answer = receive(connection)
        except (EOFError, OSError, FedsecError):
            raise LineEndedError("the engine's job ended") from None
        if answer.startswith(CARRIED):
            return answer[1:]
        if not answer.startswith(UNDELIVERED):
            raise LineEndedError("the engine's job says what nobody asked")
        reason = f"the engine could not deliver: {answer[1:].decode('ascii', 'replace')[:100]}"
        if not self._waiting.empty():  # a later job is here: this one has lost its server
            raise LineEndedError(reason)
        raise UndeliveredError(reason)
