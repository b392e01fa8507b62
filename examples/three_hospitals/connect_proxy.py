"""An HTTP proxy as hospitals have one, in small: CONNECT only, each tunnel's target on standard output.

    python connect_proxy.py [--bind ADDRESS] [--port PORT] [--refuse STATUS] [--date HTTP-DATE] [--user NAME:PASSWORD]

Its first line of output is its port. What each tunnel carried goes to standard error when it ends. The HTTP is h11's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
from collections.abc import Iterable
from contextlib import closing, suppress

import h11


class Proxy:
    """Serves until it is killed. Its answers go by what is given on the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    async def serve(self) -> None:
        """Print the port, and go on for ever."""
        server = await asyncio.start_server(self._tunnel, self._options.bind, self._options.port)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        while not isinstance(event := connection.next_event(), h11.Request):
            if event is not h11.NEED_DATA:
                return writer.close()
            connection.receive_data(await reader.read(4096))
        target = event.target.decode()
        print(event.method.decode(), target, flush=True)
        status = self._options.refuse or self._allowed(event)
        host, _, port = target.rpartition(":")
        if status == 200:
            try:
                above, below = await asyncio.open_connection(host.strip("[]"), int(port))
            except (OSError, ValueError):
                status = 502
        headers = [("date", self._options.date)] if self._options.date else []
        writer.write(connection.send(h11.Response(status_code=status, headers=headers, reason=b"")) or b"")
        if status != 200:
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            return writer.close()
        ways = _copy(reader, below, connection.trailing_data[0]), _copy(above, writer)
        up, down = await asyncio.gather(*ways)
        print(f"tunnel to {target} over: {up} bytes up, {down} bytes down", file=sys.stderr, flush=True)
        return None

    def _allowed(self, request: h11.Request) -> int:
        if self._options.user is None:
            return 200
        wanted = b"Basic " + base64.b64encode(self._options.user.encode())
        sent: Iterable[tuple[bytes, bytes]] = request.headers
        return 200 if dict(sent).get(b"proxy-authorization") == wanted else 407


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, first: bytes = b"") -> int:
    """Until either end closes; how many bytes went through."""
    carried = len(first)
    with closing(sink), suppress(ConnectionError):  # either end may close; the other is then closed too
        sink.write(first)
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
            carried += len(data)
    return carried


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--refuse", type=int)
    parser.add_argument("--date")
    parser.add_argument("--user")
    asyncio.run(Proxy(parser.parse_args()).serve())
