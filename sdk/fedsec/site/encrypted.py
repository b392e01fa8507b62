"""A site of a plan whose uploads are encrypted under a key of all sites, and whose sums are opened here.

Before round 0 the sites of the roster come to one key: `key-offer`, `key-deal`, `key-take`. In `verdict` the sum's
encryption comes back; this site opens it, checks its tag, and goes on from what follows: the coordinator has neither
sum nor adapter to send. Whatever does not open to what the tag says ends the run here and destroys the key: there is no
second question to an oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from fedsec.encryption.workers import UNOPENED, EncryptionWorkers
from fedsec.plan.model import Plan
from fedsec.site.agent import SiteAgent
from fedsec.site.end import Reply, claimed_context
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.provenance import check_first, check_next
from fedsec.site.store import SiteStore
from fedsec.site.store_answers import Place
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import after_sum
from fedsec.wire import CatchUp, EncryptedStart, TrainRequest
from fedsec_secure.codec import Buffer, Reader, open_packet, seal
from fedsec_secure.errors import CodecError, FedsecError, LocalMisuseError, PeerViolationError
from fedsec_secure.he.parameters import BfvParameters
from fedsec_secure.he.ring import SumFrames
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.ceremony import SiteOffered, ceremony_context, deal, dealer_of, fingerprint, take
from fedsec_secure.masking.checks import open_request
from fedsec_secure.masking.messages import decode_packets, read_packets, set_digest
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.vector import decode_sum
from fedsec_secure.numeric.lanes import Floats, Words

_WORTH_A_SECOND = 1 << 20
"""Words from which a second worker earns its start."""


class EncryptedAgent(SiteAgent):
    """One site of a plan whose sums are encrypted. How its uploads are made is its mode's."""

    def __init__(self, identity: SiteIdentity, plan: Plan, store: SiteStore, work: SiteWork) -> None:
        super().__init__(identity, plan, store, work)
        ceremony: dict[str, Callable[[bytes], Reply]] = {
            "key-offer": self._offer,
            "key-deal": self._deal,
            "key-take": self._take,
        }
        self._end.final = self.final_adapter
        self._end.after = lambda run: store.keys.destroy(run, identity.charges.pin)
        self._handlers = {**ceremony, **self._handlers}

    def final_adapter(self, run: str) -> AdapterState:
        """The adapter that the run's last sum led to. PeerViolationError where this site was away then."""
        if self._store.newest_round(run) != self._plan.rounds:
            raise PeerViolationError(f"this site has not opened the last sum of run {run}: it has no adapter of it")
        return self._parsed(self._store.adapter(run, self._plan.rounds), Place(run, self._plan.rounds, 0))

    def held(self, run: str, round_index: int) -> AdapterState | None:
        """What round ``round_index`` starts from, where this site has it."""
        if self._store.newest_round(run) != round_index:
            return None
        return self._parsed(self._store.adapter(run, round_index), Place(run, round_index, 0))

    def _place(self, name: str, body: bytes) -> Place | None:
        """The ceremony belongs to a run, and counts as before its first round."""
        if name == "key-offer":
            return Place(self._run_of_offer(body), 0, 0)
        if name in {"key-deal", "key-take"}:
            return Place(self._run_of_ceremony(body), 0, 0)
        return super()._place(name, body)

    # ---- the key

    def _context_of(self, run: str) -> bytes:
        return ceremony_context(self._plan_digest, run, self._roster.digest())

    def _run_of_offer(self, body: bytes) -> str:
        verify = self._roster.verifier(COORDINATOR)
        packet = open_packet(body, kind="key-offer-request", sender=COORDINATOR, context=None, verify=verify)
        r = Reader(packet, "key offer request")
        run = r.text(most=64)
        r.done()
        # Check 122 (replay): the request is for the plan and run that it carries.
        if claimed_context(body) != self._context_of(run):
            raise PeerViolationError("the key offer request is signed for another plan, run or roster")
        return run

    def _run_of_ceremony(self, body: bytes) -> str:
        claimed = claimed_context(body)
        return self._store.runs.which(self._plan_digest, lambda run: self._context_of(run) == claimed)

    def _offer(self, body: bytes) -> Reply:
        run = self._run_of_offer(body)
        self._admit(Place(run, 0, 0), 0)
        known = self._store.keys.offer(run)
        if known is not None:
            return known
        state = SiteOffered.begin(self._id.me, self._context_of(run), self._id.key.sign)
        self._store.keys.save_offered(run, state, dealer_of(self._roster))
        return state.packet

    def _deal(self, body: bytes) -> Reply:
        run = self._run_of_ceremony(body)
        self._end.require_open(run)
        offers = decode_packets(open_request("key-deal", body, self._context_of(run), self._cohort), "key deal request")
        digest, known = set_digest("key offers", offers), self._store.keys.dealt(run)
        if known is not None:
            # Check 123 (split keys): a dealer deals one key a run, to one set of offers.
            if known[0] != digest:
                raise PeerViolationError(f"the encryption key of run {run} was dealt to another set of offers")
            return known[1]
        _, packet = deal(self._store.keys.offered(run), offers, self._roster, self._id.key.sign)
        self._store.keys.save_dealt(run, digest, packet)
        return packet

    def _take(self, body: bytes) -> Reply:
        run = self._run_of_ceremony(body)
        self._end.require_open(run)
        context = self._context_of(run)
        r = Reader(open_request("key-take", body, context, self._cohort), "key take request")
        offers, dealt = read_packets(r, "key take request"), r.blob(most=1 << 20)
        r.done()
        known = self._store.keys.reply(run)
        if known is not None:
            return known
        key = take(self._store.keys.offered(run), offers, dealt, self._roster)
        reply = seal("key-take", self._id.me, context, fingerprint(key, context), self._id.key.sign)
        self._store.keys.save_key(run, key, reply)
        return reply

    def _workers(self, place: Place, words: int, what: str) -> EncryptionWorkers:
        """``what``: "encrypt" or "decrypt", for whoever watches."""
        event: dict[str, object] = {"event": what, "site": self._id.me, "round": place.round, "steps": words}
        count = 1 if words < _WORTH_A_SECOND else None
        return EncryptionWorkers(self._store.keys.key(place.run), count, lambda n: self.progress(event | {"step": n}))

    # ---- a round

    @contextmanager
    def _last_chance(self, run: str) -> Iterator[None]:
        """Whatever is refused in here depends on the key: it looks the same from outside, and happens once."""
        self._store.keys.key(run)  # without one there is nothing to destroy, and a reason to say
        try:
            yield
        except LocalMisuseError:
            raise  # this machine's fault, before anything was opened
        except FedsecError:
            # Check 124 (decryption oracle): the first sum that does not open is the last one that is tried.
            self._store.keys.destroy(run, self._id.charges.pin)
            raise PeerViolationError(f"{UNOPENED}: the encryption key of run {run} is destroyed here") from None

    def _opened(self, place: Place, frames: Buffer, parameters: SumParameters, factors: Sequence[int]) -> Words:
        """``factors``: what each ciphertext was multiplied by."""
        encryption = _of(parameters)
        encryption.check_weights(sum(factors))
        total = SumFrames.decode(frames, encryption, parameters.words, len(factors))
        with self._workers(place, parameters.words, "decrypt") as workers:
            return workers.decrypt(total, parameters.words, factors)

    def _verdict(self, body: bytes) -> Reply:
        """The next round starts here, from what this site has opened."""
        place, new, reply = self._judge(body)
        self._store.answers.claim(place, "verdict", self._table)
        self._store.pass_on(place, (claimed_context(body), body, reply), new.digest(), new.to_bytes())
        return reply

    # ---- where a round starts

    def _announced(self, request: TrainRequest, place: Place) -> tuple[bytes, Callable[[], AdapterState]]:
        if place.round == 0:
            return super()._announced(request, place)
        start = EncryptedStart.decode(request.adapter)
        return start.digest, lambda: self._begins_with(place, start, request)

    def _begins_with(self, place: Place, start: EncryptedStart, request: TrainRequest) -> AdapterState:
        held = self.held(place.run, place.round)
        if held is not None and held.digest() == start.digest:
            return held
        own = self._store.result(place.run, place.round - 1)
        check_next(start.digest, own, request.verdicts, self._attested(place), self._cohort)
        with self._last_chance(place.run):
            found = self._caught_up(place, start)
            # Check 125 (decryption oracle): sums that this site missed lead to the adapter that others attest.
            if found.digest() != start.digest:
                raise CodecError("the sums that this site missed lead to another adapter")
            return found

    def _caught_up(self, place: Place, start: EncryptedStart) -> AdapterState:
        """From the newest state that this site has, through the sums of the rounds since."""
        first = max(0, self._store.newest_round(place.run))
        state = self.held(place.run, first) or self._work.initial_adapter()
        for number in range(first, place.round):
            missed = start.missed.get(number)
            if missed is None:
                raise CodecError(f"the sum of round {number}, which this site missed, is not there")
            state = after_sum(self._plan, number, state, self._mean(place, number, state, missed))
        return state

    def _mean(self, place: Place, number: int, state: AdapterState, missed: CatchUp) -> Floats:
        parameters = replace(self._parameters(state, replace(place, round=number)), weight_max=missed.weight_max)
        words = self._opened(place, missed.frames, parameters, missed.factors)
        public = None if parameters.hidden_weight else missed.total_weight
        return decode_sum(parameters, words, sum(missed.factors), public).mean

    def _start(self, place: Place, adapter: AdapterState, request: TrainRequest) -> None:
        if place.round == 0:
            check_first(adapter, self._work.initial_adapter())
        self._store.keys.key(place.run)  # no training for a sum that this site cannot open
        self._store.start_round(place.run, place.round, adapter.digest(), adapter.to_bytes())


def _of(parameters: SumParameters) -> BfvParameters:
    if parameters.encryption is None:
        raise LocalMisuseError("expected the sum of a plan that encrypts it")
    return parameters.encryption
