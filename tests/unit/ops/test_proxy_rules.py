"""Which way a connection takes, beside gRPC itself; and CONNECT through a real proxy process."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from fedsec.ops.proxy import Proxy, connect, for_grpc, proxy_for
from fedsec_secure.errors import ConfigError, TransportError
from tests.engine_kits import connect_proxy

# A real gRPC channel to a port where nothing listens: whether the proxy was asked for it is all that counts.
_DIAL = """
import grpc, sys
channel = grpc.insecure_channel("localhost:9")
try:
    grpc.channel_ready_future(channel).result(1.0)
except grpc.FutureTimeoutError:
    pass
"""


@pytest.mark.parametrize(
    ("settings", "through"),
    [
        ({"https_proxy": "URL"}, True),
        ({"http_proxy": "URL"}, True),
        ({"grpc_proxy": "URL"}, True),
        ({"HTTPS_PROXY": "URL"}, False),
        ({"grpc_proxy": "", "https_proxy": "URL"}, False),
        ({"https_proxy": "URL", "no_proxy": "other, LOCALHOST"}, False),
        ({"https_proxy": "URL", "no_proxy": ".localhost"}, False),
        ({"https_proxy": "URL", "no_proxy": "calhost"}, True),
        ({"https_proxy": "URL", "no_proxy": "*"}, True),
        ({"https_proxy": "URL", "no_proxy": "localhost:9"}, True),
        ({"https_proxy": "URL", "NO_PROXY": "localhost"}, True),
        ({"https_proxy": "URL", "no_grpc_proxy": "other", "no_proxy": "localhost"}, True),
    ],
    ids=str,
)
def test_the_way_is_the_one_that_grpc_takes(settings, through):
    pytest.importorskip("grpc")
    with connect_proxy("--refuse", "403") as proxy:
        given = {k: v.replace("URL", f"http://127.0.0.1:{proxy.port}") for k, v in settings.items()}
        clean = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        subprocess.run([sys.executable, "-c", _DIAL], env=clean | given, capture_output=True, check=True)
        asked = "CONNECT localhost:9" in proxy.seen()
    assert asked is through
    assert (proxy_for("localhost", given) is not None) is through


@pytest.mark.parametrize(
    ("no_proxy", "host", "through"),
    [
        ("10.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("10.0.0.0/8", "hub.example.org", True),
        ("example.org", "hub.example.org", False),
        ("example.org", "hubexample.org", True),
        ("", "hub.example.org", True),
    ],
)
def test_networks_and_domains_that_go_straight(no_proxy, host, through):
    environ = {"https_proxy": "http://proxy:3128", "no_proxy": no_proxy}
    assert (proxy_for(host, environ) is not None) is through


@pytest.mark.parametrize("url", ["https://proxy:1", "proxy:3128", "ftp://x", "http://proxy:port", "http://"])
def test_what_grpc_would_ignore_is_said(url):
    with pytest.raises(ConfigError, match=r"https_proxy: expected http://HOST:PORT"):
        proxy_for("hub", {"https_proxy": url})


def test_a_password_does_not_show():
    proxy = proxy_for("hub", {"https_proxy": "http://me:p%40ss@proxy:3128"})
    assert proxy == Proxy("https_proxy", "proxy", 3128, "me:p@ss")
    assert "p@ss" not in f"{proxy} {proxy!r}"


def test_capitals_that_grpc_does_not_read_are_given_to_it_in_small_letters():
    given = {"HTTPS_PROXY": "x", "NO_PROXY": "y", "no_proxy": "z", "HTTP_PROXY": ""}
    assert for_grpc(given) == given | {"https_proxy": "x"}
    assert for_grpc({"https_proxy": "x"}) == {"https_proxy": "x"}


def reach(proxy, credentials=None):
    tunnel = connect("localhost", proxy.port, Proxy("https_proxy", "127.0.0.1", proxy.port, credentials), 5)
    tunnel.socket.close()
    return tunnel


def test_a_tunnel_and_the_proxys_clock():
    date = "Sun, 22 Nov 2026 12:00:00 GMT"
    with connect_proxy("--date", date, "--user", "me:secret") as proxy:
        assert reach(proxy, "me:secret").date == date
        with pytest.raises(TransportError, match=r"with 407: it wants a name and password"):
            reach(proxy)
        assert proxy.seen() == [f"CONNECT localhost:{proxy.port}"] * 2


def test_a_proxy_that_forbids_the_target():
    with connect_proxy("--refuse", "403") as proxy, pytest.raises(TransportError, match="with 403: it forbids"):
        reach(proxy)


@pytest.mark.parametrize("answer", [b"220 mail ready\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000])
def test_what_is_no_proxy_is_said(answer):
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            accepted, _ = listening.accept()
            accepted.recv(4096)
            with suppress(OSError):
                accepted.sendall(answer)
            accepted.close()

        threading.Thread(target=serve, daemon=True).start()
        proxy = Proxy("https_proxy", "127.0.0.1", listening.getsockname()[1])
        with pytest.raises(TransportError, match="expected the answer of an HTTP proxy"):
            connect("hub", 1, proxy, 5)
