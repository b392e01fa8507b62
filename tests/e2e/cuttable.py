"""A network between a site and the server that can be cut: a TCP forwarder in a process of its own.

``python -m tests.e2e.cuttable HOST:PORT`` prints its own port, and obeys lines on standard input: ``pass``, ``stall``
(nothing goes through and nobody is told, as behind a tunnel that is down) or ``drop`` (connections are reset, and new
ones refused by closing them at once).
"""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

_RESET = struct.pack("ii", 1, 0)


class Network:
    """All connections of one way."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._dropping = False
        self._ends: set[asyncio.StreamWriter] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A site's connection, and one to the server for it."""
        self._ends.add(writer)
        await self._open.wait()
        if self._dropping:
            self._reset(writer)
            return
        try:
            far_reader, far = await asyncio.open_connection(*self._target)
        except OSError:
            self._reset(writer)
            return
        self._ends.add(far)
        both = (self._pump(reader, far), self._pump(far_reader, writer))
        await asyncio.gather(*both, return_exceptions=True)
        for end in (writer, far):
            self._ends.discard(end)
            end.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()

    def _reset(self, end: asyncio.StreamWriter) -> None:
        self._ends.discard(end)
        socket = end.get_extra_info("socket")
        if socket is not None:
            socket.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
        end.transport.abort()

    def obey(self, word: str) -> None:
        """One line of standard input."""
        if word == "stall":
            self._open.clear()
            return
        self._dropping = word == "drop"
        self._open.set()
        if self._dropping:
            for end in list(self._ends):
                self._reset(end)


def _say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def _main(host: str, port: int) -> None:
    network = Network(host, port)
    server = await asyncio.start_server(network.accept, "127.0.0.1", 0)
    _say(server.sockets[0].getsockname()[1])
    loop = asyncio.get_running_loop()
    while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        network.obey(word)
        _say(word)
    os._exit(0)


@dataclass
class Cuttable:
    """The test's end of it."""

    target: str

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "tests.e2e.cuttable", self.target]
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, bufsize=1
        )
        self.port = int(self._process.stdout.readline())

    def say(self, word: str) -> None:
        """``pass``, ``stall`` or ``drop``; it is so when this returns."""
        self._process.stdin.write(word + "\n")
        assert self._process.stdout.readline().strip() == word

    def close(self) -> None:
        """No connection is left."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    asyncio.run(_main(host, int(port)))
