"""A Transport over a desk: what every distributed engine shares. The engine itself is a Carrier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.engines.link.desk import Desk
from fedsec_secure.identity.roster import SiteId

AWAY_SECONDS: Final = 600.0
"""A site that is silent for longer is lost to the exchange: networks of hospitals drop for minutes."""
_TICK = 1.0


class Carrier(Protocol):
    """An engine that carries frames between sites and the desk."""

    def keep(self, wanted: frozenset[SiteId], round_index: int) -> None:
        """Called about once a second: see to it that these sites can ask the desk. TransportError: it cannot be."""
        ...


class LinkTransport:
    """Delivers exchanges over links. A site that is away has ``away`` seconds to come back; one that is there has the
    plan's deadline for its work, and for what is sent three times what that takes at the measured rate of its link.
    """

    def __init__(
        self,
        desk: Desk,
        carrier: Carrier,
        away: float = AWAY_SECONDS,
        report: Callable[[dict[str, object]], None] = lambda event: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """``tick``: called about once a second while sites are waited for."""
        self._desk = desk
        self._carrier = carrier
        self._away = away
        self._report = report
        self._tick = tick

    def sites(self) -> tuple[SiteId, ...]:
        """Those that were heard of lately."""
        return tuple(sorted(s for s, ago in self._desk.heard().items() if ago <= self._away))

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        """Ask every site, and wait for each until it answers, refuses, or is lost."""
        self._desk.post(exchange, spool)
        refused = self._desk.refused
        try:
            waiting = told = frozenset(exchange.requests)
            self._carrier.keep(waiting, exchange.round)
            while waiting := self._desk.wait(exchange, self._away, _TICK):
                if waiting != told:
                    self._report({"event": "waiting", "exchange": exchange.name, "survivors": sorted(waiting)})
                    told = waiting
                if self._desk.refused != refused:
                    refused = self._desk.refused
                    self._report({"event": "not-welcome", "reason": refused})
                self._carrier.keep(waiting, exchange.round)
                self._tick()
        finally:
            outcome = self._desk.outcome()
        return outcome
