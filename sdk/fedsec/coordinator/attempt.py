"""One attempt of one round: a generator over exchanges, without clock, network or randomness."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Outcome, Settle
from fedsec.coordinator.state import State
from fedsec.spool import Upload, UploadWords
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import after_sum
from fedsec.wire import (
    TrainRequest,
    VerdictRequest,
    verdict_context,
)
from fedsec_secure.codec import open_packet, seal, seal_parts, sha256
from fedsec_secure.errors import AbortError, CodecError, LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.checks import close_cohort
from fedsec_secure.masking.coordinator_collect import (
    Confirmed,
    Masked,
    Refused,
    Shared,
    Stated,
    UploadFacts,
    require,
    sift,
)
from fedsec_secure.masking.coordinator_unmask import ClosedTotal, Total, Unmasked
from fedsec_secure.masking.parameters import RoundContext
from fedsec_secure.masking.vector import decode_sum
from fedsec_secure.numeric.lanes import Words
from fedsec_secure.record.entries import (
    AggregateEntry,
    RoundStartedEntry,
    SurvivorsEntry,
)

Steps = Generator[Exchange, Outcome, "RoundResult"]
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class RoundResult:
    """A round that enough sites attested."""

    round: int
    adapter: State
    verdicts: Mapping[SiteId, bytes]
    weights: Mapping[SiteId, int]
    """Of the survivors, in the order of their names; all 1 where counts are hidden."""

    @property
    def survivors(self) -> tuple[SiteId, ...]:
        """Who is in the sum."""
        return tuple(self.weights)


@dataclass(frozen=True)
class Uploaded:
    """Every survivor's upload is spooled and verified. ``masked`` is None where there are no masks."""

    heads: Mapping[SiteId, bytes]
    files: Mapping[SiteId, Path]
    weights: Mapping[SiteId, int]
    """Of U1, public."""
    masked: Masked | None


@dataclass(frozen=True)
class Summed:
    """An exact sum over known survivors, and the sites that can judge it."""

    heads: Mapping[SiteId, bytes]
    weights: Mapping[SiteId, int]
    """Of U1, public."""
    total: Total | ClosedTotal
    context: bytes
    witnesses: tuple[SiteId, ...]

    @property
    def words(self) -> Words:
        """The sum itself; LocalMisuseError where it is encrypted."""
        if not isinstance(self.total, Total):
            raise LocalMisuseError("an encrypted sum is not decoded at the coordinator")
        return self.total.words


@dataclass(frozen=True)
class Ended:
    """A round whose sum is decoded: what it leads to, and what its sites are shown of it."""

    adapter: AdapterState
    weights: Mapping[SiteId, int]
    """The survivors' public weights."""
    witnesses: tuple[SiteId, ...]
    request: bytes
    entry: AggregateEntry


@dataclass(frozen=True)
class Attempt:
    """One attempt of round ``index`` from ``adapter``, which ``verdicts`` attest."""

    driver: Driver
    index: int
    attempt: int
    adapter: State
    verdicts: Mapping[SiteId, bytes]
    history: Sequence[frozenset[SiteId]]

    @property
    def context(self) -> bytes:
        """What every message of the attempt binds."""
        plan, roster = self.driver.plan.digest(), self.driver.roster.digest()
        return RoundContext(plan, self.driver.run, self.index, self.attempt, roster, self.adapter.digest()).digest()

    def ask(
        self, name: str, requests: Mapping[SiteId, bytes], settle: Settle | None = None
    ) -> Generator[Exchange, Outcome, Outcome]:
        """One exchange; who is lost in it is noted. ``settle``: from `confirm` on, as no other attempt can follow."""
        deadline = self.driver.plan.deadline_seconds
        outcome = yield Exchange(name, self.index, self.attempt, requests, deadline, settle)
        self.note("lost", name, outcome.lost)
        return outcome

    def note(self, event: str, name: str, sites: Mapping[SiteId, str]) -> None:
        """Report and log who is out of an exchange, and why."""
        self.driver.note(event, self.index, name, sites)

    def train(self) -> Generator[Exchange, Outcome, Outcome]:
        """`train`, to everyone."""
        driver, context = self.driver, self.context.hex()
        driver.record(RoundStartedEntry(run=driver.run, round=self.index, attempt=self.attempt, context_sha256=context))
        return (yield from self.ask("train", self.train_requests()))

    def train_requests(self) -> dict[SiteId, bytes]:
        """The same bytes to every site: the adapter, and who attests it."""
        return dict.fromkeys(self.driver.roster.ids, self.train_request(self.known.to_bytes()))

    def train_request(self, start: bytes) -> bytes:
        """``start``: what the round starts from."""
        body = TrainRequest(self.driver.run, self.index, self.attempt, start, self.verdicts).encode()
        return seal("train-request", COORDINATOR, self.context, body, self.driver.sign)

    @property
    def known(self) -> AdapterState:
        """The adapter, where the coordinator has it."""
        if not isinstance(self.adapter, AdapterState):
            raise LocalMisuseError("the sums of this plan are encrypted: the coordinator has no adapter")
        return self.adapter

    def uploaded(self) -> Generator[Exchange, Outcome, Uploaded]:
        """`train`, `share`, `mask`: may be tried again as another attempt."""
        driver, group = self.driver, self.driver.group()
        trained = yield from self.train()
        parameters = driver.parameters(self.adapter.shapes, self.index)
        stated, refused = Stated.collect(group, parameters, self.context, driver.sign, trained.small())
        self.note("refused", "train", refused)
        dealt = yield from self.ask("share", stated.share_requests())
        shared, refused = Shared.gather(stated, dealt.small())
        self.note("refused", "share", refused)
        outcome = yield from self.ask("mask", shared.mask_requests())
        facts, broken = self.measured(outcome)
        state, refused = Masked.gather(shared, facts)
        self.note("refused", "mask", refused | broken)
        state = self.far_enough(state)
        return Uploaded(state.heads, outcome.uploads(), stated.weights, state)

    def measured(self, outcome: Outcome) -> tuple[dict[SiteId, UploadFacts], Refused]:
        """What the spool has of each upload, and which ones cannot be part of any sum, and why."""
        return measure(outcome)

    def far_enough(self, state: Masked) -> Masked:
        """Survivors that no site refuses for being close to an earlier cohort."""
        kept = self.kept(sorted(state.heads), state.shared.group.floor, "mask")
        return state if len(kept) == len(state.heads) else state.restricted(kept)

    def kept(self, names: list[SiteId], floor: int, exchange: str) -> list[SiteId]:
        """All that are here, or in the last attempt fewer, so that no earlier cohort is close: its sum and this one
        would tell about the few that are in one of them. Before the last attempt AbortError, so that the next may find
        all sites again.
        """
        secure = self.driver.plan.secure
        least = secure.min_cohort_change if self.driver.plan.dp.mode == "none" else 1
        before = close_cohort(frozenset(names), self.history, least)
        if before is None:
            return names
        here = f"U3 has {len(names)} sites and differs from an earlier cohort by fewer than {least}"
        if self.attempt < MAX_ATTEMPTS - 1:
            raise AbortError(f"{here}; trying again with all")
        while len(names) > floor:
            left_out = names.pop()
            self.note("left-out", exchange, {left_out: f"{here}, and would not without this site"})
            if close_cohort(frozenset(names), self.history, least) is None:
                return names
        raise AbortError(f"{here}, and so do all smaller ones down to {floor}")

    def summed(self, uploaded: Uploaded) -> Generator[Exchange, Outcome, Summed]:
        """`confirm` and `unmask`; then the sum."""
        state = uploaded.masked
        if state is None:
            raise LocalMisuseError("expected masked uploads")
        signed = yield from self.ask("confirm", state.confirm_requests(), lambda o: Confirmed.gather(state, o.small()))
        confirmed, refused = Confirmed.gather(state, signed.small())
        self.note("refused", "confirm", refused)
        self.survivors(state.digest, state.heads)
        requests = confirmed.unmask_requests()
        revealed = yield from self.ask("unmask", requests, lambda o: Unmasked.gather(confirmed, o.small()))
        unmasked, refused = Unmasked.gather(confirmed, revealed.small())
        self.note("refused", "unmask", refused)
        summed = self.total(unmasked, uploaded)
        witnesses = tuple(sorted(revealed.small()))
        return Summed(state.heads, uploaded.weights, summed, state.shared.bound, witnesses)

    def total(self, unmasked: Unmasked, uploaded: Uploaded) -> Total | ClosedTotal:
        """The sum of the survivors' uploads without their masks."""
        with open_uploads(uploaded) as sources:
            return unmasked.total(sources)

    def survivors(self, digest: bytes, heads: Mapping[SiteId, bytes]) -> None:
        """Into the log."""
        sites, run = tuple(sorted(heads)), self.driver.run
        self.driver.record(SurvivorsEntry(run=run, round=self.index, sites=sites, uploads_sha256=digest.hex()))

    def finish(self, uploaded: Uploaded) -> Steps:
        """Sum, decode, and let the sites judge: the new adapter counts once the floor has signed its digest."""
        ended = self.ended((yield from self.summed(uploaded)))
        verdicts = yield from self.judged(ended)
        self.driver.record(ended.entry)
        return RoundResult(self.index, ended.adapter, verdicts, ended.weights)

    def ended(self, summed: Summed) -> Ended:
        """What follows from a sum, and the request that shows it to the sites."""
        parameters = self.driver.parameters(self.adapter.shapes, self.index).weighted(summed.weights)
        words, weight = summed.words, parameters.public_weight(summed.weights, summed.heads)
        decoded = decode_sum(parameters, words, len(summed.heads), weight)
        new = after_sum(self.driver.plan, self.index, self.known, decoded.mean)
        del decoded  # its mean is as large as the adapter
        parts = VerdictRequest(summed.heads, summed.total.tag, words.view("u1").data).parts()
        request = seal_parts("verdict-request", COORDINATOR, summed.context, parts, self.driver.sign)
        entry = AggregateEntry(
            run=self.driver.run,
            round=self.index,
            sum_sha256=sha256(words.view("u1").data).hex(),
            adapter_before_sha256=self.adapter.digest().hex(),
            adapter_after_sha256=new.digest().hex(),
        )
        return Ended(new, {s: summed.weights[s] for s in summed.heads}, summed.witnesses, request, entry)

    def judged(self, ended: Ended) -> Generator[Exchange, Outcome, dict[SiteId, bytes]]:
        """`verdict`: at least the floor's number of signatures on what follows."""
        digest = ended.adapter.digest()
        requests = dict.fromkeys(ended.witnesses, ended.request)
        outcome = yield from self.ask("verdict", requests, lambda outcome: self._judge(outcome, digest))
        verdicts, refused = self._judge(outcome, digest)
        self.note("refused", "verdict", refused)
        return verdicts

    def _judge(self, outcome: Outcome, digest: bytes) -> tuple[dict[SiteId, bytes], Refused]:
        driver = self.driver
        context = verdict_context(driver.plan.digest(), driver.run, self.index, driver.roster.digest())

        def accept(site: SiteId, packet: bytes) -> bytes:
            verify = driver.roster.verifier(site)
            body = open_packet(packet, kind="verdict", sender=site, context=context, verify=verify)
            # Check 70 (forged verdict): sites attest the adapter that the coordinator has.
            if bytes(body) != digest:
                raise PeerViolationError(f"{site} computed another adapter from the same sum")
            return packet

        verdicts, refused = sift(outcome.small(), accept)
        require(len(verdicts), driver.cohort(), "the verdict")
        return verdicts, refused


def measure(outcome: Outcome) -> tuple[dict[SiteId, UploadFacts], Refused]:
    """What the spool has of each upload."""
    facts: dict[SiteId, UploadFacts] = {}
    broken: Refused = {}
    for site, path in outcome.uploads().items():
        try:
            facts[site] = Upload(path).facts()
        except CodecError as e:
            broken[site] = str(e)
    return facts, broken


@contextmanager
def open_uploads(uploaded: Uploaded) -> Iterator[dict[SiteId, UploadWords]]:
    """Their words, to be read once."""
    with ExitStack() as stack:
        sources = {s: Upload(uploaded.files[s]).words() for s in uploaded.heads}
        for source in sources.values():
            stack.callback(source.close)
        yield sources
