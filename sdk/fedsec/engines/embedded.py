"""The embedded engine: every site in this process, through the same bytes as across a network.

Sites answer one after another, so one base model in memory serves them all. What it shows of confidentiality is the
protocol's, not the operating system's: one process can read its own memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fedsec.coordinator.exchange import Exchange, Outcome, Reply
from fedsec.spool import read_chunks, write_durably
from fedsec_secure.errors import FedsecError
from fedsec_secure.identity.roster import SiteId


class Handler(Protocol):
    """A site: anything that answers exchanges."""

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """Answer, or raise FedsecError to refuse."""
        ...


class EmbeddedTransport:
    """Calls the sites of this process."""

    def __init__(self, sites: Mapping[SiteId, Handler]) -> None:
        self._sites = dict(sorted(sites.items()))

    def sites(self) -> tuple[SiteId, ...]:
        """All of them."""
        return tuple(self._sites)

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        """Ask each site in turn. A refusal is a lost site with its reason; anything unforeseen is a bug and stops."""
        replies: dict[SiteId, Reply] = {}
        lost: dict[SiteId, str] = {}
        for site, request in exchange.requests.items():
            handler = self._sites.get(site)
            if handler is None:
                lost[site] = "not in this engine"
                continue
            try:
                replies[site] = self._deliver(site, handler, exchange, request, spool)
            except FedsecError as e:
                lost[site] = f"{type(e).__name__}: {e}"
        return Outcome(replies, lost)

    def _deliver(self, site: SiteId, handler: Handler, exchange: Exchange, request: bytes, spool: Path) -> Reply:
        reply = handler.handle(exchange.name, request)
        if isinstance(reply, bytes):
            return reply
        path = spool / f"{exchange.round:04d}-{exchange.attempt}-{exchange.name}-{site}"
        write_durably(path, read_chunks(reply))
        return path
