"""The site agent: answers the coordinator's exchanges, and decides for itself what it answers.

``handle(name, body)`` is the whole interface. Order of every handler: the officer's approval still holds; answered
before?; the signature; strict parsing; the context; the work; the record, durably; then the reply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np

from fedsec.plan.cost import SCORE, UPDATE, distributed_step
from fedsec.plan.model import Plan
from fedsec.plan.specs import RUN_ID
from fedsec.site.end import Reply, RunEnd, canaries_of, claimed_context
from fedsec.site.identity import Progress, SiteIdentity, SiteWork
from fedsec.site.notes import Notes
from fedsec.site.own_log import OwnLog
from fedsec.site.provenance import check_first, check_next
from fedsec.site.store import SiteStore, StoredUpdate
from fedsec.site.store_answers import Place
from fedsec.storage import explained
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import adapter_of, after_sum, factors_of, shapes_before
from fedsec.training.strategies import local_update, personal_vector, shared_names, with_personal
from fedsec.wire import (
    TrainRequest,
    VerdictRequest,
    core_roster,
    sum_parameters,
    verdict_context,
)
from fedsec_secure.codec import open_packet, seal, sha256
from fedsec_secure.errors import AbortError, FedsecError, LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.masking.checks import close_cohort, open_request
from fedsec_secure.masking.keys import rounding_key
from fedsec_secure.masking.parameters import Cohort, RoundContext, SumParameters
from fedsec_secure.masking.site_masked import Contribution, NoisyContribution
from fedsec_secure.masking.site_stated import SiteStated
from fedsec_secure.masking.transitions import Table
from fedsec_secure.masking.vector import Decoded
from fedsec_secure.numeric.lanes import Words


class SiteAgent(ABC):
    """One site of one plan. What happens between `train` and `verdict` is its mode's."""

    _table: Table
    """What is answered, and in which order."""
    progress: Progress = staticmethod(lambda event: None)
    """Of encrypting and decrypting; the work tells its own. What it raises is dropped."""

    def __init__(self, identity: SiteIdentity, plan: Plan, store: SiteStore, work: SiteWork) -> None:
        approval = identity.authorise()
        self._id = identity
        self._plan = plan
        self._plan_digest = plan.digest()
        self._store = store
        self._work = work
        self._integers = plan.dp.mode == "distributed"
        self._roster: Roster = core_roster(plan)
        # Check 54 (key substitution): the plan names this site with its own key.
        if self._roster.sites.get(identity.me) != identity.key.public:
            raise PeerViolationError(f"the plan's roster does not name {identity.me} with this site's key")
        store.keys.sweep(identity.charges.pin)
        self.log = OwnLog(store.folder, store.log)
        self._note = Notes(self.log, identity, plan, store)
        self._note.allowed(approval)
        self._cohort = self._joined(max(plan.secure.minimum_cohort, identity.policy.minimum_cohort))
        every = {"train": self._train, "verdict": self._verdict, **self._uploading()}
        answered = {name: every[name] for name in self._table.exchanges}
        work.plant(canaries_of(identity, plan))
        self._end = RunEnd(identity, plan, store, work, self._cohort)
        self._handlers: Mapping[str, Callable[[bytes], Reply]] = {**answered, **self._end.handlers}

    @abstractmethod
    def _joined(self, floor: int) -> Cohort:
        """Who takes part, and how few may stay: ``floor`` or more."""

    @abstractmethod
    def _uploading(self) -> dict[str, Callable[[bytes], Reply]]:
        """The handlers between `train` and `verdict`."""

    def handle(self, name: str, body: bytes) -> Reply:
        """Answer one exchange: bytes, or the path of an upload. FedsecError where this site refuses."""
        try:
            with explained("this site's disk", "Nothing was answered; with room there, it answers again"):
                reply = self._answer(name, body)
                self._id.charges.pin()
                self._note.answered(name, body, reply, self._place(name, body))
        except FedsecError as e:
            self._note.refused(name, str(e))
            raise
        return reply

    def _place(self, name: str, body: bytes) -> Place | None:
        """Where a request was answered, as far as it belongs to a round."""
        return self._store.answers.place_of(name, body)

    def _answer(self, name: str, body: bytes) -> Reply:
        # Check 55 (withdrawn approval): read anew before every answer.
        self._id.authorise()
        handler = self._handlers.get(name)
        if handler is None:
            raise PeerViolationError(f"expected one of {', '.join(self._handlers)}, found exchange {name!r}")
        stored = self._store.answers.answered(name, body)
        return stored if stored is not None else handler(body)

    # ---- train

    def _train(self, body: bytes) -> Reply:
        packet = open_packet(
            body,
            kind="train-request",
            sender=COORDINATOR,
            context=None,
            verify=self._roster.verifier(COORDINATOR),
        )
        request = TrainRequest.decode(packet)
        place = Place(request.run, request.round, request.attempt)
        digest, begin = self._announced(request, place)
        context = self._context(place, digest)
        # Check 56 (replay): the request is for the plan, round and adapter that it carries.
        if claimed_context(body) != context:
            raise PeerViolationError("the train request is signed for another plan, run, round, roster or adapter")
        self._admit(place, place.round)
        self._store.answers.claim(place, "train", self._table)
        adapter = begin()
        self._start(place, adapter, request)
        update = self._ensure_update(place, adapter)
        if self._plan.weighting.private is not None and update.score is not None:
            self._id.charges.spend(place.run, place.round, SCORE, sha256(bytes([update.score])))
        state = SiteStated.begin(self._id.me, context, update.sha256, self._id.key.sign, update.score)
        self._store.answers.save(place, "train", context, body, state.record(), state.statement)
        return state.statement

    def _admit(self, place: Place, last: int) -> None:
        """Whether this site takes part in the rounds from ``place`` to ``last`` at all."""
        # Check 57 (extra rounds): the plan's rounds and no more.
        if not RUN_ID.fullmatch(place.run) or last >= self._plan.rounds:
            raise PeerViolationError(f"expected a run id of [a-z0-9-] and a round below {self._plan.rounds}")
        cohort = frozenset(key.hex for key in self._roster.sites.values())
        self._store.runs.begin(place.run, self._plan_digest, cohort, self._id.policy.max_runs)
        self._end.require_open(place.run)
        # Check 58 (replayed round): no way back to an earlier round.
        if place.round < self._store.newest_round(place.run):
            raise PeerViolationError(f"round {place.round} is behind this site: it has started a later one")

    def _parsed(self, adapter: bytes, place: Place) -> AdapterState:
        """The state that a round starts from, of the names and shapes that it has there."""
        shapes = self._work.initial_adapter().shapes
        return AdapterState.from_bytes(adapter, shapes_before(self._plan, place.round, shapes))

    def _announced(self, request: TrainRequest, place: Place) -> tuple[bytes, Callable[[], AdapterState]]:
        """The digest of what a round starts from, and how to have it once the request is known to be for this round."""
        adapter = self._parsed(request.adapter, place)
        return adapter.digest(), lambda: adapter

    def _start(self, place: Place, adapter: AdapterState, request: TrainRequest) -> None:
        """Bind the round to its adapter: the plan's first one, or one that this site or enough others verified."""
        if place.round == 0:
            check_first(adapter, self._work.initial_adapter())
        else:
            own = self._store.result(place.run, place.round - 1)
            check_next(adapter.digest(), own, request.verdicts, self._attested(place), self._cohort)
        self._store.start_round(place.run, place.round, adapter.digest(), request.adapter)

    def _context(self, place: Place, adapter: bytes) -> bytes:
        roster = self._round_roster(place.run).digest()
        return RoundContext(self._plan_digest, place.run, place.round, place.attempt, roster, adapter).digest()

    def _round_roster(self, run: str) -> Roster:
        """Whose messages the rounds of a run are about: everybody's, or those of this site's group."""
        return self._roster

    def _attested(self, place: Place) -> bytes:
        """The context of the verdicts that attest the adapter of this round."""
        return verdict_context(self._plan_digest, place.run, place.round - 1, self._roster.digest())

    def _ensure_update(self, place: Place, adapter: AdapterState) -> StoredUpdate:
        """Train once a round; every attempt sends the same update, and states the same score."""
        stored = self._store.update(place.run, place.round)
        if stored is not None:
            return stored
        self._id.charges.reserve(place.run, place.round, UPDATE)
        if self._integers:
            noisy = self._work.noisy_sum(factors_of(adapter), distributed_step(self._plan))
            self._store.save_update(place.run, place.round, noisy.astype("<i4", copy=False).view("<f4"), 1)
        else:
            self._train_update(place, adapter)
        saved = self._store.update(place.run, place.round)
        assert saved is not None
        return saved

    def _train_update(self, place: Place, adapter: AdapterState) -> None:
        checkpoint = self._store.checkpoint_path(place.run, f"round-{place.round}")
        strategy = self._plan.lora.strategy
        own = self._store.personal.newest(place.run, place.round)
        start = with_personal(strategy, factors_of(adapter), own)
        trained = self._work.train(start, place.run, place.round, checkpoint)
        update = local_update(strategy, start, trained, place.round)
        # Check 63 (not a number): nothing that diverged is stored.
        if not np.isfinite(update).all():
            raise LocalMisuseError("training gave NaN or infinity: lower the learning rate")
        if self._plan.weighting.private is not None:
            self._id.charges.reserve(place.run, place.round, SCORE)
        kept, score = personal_vector(strategy, trained), self._work.score(adapter_of(trained))
        self._store.save_update(place.run, place.round, update, self._work.weight(), score, kept)
        checkpoint.unlink(missing_ok=True)

    # ---- verdict

    def _verdict(self, body: bytes) -> Reply:
        place, new, reply = self._judge(body)
        self._store.answers.claim(place, "verdict", self._table)
        self._store.finish_round(place, new.digest(), claimed_context(body), body, reply)
        return reply

    def _judge(self, body: bytes) -> tuple[Place, AdapterState, bytes]:
        """The round that a sum ends, what follows from it, and this site's signature on that; nothing is recorded."""
        place, adapter, _, decoded = self._checked_sum("verdict", body)
        new = after_sum(self._plan, place.round, adapter, decoded.mean)
        signing = verdict_context(self._plan_digest, place.run, place.round, self._roster.digest())
        return place, new, seal("verdict", self._id.me, signing, new.digest(), self._id.key.sign)

    def _checked_sum(self, exchange: str, body: bytes) -> tuple[Place, AdapterState, VerdictRequest, Decoded]:
        """Where a sum belongs, what its round started from, the request, and what the sum decodes to."""
        place, record = self._continue(exchange, body)
        request = VerdictRequest.decode(open_request(exchange, body, claimed_context(body), self._cohort))
        adapter = AdapterState.from_bytes(self._store.adapter(place.run, place.round))
        parameters = self._parameters(adapter, place)
        return place, adapter, request, self._decoded(place, record, request, parameters, exchange)

    @abstractmethod
    def _decoded(
        self, place: Place, record: bytes, request: VerdictRequest, parameters: SumParameters, exchange: str
    ) -> Decoded:
        """What a sum decodes to, once it is known to be that of the uploads that this site agreed to."""

    def _check_change(self, sites: frozenset[str]) -> None:
        """Cross-round differencing: two sums that differ by few sites tell about those few. Equal cohorts pass."""
        least = max(self._id.policy.min_cohort_change, self._plan.secure.min_cohort_change)
        newest, earlier = self._id.newest, self._store.runs.survivor_sets()
        sites, sets = newest(sites), [newest(keys) for keys in earlier]  # a key that was rotated is no other site
        before = close_cohort(sites, sets, least) if self._plan.dp.mode == "none" else None
        # Check 64 (cross-round differencing): no two sums that differ by few sites.
        if before is not None:
            raise AbortError(
                f"U3 has {len(sites)} sites and differs by {len(sites ^ before)} from a set that this site confirmed "
                f"before; expected the same sites or {least} others: try again with all of them, or without more"
            )

    # ---- helpers

    def _continue(self, exchange: str, body: bytes) -> tuple[Place, bytes]:
        """The record that this message continues from. The context is only a key to look up; whoever uses the record
        checks the message's signature over it next.
        """
        last = self._table.continued_by(exchange)
        found = self._store.answers.find(claimed_context(body), last)
        if found is None:
            raise PeerViolationError(
                f"this site knows no {last} that the message could continue from: it did not answer it, or its record "
                "was lost since"
            )
        return found

    def _parameters(self, adapter: AdapterState, place: Place) -> SumParameters:
        names = shared_names(self._plan.lora.strategy, adapter, place.round)
        return sum_parameters(self._plan, sum(int(np.prod(adapter.shapes[n])) for n in names))

    def _contribution(
        self, place: Place, weights: Mapping[SiteId, int]
    ) -> tuple[SumParameters, Contribution | NoisyContribution]:
        """``weights``: everyone's public ones in this attempt."""
        self._end.require_open(place.run)
        stored = self._store.update(place.run, place.round)
        if stored is None:
            raise LocalMisuseError("there is no update to send")
        self._id.charges.spend(place.run, place.round, UPDATE, stored.sha256)
        adapter = AdapterState.from_bytes(self._store.adapter(place.run, place.round))
        if self._integers:
            return self._parameters(adapter, place), NoisyContribution(stored.values.view("<i4"))
        parameters = self._parameters(adapter, place)
        weight, digest = stored.weight if parameters.hidden_weight else weights[self._id.me], stored.sha256
        number = place.round.to_bytes(4, "big") + weight.to_bytes(4, "big")
        coins = rounding_key(self._id.rounding_secret(), self._plan_digest, sha256(place.run.encode()), number, digest)
        return parameters, Contribution(stored.values, weight, coins)


def words_of(request: VerdictRequest) -> Words:
    """A sum in the open: a view of its words, none where they do not come out even."""
    return np.frombuffer(request.words, dtype="<u8") if len(request.words) % 8 == 0 else np.empty(0, "<u8")
