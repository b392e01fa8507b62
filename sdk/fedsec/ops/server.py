"""A web server for this machine alone, on a thread of its own (waitress: bounded threads, headers and waiting)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import waitress

from fedsec_secure.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1")


def require_loopback(host: str) -> str:
    """ConfigError for anything but the two loopback addresses; a name is refused, as it could resolve to another."""
    if host not in LOOPBACK:
        raise ConfigError(
            f"expected 127.0.0.1 or ::1 for health and metrics; found {host[:80]!r}: they are answered without asking "
            "who calls, so on this machine alone. To reach them from another, put a proxy that authenticates in front"
        )
    return host


class LocalServer:
    """Serves ``application`` (WSGI) on a loopback address while it is open. Port 0 takes a free one."""

    def __init__(self, application: Callable[..., object], host: str, port: int) -> None:
        self._application, self._host, self.port = application, require_loopback(host), port

    def __enter__(self) -> Self:
        try:
            self._server = waitress.create_server(
                self._application,
                host=self._host,
                port=self.port,
                threads=2,
                ident=None,
                connection_limit=20,
                channel_timeout=10,
                cleanup_interval=5,
                max_request_header_size=8192,
                max_request_body_size=1024,
            )
        except OSError as e:
            what = "is in use" if e.errno == errno.EADDRINUSE else f"cannot be had ({e.strerror})"
            raise ConfigError(
                f"port {self.port} at {self._host} {what}; choose another for health and metrics"
            ) from None
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._server.run, name="health", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The loop itself closes what it waits on: a socket closed under another thread's poll may be another's by then.
        self._server.trigger.pull_trigger(self._close)
        self._thread.join(timeout=5)

    def _close(self) -> None:
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.task_dispatcher.shutdown()
        self._server.close()
