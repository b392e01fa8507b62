"""What a site answers besides rounds: a single-site baseline, its attestation, and the cosignature of the run's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedsec.data.canaries import Canary, draw_canaries
from fedsec.plan.attestation import Exposed
from fedsec.plan.cost import BASELINE
from fedsec.plan.model import Plan
from fedsec.site.attest import attest
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.provenance import check_next
from fedsec.site.store import SiteStore
from fedsec.site.witness import View, cosign_log
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import shapes_before
from fedsec.training.strategies import apply_update, with_personal
from fedsec.wire import (
    FinalAdapter,
    WitnessReply,
    WitnessRequest,
    attest_context,
    baseline_context,
    core_roster,
    log_of,
    verdict_context,
    witness_context,
)
from fedsec_secure.codec import Header, head_length, seal, sha256
from fedsec_secure.errors import AbortError, PeerViolationError
from fedsec_secure.masking.checks import open_request
from fedsec_secure.masking.parameters import Cohort

Reply = bytes | Path
Context = Callable[[bytes, str, bytes], bytes]


class RunEnd:
    """The handlers of one site agent that belong to a run and to no round."""

    def __init__(self, identity: SiteIdentity, plan: Plan, store: SiteStore, work: SiteWork, cohort: Cohort) -> None:
        self._id = identity
        self._plan = plan
        self._plan_digest = plan.digest()
        self._store = store
        self._work = work
        self._cohort = cohort
        self._roster = core_roster(plan)
        self.final: Callable[[str], AdapterState] | None = None
        """Gives a run's last adapter, where the site has it from nobody else."""
        self.after: Callable[[str], None] = lambda run: None
        """What is done once a run is attested, again if it is asked again."""

    @property
    def handlers(self) -> Mapping[str, Callable[[bytes], Reply]]:
        """By exchange."""
        return {"baseline": self._baseline, "attest": self._attest, "witness": self._witness}

    def require_open(self, run: str) -> None:
        """PeerViolationError once the run is attested."""
        # Check 75 (understated cost): nothing leaves after the site has signed what its part in the run cost.
        if self._store.log.attested(run) is not None:
            raise PeerViolationError(f"this site has attested its part in run {run}: it releases nothing more of it")

    def _open(self, exchange: str, body: bytes, context: Context) -> tuple[str, bytes]:
        """The run that a signed request is for, and the request's content."""
        claimed, roster = claimed_context(body), self._roster.digest()
        run = self._store.runs.which(self._plan_digest, lambda r: context(self._plan_digest, r, roster) == claimed)
        return run, bytes(open_request(exchange, body, claimed, self._cohort))

    def _seal(self, exchange: str, body: bytes, content: bytes) -> bytes:
        return seal(exchange, self._id.me, claimed_context(body), content, self._id.key.sign)

    # ---- the single-site baseline

    def _baseline(self, body: bytes) -> Reply:
        if "single" not in self._plan.evaluation.baselines:
            raise PeerViolationError("the plan asks for no single-site baseline")
        run, _ = self._open("baseline", body, baseline_context)
        self.require_open(run)  # of a stored reply too: the process may have died before the ledger had it as spent
        stored = self._store.baseline(run)
        if stored is not None:
            return self._released(run, stored)
        first = self._store.update(run, 0)
        if first is None:
            raise AbortError("this site trained nothing in round 0, so it has no baseline of its own")
        self._id.charges.reserve(run, self._plan.rounds, BASELINE)
        initial = self._work.initial_adapter()
        strategy = self._plan.lora.strategy
        own = apply_update(strategy, initial, first.values, 0)
        own = with_personal(strategy, own, self._store.personal.newest(run, 1))
        scores = self._work.single_scores(own, run, lambda r: self._store.checkpoint_path(run, f"single-{r}"))
        reply = self._seal("baseline", body, scores)
        self._store.save_baseline(run, reply)
        return self._released(run, reply)

    def _released(self, run: str, reply: bytes) -> bytes:
        """The baseline's reply, once the ledger has it."""
        self._id.charges.spend(run, self._plan.rounds, BASELINE, sha256(reply))
        return reply

    # ---- what this site did

    def _attest(self, body: bytes) -> Reply:
        """Sign it, once; from here on the run gets nothing more."""
        run, content = self._open("attest", body, attest_context)
        reply = self._store.log.attested(run)
        if reply is None:
            exposed = self._exposed(run, content)
            signed = attest(self._id, self._plan, self._store, run, self._id.authorise(), exposed)
            reply = self._seal("attest", body, signed)
            self._store.log.save_attested(run, reply)
        self.after(run)
        return reply

    def _exposed(self, run: str, content: bytes) -> Exposed | None:
        """How exposed this site's canaries are under the run's last adapter, where the plan plants any."""
        spec, last = self._plan.canaries, self._plan.rounds - 1
        if content and not spec.per_site:
            raise PeerViolationError("the plan plants no canaries; expected an empty request")
        if content and self.final is not None:
            raise PeerViolationError("each site has the adapter of an encrypted sum itself; expected an empty request")
        if not spec.per_site:
            return None
        if self.final is not None:
            bits = self._work.exposure(self.final(run), canaries_of(self._id, self._plan))
            return Exposed(candidates=spec.candidates, bits=bits)
        request = FinalAdapter.decode(content)
        shapes = shapes_before(self._plan, self._plan.rounds, self._work.initial_adapter().shapes)
        adapter = AdapterState.from_bytes(request.adapter, shapes)
        attested = verdict_context(self._plan_digest, run, last, self._roster.digest())
        # Check 84 (flattering adapter): what is measured is the adapter that this site verified.
        check_next(adapter.digest(), self._store.result(run, last), request.verdicts, attested, self._cohort)
        bits = self._work.exposure(adapter, canaries_of(self._id, self._plan))
        return Exposed(candidates=spec.candidates, bits=bits)

    # ---- the run's log

    def _witness(self, body: bytes) -> Reply:
        """Cosign the coordinator's log of a run: one history, and none that contradicts this site's own record."""
        run, content = self._open("witness", body, witness_context)
        request = WitnessRequest.decode(content)
        stored = self._store.log.cosigned(run, body)
        if stored is not None:
            return stored
        view = View(self._store, self._id.charges, run, self._roster)
        witness = (self._id.me, self._id.key, int(time.time()))
        seen, line = cosign_log(view, log_of(self._plan, run), *witness, request.note, request.leaves)
        reply = self._seal("witness", body, WitnessReply(line, self._id.charges.head()).encode())
        self._store.log.save_witnessed(run, body, seen.text(), reply)
        return reply


def canaries_of(identity: SiteIdentity, plan: Plan) -> tuple[Canary, ...]:
    """The site's own, by its key: the same whenever this plan runs here."""
    return draw_canaries(plan.canaries, identity.key.derive_secret("fedsec v1 canaries"), plan.digest())


def claimed_context(body: bytes) -> bytes:
    """The context that a packet claims, before its signature is checked: for looking up, never for deciding."""
    end = head_length(body)
    return Header.decode(body[6 : end - 64]).context
