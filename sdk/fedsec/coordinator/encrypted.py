"""A round whose sum the coordinator cannot read: it adds ciphertexts, and learns a digest of what they come to."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fedsec.coordinator.attempt import Attempt, RoundResult, Steps, Summed, Uploaded, open_uploads
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.coordinator.state import EncryptedState, Shapes
from fedsec.coordinator.unmasked import sent
from fedsec.spool import Upload
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import shapes_before
from fedsec.wire import CatchUp, VerdictRequest, verdict_context
from fedsec_secure.codec import DIGEST_BYTES, open_packet, seal_parts, sha256
from fedsec_secure.errors import AbortError, CodecError, LocalMisuseError
from fedsec_secure.he.ring import check_frames
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.checks import check_balance
from fedsec_secure.masking.coordinator_collect import Refused, UploadFacts, sift
from fedsec_secure.masking.coordinator_unmask import ClosedTotal, Unmasked, weighted_total
from fedsec_secure.masking.messages import set_digest
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.record.entries import AggregateEntry


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

    def measured(self, outcome: Outcome) -> tuple[dict[SiteId, UploadFacts], Refused]:
        """Whoever uploads what is no ciphertext is left out, before a sum of all would fail on it."""
        facts, broken = super().measured(outcome)
        parameters = self.driver.parameters(self.adapter.shapes, self.index)
        whole = {site for site, f in facts.items() if f.body_length == parameters.masked_bytes}
        for site in sorted(whole):
            try:
                _check_upload(outcome.uploads()[site], parameters)
            except CodecError as e:
                broken[site] = str(e)
                del facts[site]
        return facts, broken

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
        outcome = yield from self.ask("verdict", dict.fromkeys(summed.witnesses, request), self._agreed)
        digest, verdicts, refused = self._agreed(outcome)
        self.note("refused", "verdict", refused)
        entry = AggregateEntry(
            run=self.driver.run,
            round=self.index,
            sum_sha256=sha256(*frames).hex(),
            adapter_before_sha256=self.adapter.digest().hex(),
            adapter_after_sha256=digest.hex(),
        )
        self.driver.record(entry)
        after = self._after(self.catch_up(summed, b"".join(frames)), digest, verdicts)
        return RoundResult(self.index, after, verdicts, {s: summed.weights[s] for s in summed.heads})

    def _agreed(self, outcome: Outcome) -> tuple[bytes, dict[SiteId, bytes], Refused]:
        """The digest that most sites signed, their packets, and whose do not count; AbortError for too few."""
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
        # Check 126 (forged verdict): what counts is what so many sites computed from the sum that they opened.
        if len(digest) != DIGEST_BYTES or len(said) - len(other) < driver.cohort().floor:
            agree, floor = len(said) - len(other), driver.cohort().floor
            raise AbortError(f"{agree} sites attest one adapter, and {floor} are needed")
        return digest, {site: packets[site] for site in said if site not in other}, refused

    def catch_up(self, summed: Summed, frames: bytes) -> CatchUp:
        """The sum for a site that was away."""
        parameters = self.driver.parameters(self.adapter.shapes, self.index).weighted(summed.weights)
        weight = parameters.public_weight(summed.weights, summed.heads) or 0
        return CatchUp((1,) * len(summed.heads), parameters.weight_max, weight, frames)

    def _after(self, missed: CatchUp, digest: bytes, verdicts: Mapping[SiteId, bytes]) -> EncryptedState:
        """With this round's sum as long as a site may need it."""
        before = self.adapter if isinstance(self.adapter, EncryptedState) else EncryptedState(digest, {}, {}, {})
        behind = {s: before.behind.get(s, self.index) for s in self.driver.roster.ids if s not in verdicts}
        sums = {**before.sums, self.index: missed}
        needed = min(behind.values(), default=self.index + 1)
        shapes = shapes_before(self.driver.plan, self.index + 1, self.first)
        return EncryptedState(digest, shapes, {n: s for n, s in sums.items() if n >= needed}, behind)


@dataclass(frozen=True)
class SharedKeyAttempt(EncryptedAttempt):
    """The same where there are no masks, and the coordinator multiplies each ciphertext by its site's weight."""

    def uploaded(self) -> Generator[Exchange, Outcome, Uploaded]:
        """`train`, `encrypt`; cohorts that are close to an earlier one are left for the next attempt."""
        length = self.driver.parameters(self.adapter.shapes, self.index).masked_bytes
        found = yield from sent(self, "encrypt", length)
        cohort = self.driver.cohort()
        kept = self.kept(sorted(found.heads), cohort.floor, "encrypt")
        check_balance(found.weights, kept, cohort, "the uploads that are left")
        return replace(found, heads={site: found.heads[site] for site in kept})

    def summed(self, uploaded: Uploaded) -> Generator[Exchange, Outcome, Summed]:
        """Without an exchange: the sum stays closed."""
        yield from ()
        heads, weights = uploaded.heads, uploaded.weights
        with open_uploads(uploaded) as sources:
            parameters = self.driver.parameters(self.adapter.shapes, self.index)
            total = weighted_total(sources, {site: weights[site] for site in sorted(heads)}, parameters)
        self.survivors(set_digest("U3", heads), heads)
        return Summed(heads, weights, total, self.context, tuple(sorted(heads)))

    def catch_up(self, summed: Summed, frames: bytes) -> CatchUp:
        """The sum for a site that was away, with what it has to multiply the ciphertexts' other half by."""
        parameters = self.driver.parameters(self.adapter.shapes, self.index)
        weight = parameters.public_weight(summed.weights, summed.heads) or 0
        factors = tuple(summed.weights[site] for site in sorted(summed.heads))
        return CatchUp(factors, parameters.weight_max, weight, frames)


def _check_upload(path: Path, parameters: SumParameters) -> None:
    """CodecError unless the spooled upload is residues alone."""
    if parameters.encryption is None:
        raise LocalMisuseError("expected uploads of a plan that encrypts them")
    with closing(Upload(path).words()) as source:
        check_frames(source, parameters.encryption, parameters.words)
