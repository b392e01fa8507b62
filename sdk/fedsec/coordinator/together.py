"""What all sites of the roster do before round 0, or none of it counts: draw groups, or come to one encryption key."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedsec.coordinator.draw import ask, drawn_entry, empty_draw
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.coordinator.journal import Journal
from fedsec_secure.codec import Writer, open_packet, seal
from fedsec_secure.errors import AbortError, VerificationError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.ceremony import ceremony_context, dealer_of, verify_offer
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.messages import encode_packets

_TOGETHER = {"commit": "groups are drawn by all sites together", "reveal": "groups are drawn by all sites together"}
_TOGETHER |= dict.fromkeys(("key-offer", "key-deal", "key-take"), "an encryption key is shared by all sites")

Drive = Callable[[Generator[Exchange, Outcome, dict[SiteId, bytes]]], dict[SiteId, bytes]]


@dataclass(frozen=True)
class Ceremony:
    """The requests of a run's key ceremony, and what counts as an answer."""

    driver: Driver

    @property
    def context(self) -> bytes:
        """What every packet of it binds."""
        return ceremony_context(self.driver.plan.digest(), self.driver.run, self.driver.roster.digest())

    @property
    def dealer(self) -> SiteId:
        """Who makes the key."""
        return dealer_of(self.driver.roster)

    def offer_request(self) -> bytes:
        """To every site: which run."""
        return self._sealed("key-offer-request", Writer().text(self.driver.run).done())

    def accept_offer(self, site: SiteId, packet: bytes) -> bytes:
        """A reply that holds, or why not."""
        verify_offer(site, packet, self.context, self.driver.roster)
        return packet

    def deal_request(self, offers: Mapping[SiteId, bytes]) -> bytes:
        """To the dealer: everybody's offers."""
        return self._sealed("key-deal-request", encode_packets(offers))

    def accept_deal(self, site: SiteId, packet: bytes) -> bytes:
        """A reply that holds, or why not. What it seals is not for the coordinator to know."""
        return self._signed("key-deal", site, packet)

    def take_request(self, offers: Mapping[SiteId, bytes], dealt: bytes) -> bytes:
        """To every site: the offers, and what the dealer made of them."""
        return self._sealed("key-take-request", encode_packets(offers) + Writer().blob(dealt).done())

    def accept_take(self, site: SiteId, packet: bytes) -> bytes:
        """A reply that holds, or why not."""
        return self._signed("key-take", site, packet)

    def _signed(self, kind: str, site: SiteId, packet: bytes) -> bytes:
        verify = self.driver.roster.verifier(site)
        open_packet(packet, kind=kind, sender=site, context=self.context, verify=verify)
        return packet

    def _sealed(self, kind: str, body: bytes) -> bytes:
        return seal(kind, COORDINATOR, self.context, body, self.driver.sign)


@dataclass(frozen=True)
class Together:
    """Of one run. ``drive``: makes the exchanges."""

    driver: Driver
    journal: Journal
    drive: Drive

    def drawn(self, resumed: bool) -> Draw:
        """The groups of the run: from the sites, all of them, or after round 0 from the journal."""
        draw, kept = empty_draw(self.driver), self.journal.draw()
        if resumed:
            if kept is None:
                raise VerificationError("the journal has finished rounds, but not the groups that they were in")
            return Draw.restore(kept, draw)
        draw = replace(draw, commitments=self._of_all("commit", draw.commit_request(), draw.accept_commit))
        draw = replace(draw, reveals=self._of_all("reveal", draw.reveal_request(), draw.accept_reveal))
        self.journal.keep_draw(draw.record())
        self.driver.record(drawn_entry(draw))
        return draw

    def share_key(self) -> None:
        """All sites of the roster come to one encryption key, which passes through here sealed."""
        ceremony = Ceremony(self.driver)
        offers = self._of_all("key-offer", ceremony.offer_request(), ceremony.accept_offer)
        dealer = [ceremony.dealer]
        (dealt,) = self._of_all("key-deal", ceremony.deal_request(offers), ceremony.accept_deal, dealer).values()
        self._of_all("key-take", ceremony.take_request(offers, dealt), ceremony.accept_take)

    def _of_all(
        self,
        name: str,
        request: bytes,
        accept: Callable[[SiteId, bytes], bytes],
        sites: Sequence[SiteId] | None = None,
    ) -> dict[SiteId, bytes]:
        """Every site's answer, or of ``sites``: nothing begins without all. AbortError; a resumed run asks again."""
        everybody = self.driver.roster.ids if sites is None else sites

        def enough(found: Mapping[SiteId, bytes]) -> None:
            if missing := [site for site in everybody if site not in found]:
                raise AbortError(
                    f"{_TOGETHER[name]}, and {', '.join(missing)} did not answer `{name}`: without them no round of "
                    "this run id takes place"
                )

        return self.drive(ask(self.driver, name, 0, 0, everybody, request, accept, enough))
