"""A link of so many bits a second each way: forwards TCP connections to a port of this machine.

``python -m benchmarks.tasks.slow_link LISTEN TARGET BITS``
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing, suppress

_CHUNK = 1 << 14


class Bucket:
    """What one direction of the link has still to carry, shared by all connections."""

    def __init__(self, bits: float) -> None:
        self._bytes = bits / 8
        self._free = 0.0

    async def pass_on(self, size: int) -> None:
        """Return when so many bytes would be through."""
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / self._bytes
        await asyncio.sleep(self._free - now)


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, bucket: Bucket) -> None:
    with closing(sink), suppress(ConnectionError):  # either end may close; the other is then closed too
        while data := await source.read(_CHUNK):
            await bucket.pass_on(len(data))
            sink.write(data)
            await sink.drain()


async def main() -> None:
    listen, target, bits = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    up, down = Bucket(bits), Bucket(bits)

    async def meet(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, out = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(near, out, up), pump(far, back, down))

    server = await asyncio.start_server(meet, "127.0.0.1", listen)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
