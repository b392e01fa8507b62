"""An HTTP proxy for tests, a process of its own: CONNECT only, each tunnel's target on standard output.

    python -m tests.connect_proxy [--refuse STATUS] [--date HTTP-DATE] [--user NAME:PASSWORD]

Its first line of output is its port. The HTTP is h11's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64

import h11


class Proxy:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    async def serve(self) -> None:
        server = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
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
        headers = [("date", self._options.date)] if self._options.date else []
        reply = h11.Response(status_code=status, headers=headers, reason=b"")
        writer.write(connection.send(reply) or b"")
        if status != 200:
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            return writer.close()
        host, port = target.rsplit(":", 1)
        above, below = await asyncio.open_connection(host.strip("[]"), int(port))
        await asyncio.gather(_copy(reader, below, connection.trailing_data[0]), _copy(above, writer))
        return None

    def _allowed(self, request: h11.Request) -> int:
        if self._options.user is None:
            return 200
        wanted = b"Basic " + base64.b64encode(self._options.user.encode())
        return 200 if dict(request.headers).get(b"proxy-authorization") == wanted else 407


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, first: bytes = b"") -> None:
    try:
        sink.write(first)
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--refuse", type=int)
    parser.add_argument("--date")
    parser.add_argument("--user")
    asyncio.run(Proxy(parser.parse_args()).serve())
