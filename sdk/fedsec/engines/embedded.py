"""The embedded engine: every site in this process, through the same bytes as across a network.

Sites answer ``jobs`` at a time. What it shows of confidentiality is the
protocol's, not the operating system's: one process can read its own memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Protocol

from fedsec.coordinator.exchange import Exchange, Outcome, Reply
from fedsec.spool import read_chunks, write_durably
from fedsec_secure.errors import FedsecError, TransportError
from fedsec_secure.identity.roster import SiteId


class Handler(Protocol):
    """A site: anything that answers exchanges."""

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """Answer, or raise FedsecError to refuse."""
        ...


class EmbeddedTransport:
    """Calls the sites of this process, each from one thread at a time.

    ``stopping`` is set where an exchange ends early (Ctrl-C, a bug), so that sites at work on other threads can end too
    instead of finishing a round that nobody waits for.
    """

    def __init__(self, sites: Mapping[SiteId, Handler], jobs: int = 1, stopping: Event | None = None) -> None:
        self._sites = dict(sorted(sites.items()))
        self._jobs = jobs
        self._stopping = stopping or Event()

    def sites(self) -> tuple[SiteId, ...]:
        """All of them."""
        return tuple(self._sites)

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        """Ask every site. A refusal is a lost site with its reason; anything unforeseen is a bug and stops, and so does
        a spool without room, which is the coordinator's.
        """
        replies: dict[SiteId, Reply] = {}
        lost: dict[SiteId, str] = {}
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="site") as threads:
            asked = {s: threads.submit(self._ask, s, exchange, r, spool) for s, r in exchange.requests.items()}
            try:
                for site, answer in asked.items():
                    reply = answer.result()
                    if isinstance(reply, str):
                        lost[site] = reply
                    else:
                        replies[site] = reply
            except BaseException:
                self._stopping.set()
                threads.shutdown(cancel_futures=True)
                raise
        return Outcome(replies, lost)

    def _ask(self, site: SiteId, exchange: Exchange, request: bytes, spool: Path) -> Reply | str:
        """The reply, or in words why there is none."""
        try:
            handler = self._sites.get(site)
            if handler is None:
                raise TransportError("not in this engine")
            reply = handler.handle(exchange.name, request)
        except FedsecError as e:
            return f"{type(e).__name__}: {e}"
        if isinstance(reply, bytes):
            return reply
        path = spool / f"{exchange.round:04d}-{exchange.attempt}-{exchange.name}-{site}"
        write_durably(path, read_chunks(reply))
        return path
