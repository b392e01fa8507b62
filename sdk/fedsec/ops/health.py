"""Whether a process is alive and whether it is of use, and the small web application that says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from werkzeug.wrappers import Request, Response

from fedsec.ops.fields import public_text

PATIENCE = 300.0
"""Seconds without a sign of the main loop after which a process counts as stuck: loading a base model takes minutes."""


class Health:
    """Told by the process, read by the web server's threads."""

    def __init__(self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._lock = threading.Lock()
        self._ticked = clock()
        self._reason: str | None = "starting"

    def tick(self) -> None:
        """The main loop is at work."""
        with self._lock:
            self._ticked = self._clock()

    def ready(self, reason: str | None) -> bool:
        """None where the process can do its work, else why not; whether that is news."""
        said = None if reason is None else public_text(reason)
        with self._lock:
            before, self._reason = self._reason, said
        return before != said

    def alive(self) -> tuple[bool, str]:
        """Whether the main loop ticked lately, in words."""
        with self._lock:
            silent = self._clock() - self._ticked
        said = f"the main loop gave its last sign {silent:.0f} s ago"
        return (True, said) if silent <= self._patience else (False, f"{said}; expected one in {self._patience:.0f} s")

    def use(self) -> tuple[bool, str]:
        """Whether the process is ready, in words."""
        with self._lock:
            return self._reason is None, self._reason or "ready"


_OWN_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})


def web_application(health: Health, registry: CollectorRegistry) -> Callable[..., object]:
    """WSGI: `/healthz` and `/readyz` with 200 or 503 and one line of text, `/metrics` for Prometheus. GET only."""

    def state(found: tuple[bool, str]) -> Response:
        good, said = found
        return Response(said + "\n", status=200 if good else 503, content_type="text/plain; charset=utf-8")

    pages: dict[str, Callable[[], Response]] = {
        "/healthz": lambda: state(health.alive()),
        "/readyz": lambda: state(health.use()),
        "/metrics": lambda: Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST),
    }

    def answer(request: Request) -> Response:
        # A page in a browser on this machine can be led here under its own name (DNS rebinding): that is not answered.
        if urlsplit(f"//{request.host}").hostname not in _OWN_NAMES:
            return Response("expected the host 127.0.0.1, [::1] or localhost\n", status=400)
        page = pages.get(request.path)
        if page is None:
            return Response(f"expected one of {', '.join(pages)}\n", status=404)
        if request.method not in ("GET", "HEAD"):
            return Response("expected GET\n", status=405, headers={"Allow": "GET, HEAD"})
        return page()

    application: Callable[..., object] = Request.application(answer)
    return application
