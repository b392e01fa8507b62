"""A site whose keys for several rounds are shared ahead, so that a step costs `step`, `confirm` and `unmask`.

Each round still has X25519 keys and a self-mask seed of its own, drawn independently and dealt in packets of its own:
whoever reconstructs those of one round can open no other (Bonawitz et al. 2017 say so of rounds; here it holds within a
batch). What is not known when keys are dealt is the adapter; it is bound with the sets, before anything is masked.

`keys` and `deal` are `train` and `share` of several rounds, without training. `step` brings what the round starts from,
which is the plan's first adapter, one that enough sites verified, or the last round's sum for this site to verify, and
then the round's `mask` request. Training happens there: an update that nobody has asked for yet cannot be committed to.
"""

from __future__ import annotations

from collections.abc import Callable

from fedsec.plan.model import Plan
from fedsec.site.end import Reply, claimed_context
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.masked import MaskedAgent
from fedsec.site.record_upload import write_upload
from fedsec.site.store import SiteStore
from fedsec.site.store_answers import Place
from fedsec.training.adapter import AdapterState
from fedsec.wire import KeysRequest, TrainRequest, decode_bundle, encode_bundle
from fedsec_secure.codec import Header, head_length, open_packet, sha256
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.checks import open_request
from fedsec_secure.masking.parameters import AHEAD
from fedsec_secure.masking.site_masked import SiteMasked
from fedsec_secure.masking.site_shared import SiteShared
from fedsec_secure.masking.site_stated import SiteStated

NOTHING_YET = sha256(b"fedsec v1: no update yet")
"""Committed to in the statements of rounds whose keys are shared ahead: there is no update to commit to."""


class AheadAgent(MaskedAgent):
    """One site of a plan with distributed noise and ``dp.keys_ahead`` above 1."""

    def __init__(self, identity: SiteIdentity, plan: Plan, store: SiteStore, work: SiteWork) -> None:
        super().__init__(identity, plan, store, work)
        kept = {n: h for n, h in self._handlers.items() if n not in ("train", "share", "mask")}
        ahead: dict[str, Callable[[bytes], Reply]] = {"keys": self._keys, "deal": self._deal, "step": self._step}
        self._handlers = {**ahead, **kept}

    def _place(self, name: str, body: bytes) -> Place | None:
        if name == "keys":
            return self._store.answers.place_of("train", _of_round(body, 0))
        if name == "deal":
            return self._store.answers.place_of("share", decode_bundle(body)[0])
        return super()._place("mask" if name == "step" else name, body)

    def _keys(self, body: bytes) -> Reply:
        """Statements for the rounds of a batch."""
        verify = self._roster.verifier(COORDINATOR)
        packet = open_packet(body, kind="keys-request", sender=COORDINATOR, context=None, verify=verify)
        request = KeysRequest.decode(packet)
        places = [Place(request.run, request.round + i, request.attempt) for i in range(request.count)]
        # Check 79 (replay): the request is for the plan, run and round that it carries.
        if claimed_context(body) != self._context(places[0], AHEAD):
            raise PeerViolationError("the keys request is signed for another plan, run, round or roster")
        # Check 80 (extra rounds): as many at a time as the plan says.
        if request.count > self._plan.dp.keys_ahead:
            raise PeerViolationError(
                f"keys of {request.count} rounds are asked for; expected {self._plan.dp.keys_ahead}"
            )
        self._admit(places[0], places[-1].round)
        return encode_bundle([self._stated(place, _of_round(body, i)) for i, place in enumerate(places)])

    def _stated(self, place: Place, request: bytes) -> bytes:
        stored = self._store.answers.answered("train", request)
        if isinstance(stored, bytes):
            return stored
        self._store.answers.claim(place, "train", self._table)
        context = self._context(place, AHEAD)
        state = SiteStated.begin(self._id.me, context, NOTHING_YET, self._id.key.sign)
        self._store.answers.save(place, "train", context, request, state.record(), state.statement)
        return state.statement

    def _deal(self, body: bytes) -> Reply:
        """Shares for the rounds of a batch; each round's request is a packet of its own, answered once."""
        requests, dealt = decode_bundle(body), []
        if not requests:
            raise PeerViolationError("shares of no round are asked for; expected one request for each round")
        for request in requests:
            stored = self._store.answers.answered("share", request)
            reply = stored if stored is not None else self._share(request)
            assert isinstance(reply, bytes)  # shares are never a file
            dealt.append(reply)
        return encode_bundle(dealt)

    def _step(self, body: bytes) -> Reply:
        """Start a round from what comes with it, train, and upload."""
        stored = self._store.answers.answered("mask", body)
        if stored is not None:
            return stored
        start, request = decode_bundle(body, count=2)
        place, record = self._continue("mask", request)
        shared = SiteShared.restore(record)
        # Checked again with the sets below; here so that nobody but the coordinator has a site read its notes.
        open_request("mask", request, shared.stated.context, self._cohort)
        adapter = self._begun(place, start, shared.stated.context)
        self._store.answers.claim(place, "mask", self._table)
        self._ensure_update(place, adapter)
        group = self._group(place.run)
        parameters, contribution = self._contribution(place, shared.weights(group))
        path = self._store.upload_path(shared.stated.context)
        signing, digest = self._id.key.sign, adapter.digest()
        with write_upload(path, "masked", self._id.me, parameters.words) as upload:
            state, upload.head = SiteMasked.enter(
                shared, request, group, parameters, contribution, signing, upload.write, digest
            )
        self._store.answers.save(place, "mask", state.bound, body, state.record(), path)
        return path

    def _begun(self, place: Place, start: bytes, context: bytes) -> AdapterState:
        """The state that the round starts from, bound to it durably."""
        self._end.require_open(place.run)
        if _kind(start) == "verdict-request":
            return self._verified(place, start)
        verify = self._roster.verifier(COORDINATOR)
        packet = open_packet(start, kind="train-request", sender=COORDINATOR, context=context, verify=verify)
        request = TrainRequest.decode(packet)
        # Check 81 (replay): what a round starts from was signed for this round.
        if Place(request.run, request.round, request.attempt) != place:
            raise PeerViolationError("what the round starts from is for another round than its masks")
        adapter = self._parsed(request.adapter, place)
        self._start(place, adapter, request)
        return adapter

    def _verified(self, place: Place, start: bytes) -> AdapterState:
        """From the last round's sum, which this site verifies, unless it did before and was killed afterwards."""
        if self._store.answers.answered("verdict", start) is None:
            before, new, reply = self._judge(start)
            # Check 82 (replayed round): only the sum of the round before.
            if (before.run, before.round + 1) != (place.run, place.round):
                raise PeerViolationError(f"round {place.round} does not start from the sum of round {before.round}")
            self._store.answers.claim(before, "verdict", self._table)
            verdict = (claimed_context(start), start, reply)
            self._store.pass_on(before, verdict, new.digest(), new.to_bytes())
            return new
        ended = self._store.answers.ended(place.run, place.round - 1)
        newest = self._store.newest_round(place.run)
        # Check 83 (replayed round): the sum that was verified is that of the round before, and this one began with it.
        if self._store.answers.place_of("verdict", start) != ended or newest != place.round:
            raise PeerViolationError(f"round {place.round} does not start from the sum that came with it")
        return self._parsed(self._store.adapter(place.run, place.round), place)


def _of_round(request: bytes, offset: int) -> bytes:
    """Stands for the part of a `keys` request that one of its rounds is."""
    return request + offset.to_bytes(2, "big")


def _kind(packet: bytes) -> str:
    """What a packet says it is, before its signature is checked: for choosing who checks it."""
    return Header.decode(packet[6 : head_length(packet) - 64]).kind
