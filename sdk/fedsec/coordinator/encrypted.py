"""A round whose sum the coordinator cannot read: it adds ciphertexts, takes masks away inside, and learns a digest.

Before round 0 it carries the packets of the key ceremony, which every site of the roster has to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedsec.coordinator.attempt import Attempt, RoundResult, Steps, Summed, Uploaded, open_uploads
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Outcome
from fedsec.coordinator.state import EncryptedState, Shapes
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import shapes_before
from fedsec.wire import CatchUp, VerdictRequest, verdict_context
from fedsec_secure.codec import DIGEST_BYTES, Writer, open_packet, seal, seal_parts, sha256
from fedsec_secure.errors import AbortError, LocalMisuseError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.ceremony import ceremony_context, dealer_of, verify_offer
from fedsec_secure.masking.coordinator_collect import sift
from fedsec_secure.masking.coordinator_unmask import ClosedTotal, Unmasked
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.record.entries import AggregateEntry


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
class EncryptedAttempt(Attempt):
    """One attempt of a round whose uploads are encrypted. ``first``: shapes of what round 0 starts from."""

    first: Shapes

    def train_requests(self) -> dict[SiteId, bytes]:
        """Round 0 starts from the plan's adapter, later ones from a digest, and from sums that a site missed."""
        state = self.adapter
        if isinstance(state, AdapterState):
            return super().train_requests()
        present = self.train_request(EncryptedState(state.value, state.shapes, {}, {}).start_of(SiteId("")).encode())
        requests = dict.fromkeys(self.driver.roster.ids, present)
        return requests | {site: self.train_request(state.start_of(site).encode()) for site in state.behind}

    def total(self, unmasked: Unmasked, uploaded: Uploaded) -> ClosedTotal:
        """Encrypted, under a key that is not here."""
        encryption = unmasked.confirmed.masked.shared.parameters.encryption
        if encryption is None:
            raise LocalMisuseError("expected uploads of a plan that encrypts them")
        with open_uploads(uploaded) as sources:
            return unmasked.closed_total(sources, encryption)

    def finish(self, uploaded: Uploaded) -> Steps:
        """The sites open the sum; what enough of them sign is what it led to."""
        summed = yield from self.summed(uploaded)
        if not isinstance(summed.total, ClosedTotal):
            raise LocalMisuseError("expected an encrypted sum")
        frames = summed.total.frames.parts()
        head = VerdictRequest(summed.heads, summed.total.tag, b"").parts()
        request = seal_parts("verdict-request", COORDINATOR, summed.context, [*head, *frames], self.driver.sign)
        outcome = yield from self.ask("verdict", dict.fromkeys(summed.witnesses, request))
        digest, verdicts = self._agreed(outcome)
        entry = AggregateEntry(
            run=self.driver.run,
            round=self.index,
            sum_sha256=sha256(*frames).hex(),
            adapter_before_sha256=self.adapter.digest().hex(),
            adapter_after_sha256=digest.hex(),
        )
        self.driver.record(entry)
        after = self._after(summed, digest, verdicts, b"".join(frames))
        return RoundResult(self.index, after, verdicts, {s: summed.weights[s] for s in summed.heads})

    def _agreed(self, outcome: Outcome) -> tuple[bytes, dict[SiteId, bytes]]:
        """The digest that most sites signed, and their packets; AbortError where those are too few."""
        driver = self.driver
        context = verdict_context(driver.plan.digest(), driver.run, self.index, driver.roster.digest())

        def read(site: SiteId, packet: bytes) -> bytes:
            verify = driver.roster.verifier(site)
            return bytes(open_packet(packet, kind="verdict", sender=site, context=context, verify=verify))

        packets = outcome.small()
        said, refused = sift(packets, read)
        counted = list(said.values())
        digest = max(sorted(set(counted)), key=counted.count, default=b"")
        other = {site for site, value in said.items() if value != digest}
        refused |= dict.fromkeys(other, "computed another adapter from the same sum than most sites")
        self.note("refused", "verdict", refused)
        # Check 126 (forged verdict): what counts is what so many sites computed from the sum that they opened.
        if len(digest) != DIGEST_BYTES or len(said) - len(other) < driver.cohort().floor:
            agree, floor = len(said) - len(other), driver.cohort().floor
            raise AbortError(f"{agree} sites attest one adapter, and {floor} are needed: the run ends here")
        return digest, {site: packets[site] for site in said if site not in other}

    def _after(self, summed: Summed, digest: bytes, verdicts: Mapping[SiteId, bytes], frames: bytes) -> EncryptedState:
        """With this round's sum as long as a site may need it."""
        parameters = self.driver.parameters(self.adapter.shapes, self.index).weighted(summed.weights)
        weight = parameters.public_weight(summed.weights, summed.heads) or 0
        before = self.adapter if isinstance(self.adapter, EncryptedState) else EncryptedState(digest, {}, {}, {})
        behind = {s: before.behind.get(s, self.index) for s in self.driver.roster.ids if s not in verdicts}
        sums = {**before.sums, self.index: CatchUp(len(summed.heads), parameters.weight_max, weight, frames)}
        needed = min(behind.values(), default=self.index + 1)
        shapes = shapes_before(self.driver.plan, self.index + 1, self.first)
        return EncryptedState(digest, shapes, {n: s for n, s in sums.items() if n >= needed}, behind)
