"""What delivery costs: the messages of one round over NVFlare beside the embedded engine, and rounds of many sites.

``python -m benchmarks.engine --sites 3,5,10 --bytes 40e6,168e6 --many 10,30,100 --json``; ``--slow 4e6`` adds one site
behind a link of so many bits a second (168 MB take about six minutes over 4 Mbit/s).

Over NVFlare every site is three processes (site, NVFlare's client and its job), all on this machine, with mTLS: what is
measured is delivery alone, since the sites answer at once. The embedded engine delivers the same messages. Rounds of
many sites are whole rounds of the protocol in the embedded engine, with updates that cost nothing to make.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.rows import Row, numbers, print_rows
from fedsec.coordinator.exchange import Exchange, Transport
from fedsec.engines.embedded import EmbeddedTransport
from fedsec.engines.link.desk import Desk, Terms
from fedsec.engines.link.transport import LinkTransport
from fedsec.engines.nvflare.carrier import NvflareCarrier
from fedsec.engines.nvflare.provision import provision
from fedsec.ops.kit import load_kit
from fedsec.plan.document import canonical
from fedsec.wire import core_roster
from fedsec_secure.identity.roster import SiteId
from tests.e2e.federation import ArithmeticWork, Federation, Keys, make_plan

GOAL = 0.5
"""Seconds that an exchange may take beyond the transfer."""
_PORT, _SLOW_PORT = 18_700, 18_701
_SMALL = 20
_DEADLINE = 3600.0


class Clock:
    """Asks exchanges of a transport, one after the other, and tells how long they took."""

    def __init__(self, transport: Transport, sites: Sequence[SiteId], spool: Path) -> None:
        self._transport, self._sites, self._spool, self._at = transport, sites, spool, 0

    def ask(self, name: str, request: bytes, sites: Sequence[SiteId] | None = None) -> float:
        self._at += 1
        requests = dict.fromkeys(sites or self._sites, request)
        began = time.monotonic()
        outcome = self._transport.exchange(Exchange(name, 0, self._at, requests, _DEADLINE), self._spool)
        took = time.monotonic() - began
        assert not outcome.lost, outcome.lost
        for path in outcome.uploads().values():
            path.unlink()
        return took


def delivery_rows(title: str, clock: Clock, sizes: Sequence[int], goal: bool) -> Iterator[Row]:
    small = [clock.ask("share", bytes(2000)) for _ in range(_SMALL)]
    met = statistics.median(small) <= GOAL if goal else None
    yield Row(f"{title}: a small exchange, median", statistics.median(small), "s", f"<= {GOAL}" if goal else None, met)
    yield Row(f"{title}: a small exchange, slowest of {_SMALL}", max(small), "s")
    for size in sizes:
        down, up = clock.ask("train", bytes(size)), clock.ask("mask", size.to_bytes(8, "big"))
        yield Row(f"{title}: {size / 1e6:.0f} MB to every site", down, "s")
        yield Row(f"{title}: {size / 1e6:.0f} MB from every site", up, "s")
        whole = down + up + 5 * statistics.median(small)
        yield Row(f"{title}: the messages of a round with {size / 1e6:.0f} MB", whole, "s")


@contextmanager
def nvflare(
    folder: Path, count: int, sizes: Sequence[int], slow: float | None
) -> Iterator[tuple[LinkTransport, Sequence[SiteId]]]:
    """A server here and ``count`` sites; the first behind a slow link where that is asked for."""
    keys = Keys.generate(count)
    plan = make_plan(keys)
    keys.save(folder / "keys")
    (folder / "plan.json").write_bytes(canonical(plan))
    sites = list(core_roster(plan).sites)
    provision(sites, "127.0.0.1", _PORT, folder / "kits")
    with ExitStack() as stack:
        if slow is not None:
            path = folder / "kits" / sites[0] / "startup" / "fed_client.json"
            path.write_text(path.read_text().replace(f":{_PORT}", f":{_SLOW_PORT}"))
            stack.enter_context(_process("benchmarks.tasks.slow_link", _SLOW_PORT, _PORT, slow))
        desk = Desk(Terms(plan.digest(), core_roster(plan), keys.coordinator.sign, "benchmark"), folder / "incoming")
        desk.expect(1 << 32)
        kit = load_kit(folder / "kits" / "coordinator", "coordinator")
        carrier = NvflareCarrier(kit, folder / "engine", desk, bind="127.0.0.1")
        stack.callback(carrier.close)
        carrier.start()
        for site in sites:
            stack.enter_context(_process("benchmarks.tasks.engine_site", folder, site, ",".join(map(str, sizes))))
        yield LinkTransport(desk, carrier), sites
        desk.close("done")


@contextmanager
def _process(module: str, *arguments: object) -> Iterator[None]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def over_nvflare(count: int, sizes: Sequence[int], slow: float | None = None) -> Iterator[Row]:
    title = f"NVFlare, {count} sites" if slow is None else f"NVFlare, one site at {slow / 1e6:g} Mbit/s"
    with tempfile.TemporaryDirectory(prefix="fedsec-bench-") as name:
        folder = Path(name)
        (folder / "spool").mkdir()
        with nvflare(folder, count, sizes, slow) as (transport, sites):
            clock = Clock(transport, sites, folder / "spool")
            yield Row(f"{title}: from the start to the first answer of all", clock.ask("share", b"first"), "s")
            if slow is None:
                yield from delivery_rows(title, clock, sizes, goal=True)
            else:
                yield from _slow_rows(title, clock, sites[:1], max(sizes), slow)


def _slow_rows(title: str, clock: Clock, site: Sequence[SiteId], size: int, bits: float) -> Iterator[Row]:
    least = 8 * size / bits
    for way, took in (
        ("to", clock.ask("train", bytes(size), site)),
        ("from", clock.ask("mask", size.to_bytes(8, "big"), site)),
    ):
        yield Row(f"{title}: {size / 1e6:.0f} MB {way} it", took, "s")
        yield Row(f"{title}: {size / 1e6:.0f} MB {way} it, over the link's own time", took / least, "times")


def embedded(sizes: Sequence[int], count: int) -> Iterator[Row]:
    """The same messages, by function call and through the same files."""
    with tempfile.TemporaryDirectory(prefix="fedsec-bench-") as name:
        folder = Path(name)
        upload, sites = folder / "upload", [SiteId(f"site-{i}") for i in range(count)]

        class Site:
            def handle(self, exchange: str, body: bytes) -> bytes | Path:
                if exchange != "mask":
                    return body[:200]
                if not upload.exists() or upload.stat().st_size != int.from_bytes(body, "big"):
                    upload.write_bytes(bytes(int.from_bytes(body, "big")))
                return upload

        clock = Clock(EmbeddedTransport({s: Site() for s in sites}), sites, folder)
        clock.ask("mask", max(sizes).to_bytes(8, "big"))
        yield from delivery_rows(f"embedded, {count} sites", clock, sizes, goal=False)


def many(count: int, hidden: int) -> Iterator[Row]:
    """Whole rounds of ``count`` sites in this process, by exchange."""
    keys, size = Keys.generate(count), 16 * hidden
    plan = make_plan(keys, rounds=2, mode="mask")

    def work(name: str, p: object) -> ArithmeticWork:
        return ArithmeticWork(name, plan, hidden=hidden)

    with tempfile.TemporaryDirectory(prefix="fedsec-bench-") as name:
        with Federation(Path(name), keys, plan, work=work) as federation:
            began = time.monotonic()
            federation.run()
            took = time.monotonic() - began
        found = [e for e in federation.events if e["event"] == "exchange" and e["round"] == 1]
    title = f"embedded, {count} sites, {size:.2g} coordinates"
    for event in found:
        up, down = event["bytes_up"], event["bytes_down"]
        assert isinstance(up, dict)
        assert isinstance(down, dict)
        each = f"{max(down.values()) / 1e3:,.0f} kB down, {max(up.values(), default=0) / 1e3:,.0f} kB up a site"
        yield Row(f"{title}: {event['exchange']} ({each})", float(str(event["seconds"])), "s")
    yield Row(f"{title}: a round, and a half of start and end", took / 2, "s")
    yield Row(f"{title}: the same, a site", took / 2 / count, "s")
    yield Row(f"{title}: peak memory so far", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=numbers, default=[3, 5, 10])
    parser.add_argument("--bytes", type=numbers, default=[40_000_000, 168_000_000])
    parser.add_argument("--many", type=numbers, default=[10, 30, 100])
    parser.add_argument("--coordinates", type=float, default=1e6)
    parser.add_argument("--slow", type=float, help="bits a second of one site's link")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    parts: list[Callable[[], Iterator[Row]]] = []
    for count in filter(None, asked.sites):
        parts.append(lambda n=count: embedded(asked.bytes, n))  # type: ignore[misc]
        parts.append(lambda n=count: over_nvflare(n, asked.bytes))  # type: ignore[misc]
    if asked.slow:
        parts.append(lambda: over_nvflare(3, asked.bytes, asked.slow))
    parts += [lambda n=count: many(n, round(asked.coordinates / 16)) for count in asked.many if count]  # type: ignore[misc]
    print_rows([row for part in parts for row in part()], asked.json)


if __name__ == "__main__":
    main()
