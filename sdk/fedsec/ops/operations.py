"""One object that operates a long-lived process: it takes the events of a run, logs them, counts them, and answers
`/healthz`, `/readyz` and `/metrics` on this machine.

    with Operations("site", site="priory", run=run, log=path, address=("127.0.0.1", 9464)) as operations:
        operations.ready("waiting for the officer's approval")
        agent.progress = operations
        handler = operations.watch(agent)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from fedsec.ops.fields import name, whole
from fedsec.ops.health import PATIENCE, Health, web_application
from fedsec.ops.logs import error_fields, open_log
from fedsec.ops.metrics import Metrics
from fedsec.ops.server import LocalServer, require_loopback
from fedsec_secure.errors import FedsecError

Watcher = Callable[[dict[str, object]], None]
_WORK = frozenset({"train", "single", "central", "score", "exposure", "encrypt", "decrypt"})
"""Events of a site at work, one a step. How many steps there are follows from the number of notes."""


class Answering(Protocol):
    """A site's agent, as an engine sees it."""

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """Answer, or raise FedsecError to refuse."""
        ...


class Operations:
    """A progress callback that never raises, with health, metrics and a log. Open it before the work begins.

    Args:
        role: `coordinator` or `site`; stands in every line.
        run: the run's id, where it is known; ``site``: the site whose process this is.
        sites: the plan's sites: only these get series of their own in the metrics.
        log: a file, rotated; standard error if None.
        address: where health and metrics are served, a loopback address and a port (0: a free one); None: nowhere.
        folders: by a short name for the metrics, where free space matters, such as {"state": site.state_path}.
        patience: seconds without :meth:`tick` or an event after which `/healthz` says no.
    """

    def __init__(
        self,
        role: Literal["coordinator", "site"],
        *,
        run: str | None = None,
        site: str | None = None,
        sites: Collection[str] = (),
        log: Path | None = None,
        address: tuple[str, int] | None = None,
        folders: Mapping[str, Path] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._about = {"role": role, "run": run, "site": site}
        self.site, self._path = site, log
        self._health = Health(patience)
        self.metrics = Metrics({*sites, *([site] if site else [])}, folders or {})
        self._address = (require_loopback(address[0]), address[1]) if address else None
        self._lock, self._working = threading.Lock(), set[tuple[object, ...]]()
        self.port: int | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._log = stack.enter_context(open_log(self._path, self._about))
            self.metrics.dropped.set_function(self._log.dropped)
            if self._address:
                application = web_application(self._health, self.metrics.registry)
                self.port = stack.enter_context(LocalServer(application, *self._address)).port
            self._log.write({"event": "started"})
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt):  # a signal to stop
            self._log.write_public({"event": "failed", **error_fields(error)})
        self._log.write({"event": "stopped"})
        self._stack.close()

    def __call__(self, event: dict[str, object]) -> None:
        """One event of the run: a sign of life, counted, and logged as far as the allow-list goes."""
        self.tick()
        self.metrics(event)
        shown = self._of_work(event) if name(event.get("event")) in _WORK else event
        if shown is not None:
            self._log.write(shown)

    def tick(self) -> None:
        """The main loop is at work; to be called from every loop that may wait for long."""
        self._health.tick()

    def ready(self, reason: str | None) -> None:
        """None: connected and approved, the process can do its work. Otherwise why not, in words for IT."""
        self.metrics.is_ready.set(reason is None)
        if self._health.ready(reason):
            self._log.write({"event": "ready"} if reason is None else {"event": "not-ready", "reason": reason})

    def identify(self, run: str) -> None:
        """The run id, where a site learns it from its first request: it stands in every line from here on."""
        if name(run) is not None:
            self._log.identify(run)

    def watch(self, agent: Answering) -> Answering:
        """The agent, with each of its answers measured and each refusal noted by its class."""
        return _Watched(agent, self)

    def _of_work(self, event: Mapping[str, object]) -> dict[str, object] | None:
        """A line where a piece of work begins and one where it ends; None in between."""
        key = (name(event["event"]), name(event.get("site")), whole(event.get("round")))
        try:
            ended = int(str(event.get("step"))) >= int(str(event.get("steps")))
        except ValueError:
            ended = False
        with self._lock:
            began = key not in self._working
            if ended:
                self._working.discard(key)
            else:
                self._working.add(key)
        if not began and not ended:
            return None
        known = {part: event[part] for part in ("event", "site", "round") if part in event}
        return {**known, "state": "ended" if ended else "began"}


class _Watched:
    def __init__(self, agent: Answering, operations: Operations) -> None:
        self._agent, self._operations = agent, operations

    def handle(self, exchange: str, body: bytes) -> bytes | Path:
        self._operations.tick()
        began = time.monotonic()
        about: dict[str, object] = {"exchange": name(exchange) or "other", "site": self._operations.site}
        try:
            reply = self._agent.handle(exchange, body)
        except Exception as e:
            what = "refused" if isinstance(e, FedsecError) else "failed"
            self._operations({"event": what, **about, "error": type(e).__name__})
            raise
        size = len(reply) if isinstance(reply, bytes) else reply.stat().st_size
        seconds = round(time.monotonic() - began, 3)
        self._operations({"event": "answered", **about, "seconds": seconds, "bytes_up": size, "bytes_down": len(body)})
        return reply


def together(*watchers: Watcher) -> Watcher:
    """One callback that passes each event on to all, in order."""

    def watch(event: dict[str, object]) -> None:
        for watcher in watchers:
            watcher(event)

    return watch
