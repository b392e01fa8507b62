"""A web server for this machine alone, on a thread of its own (cheroot: bounded threads, headers and waiting)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cheroot import wsgi

from fedsec_secure.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1")
_THREADS, _SECONDS = 4, 2


def require_loopback(host: str) -> str:
    """ConfigError for anything but the two loopback addresses; a name is refused, as it could resolve to another."""
    if host not in LOOPBACK:
        raise ConfigError(
            f"expected 127.0.0.1 or ::1 for health and metrics; found {host[:80]!r}: they are answered without asking "
            "who calls, so on this machine alone. To reach them from another, put a proxy that authenticates in front"
        )
    return host


class _Silent(wsgi.Server):
    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Cheroot prints by default; who asks sees what fails here."""


class LocalServer:
    """Serves ``application`` (WSGI) on a loopback address while it is open. Port 0 takes a free one."""

    def __init__(self, application: Callable[..., object], host: str, port: int) -> None:
        self._application, self._host, self.port = application, require_loopback(host), port

    def __enter__(self) -> Self:
        server = self._server = _Silent(
            (self._host, self.port),
            self._application,
            numthreads=_THREADS,
            max=_THREADS,
            timeout=_SECONDS,
            shutdown_timeout=_SECONDS,
            server_name="127.0.0.1",
        )
        server.max_request_header_size, server.max_request_body_size = 8192, 1024
        server.reuse_port = False
        try:
            server.prepare()
        except OSError:
            where = f"port {self.port} at {self._host}"
            raise ConfigError(f"{where} is in use or cannot be had; choose another for health and metrics") from None
        self.port = int(server.bind_addr[1])
        self._thread = threading.Thread(target=server.serve, name="health", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join(timeout=_SECONDS)
