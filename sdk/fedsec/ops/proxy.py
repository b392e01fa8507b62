"""The way through an HTTP proxy, by the rules of gRPC's C core, which carries the distributed engine.

They differ from what most programs do, and tests/unit/ops/test_proxy_rules.py compares them with gRPC itself: only
lower-case variables count, which is why the engine's processes are given those (:func:`for_grpc`): `grpc_proxy`,
`https_proxy`, `http_proxy`, the first that is set, even if it is empty. Only `http://` proxies; an entry of
`no_grpc_proxy`, or else `no_proxy`, is a host, a domain or a network: no `*`, no port.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import h11

from fedsec_secure.errors import ConfigError, TransportError

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_LARGEST_ANSWER = 64 << 10


@dataclass(frozen=True)
class Proxy:
    """A proxy and the variable that names it. A password does not show."""

    variable: str
    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port} ({self.variable})"


@dataclass(frozen=True)
class Tunnel:
    """An open connection to the target; ``date`` is the proxy's own clock, where its answer tells it."""

    socket: socket.socket
    date: str | None


def proxy_for(host: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that gRPC takes to ``host``; None for a direct way. ConfigError where it would ignore what is set."""
    variable = next((name for name in _VARIABLES if name in environ), None)
    if variable is None or not environ[variable]:
        return None
    passed_by = environ.get("no_grpc_proxy", environ.get("no_proxy", ""))
    if any(_covers(entry.strip(), host) for entry in passed_by.split(",") if entry.strip()):
        return None
    try:
        url = urlsplit(environ[variable])
        port = url.port or 80
    except ValueError:
        raise ConfigError(f"{variable}: expected http://HOST:PORT; found something that is no address") from None
    if url.scheme != "http" or not url.hostname:
        raise ConfigError(
            f"{variable}: expected http://HOST:PORT, the only form that gRPC takes; found scheme {url.scheme[:20]!r}"
        )
    name, secret = unquote(url.username or ""), unquote(url.password or "")
    return Proxy(variable, url.hostname, port, f"{name}:{secret}" if url.username else None)


def for_grpc(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for the engine's processes: what is set in capitals alone also by the names that gRPC reads."""
    twins = {n.lower(): environ[n] for n in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY") if environ.get(n)}
    return {**twins, **environ}


def _covers(entry: str, host: str) -> bool:
    bare, name = entry.lower().lstrip("."), host.lower()
    if name == bare or name.endswith(f".{bare}"):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def connect(host: str, port: int, proxy: Proxy | None, seconds: float) -> Tunnel:
    """A connection to a target, straight or by CONNECT. OSError for the socket's part, TransportError for a refusal."""
    if proxy is None:
        return Tunnel(socket.create_connection((host, port), seconds), None)
    opened = socket.create_connection((proxy.host, proxy.port), seconds)
    try:
        answer = _ask(opened, host, port, proxy)
    except BaseException:
        opened.close()
        raise
    headers = {name: value.decode("ascii", "replace") for name, value in answer.headers}
    if answer.status_code // 100 == 2:
        return Tunnel(opened, headers.get(b"date"))
    opened.close()
    needs = {407: ": it wants a name and password, http://NAME:PASSWORD@HOST:PORT", 403: ": it forbids this target"}
    raise TransportError(
        f"the proxy refuses CONNECT {host}:{port} with {answer.status_code}{needs.get(answer.status_code, '')}"
    )


def _ask(opened: socket.socket, host: str, port: int, proxy: Proxy) -> h11.Response:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", target)]
    if proxy.credentials is not None:
        headers.append(("Proxy-Authorization", "Basic " + base64.b64encode(proxy.credentials.encode()).decode()))
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_ANSWER)
    try:
        opened.sendall(connection.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b"")
        opened.sendall(connection.send(h11.EndOfMessage()) or b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                connection.receive_data(opened.recv(4096))
    except h11.ProtocolError:
        raise TransportError(f"expected the answer of an HTTP proxy at {proxy}; found something else") from None
