"""Drives a run over a transport: every outcome into the journal before the driver sees it, and from there on resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from fedsec.coordinator.ahead import batch
from fedsec.coordinator.attempt import MAX_ATTEMPTS, RoundResult
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.end import Attested, attestations, baselines, record_attestations, witness
from fedsec.coordinator.exchange import UPLOADS, Exchange, Outcome, Transport
from fedsec.coordinator.groups import group_round
from fedsec.coordinator.journal import Final, Journal
from fedsec.coordinator.rounds import one_round
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.state import EncryptedState, Shapes, State
from fedsec.coordinator.together import Together
from fedsec.plan.attestation import withheld
from fedsec.plan.group_checks import is_grouped
from fedsec.training.adapter import AdapterState
from fedsec.training.public_step import adapter_of, shapes_before
from fedsec.wire import FinalAdapter, is_encrypted, shares_ahead
from fedsec_secure.errors import AbortError, LocalMisuseError, ReleaseBlockedError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.messages import decode_packets, encode_packets
from fedsec_secure.record.entries import ModelEntry, RefusalEntry, RunFinishedEntry, printable

Report = Callable[[dict[str, object]], None]
R = TypeVar("R")


@dataclass(frozen=True)
class _Reached:
    """Round ``round`` is next, in attempt ``attempt`` or later, from ``adapter``, which ``verdicts`` attest."""

    round: int
    attempt: int
    adapter: State
    verdicts: Mapping[SiteId, bytes]


@dataclass
class Runner:
    """One run: its driver, journal and transport. Exchanges are numbered over the whole run."""

    driver: Driver
    journal: Journal
    transport: Transport
    report: Report
    log: RunLog
    after_round: Callable[[int, State], None] = lambda index, adapter: None
    """With each round's adapter, again after a resume: what it does once must be done once."""
    pause: float = 0.0
    """Seconds before a silent site is asked again, and twice that before the last time."""
    sequence: int = 0
    _draw: Draw | None = None
    _first: Shapes | None = None
    _asked: int = 0
    """Exchanges that this process made: not those that the journal knew."""

    def rounds(self, initial: AdapterState) -> State:
        """All rounds that are not final yet; the last adapter. AbortError where one cannot be had."""
        at = _Reached(0, 0, initial, {})
        final = self.journal.last_final()
        if final is not None:
            shapes = shapes_before(self.driver.plan, final.round + 1, initial.shapes)
            kind = EncryptedState if is_encrypted(self.driver.plan) else AdapterState
            state: State = kind.from_bytes(final.adapter, shapes)
            at = _Reached(final.round + 1, final.attempt, state, decode_packets(final.verdicts, "journalled verdicts"))
            self.sequence = final.sequence
            self.log.after_round(final.round)
            self.after_round(final.round, _shown(state))
            self._witness(final.round)
        if is_grouped(self.driver.plan):
            self._draw = self._together.drawn(final is not None)
        if is_encrypted(self.driver.plan):
            self._first = initial.shapes
            if final is None:
                self._together.share_key()
        go_on = self._batch if shares_ahead(self.driver.plan) else self._round
        while at.round < self.driver.plan.rounds:
            at = go_on(at)
        return at.adapter

    @property
    def _together(self) -> Together:
        return Together(self.driver, self.journal, self._drive)

    def _round(self, at: _Reached) -> _Reached:
        began, history = time.monotonic(), self.journal.survivors()
        driver = replace(self.driver, asked=lambda: self._asked)
        if self._draw is None:
            steps = one_round(driver, at.round, at.adapter, at.verdicts, history, self._first)
        else:
            assert isinstance(at.adapter, AdapterState)  # the table of modes and rules
            steps = group_round(driver, self._draw, at.round, at.adapter, at.verdicts, history, self._loss)
        result = self._drive(steps)
        return self._finish([result], 0, time.monotonic() - began)

    def _loss(self, adapter: AdapterState) -> float:
        if self.driver.loss is None:
            raise LocalMisuseError("expected a validation set at the coordinator: the plan weighs groups by it")
        return self.journal.loss(adapter, self.driver.loss)

    def _batch(self, at: _Reached) -> _Reached:
        """As many rounds as keys are shared for; another try where none of them could be had."""
        made = 0
        for attempt in count(at.attempt):
            began, asked = time.monotonic(), self._asked
            assert isinstance(at.adapter, AdapterState)  # the table of modes
            found = self._drive(batch(self.driver, at.round, attempt, at.adapter, at.verdicts))
            if found.reason is not None:
                number = at.round + len(found.rounds)
                why = {"event": "attempt-aborted", "round": number, "attempt": attempt, "reason": found.reason}
                self.report(why)
            if found.rounds:
                # Keys of later rounds of a batch that broke off are spent: the next one asks for others.
                following = 0 if found.reason is None else attempt + 1
                return self._finish(found.rounds, following, time.monotonic() - began)
            made += self._asked > asked  # what the journal knew was not tried now
            if made >= MAX_ATTEMPTS:
                break
        raise AbortError(f"{found.reason}. It was tried {made} times; a resumed run tries again")

    def _finish(self, results: Sequence[RoundResult], attempt: int, seconds: float) -> _Reached:
        """Rounds that are verified: into the journal, and who watches is told. ``attempt``: the next one's first."""
        last = results[-1]
        kept = {last.round: last.adapter.to_bytes()}
        self.journal.finish_rounds(
            [
                Final(
                    result.round,
                    self.sequence,
                    kept.get(result.round, b""),
                    encode_packets(result.verdicts),
                    " ".join(result.survivors),
                    attempt,
                )
                for result in results
            ]
        )
        for result in results:
            self.report(
                {
                    "event": "round",
                    "round": result.round,
                    "survivors": list(result.survivors),
                    "weights": dict(result.weights),
                    "adapter": result.adapter.digest().hex(),
                    "seconds": round(seconds / len(results), 3),
                }
            )
        self.after_round(last.round, _shown(last.adapter))
        self._witness(last.round)
        return _Reached(last.round + 1, attempt, last.adapter, dict(last.verdicts))

    def _witness(self, index: int) -> None:
        """Have the sites cosign the log as it is now, and keep the cosigned checkpoint."""
        self.log.publish(self._drive(witness(self.driver, index, self.log.signed(), self.log.leaves())))

    def attest(self, adapter: State) -> Attested:
        """What each site signs about its part. Enough of them, and where canaries were planted all that were in the
        last sum: none of them can be left out so that its measurement is not seen. AbortError otherwise.
        """
        plan, final = self.driver.plan, self.journal.last_final()
        assert final is not None
        body, needed = b"", frozenset[SiteId]()
        if plan.canaries.per_site:
            verdicts = decode_packets(final.verdicts, "journalled verdicts")
            needed = self.journal.survivors()[-1]
            if isinstance(adapter, AdapterState):  # otherwise each site has it, and the coordinator has not
                body = FinalAdapter(adapter.to_bytes(), verdicts).encode()
        return self._drive(attestations(self.driver, body, needed))

    def close(self, adapter: State, attested: Attested) -> None:
        """The end of the run: the attestations, and in the log which adapter came from which base by which sites.

        ReleaseBlockedError where a site withholds the adapter: the log then says so, and registers none.
        """
        record_attestations(self.driver, attested)
        reasons = {site: why for site, (_, said) in attested.items() if (why := withheld(said)) is not None}
        if not reasons:
            self._register(adapter)
            return
        for site, why in sorted(reasons.items()):
            self.log.record(RefusalEntry(site=site, exchange="attest", reason=printable(why)))
        self.report({"event": "refused", "round": self.driver.plan.rounds, "exchange": "attest", "sites": reasons})
        self._witness(self.driver.plan.rounds)
        raise ReleaseBlockedError("; ".join(reasons[site] for site in sorted(reasons)))

    def _register(self, adapter: State) -> None:
        plan, digest = self.driver.plan, adapter.digest().hex()
        sites = tuple(sorted(frozenset().union(*self.journal.survivors())))
        model = ModelEntry(
            adapter_sha256=digest,
            base_weights_sha256=str(plan.model.weights_sha256),
            run=self.driver.run,
            plan_sha256=plan.digest().hex(),
            sites=sites,
            strategy=plan.lora.strategy,
            rank=plan.lora.rank,
        )
        self.log.record(model)
        self.log.record(RunFinishedEntry(run=self.driver.run, rounds=plan.rounds, adapter_sha256=digest))
        self._witness(plan.rounds)

    def baselines(self, read: Callable[[bytes], R]) -> dict[SiteId, R]:
        """The sites' own single-site scores; ``read`` takes a site's JSON. FedsecError there leaves the site out."""
        return self._drive(baselines(self.driver, read))

    def _drive(self, steps: Generator[Exchange, Outcome, R]) -> R:
        outcome: Outcome | None = None
        while True:
            try:
                exchange = next(steps) if outcome is None else steps.send(outcome)
            except StopIteration as done:
                value: R = done.value
                return value
            outcome = self._exchange(exchange)

    def _exchange(self, exchange: Exchange) -> Outcome:
        stored = self.journal.look_up(self.sequence, exchange)
        if stored is None:
            stored = self._insist(exchange)
            self.journal.append(self.sequence, exchange, stored)
            self._asked += 1
        self.sequence += 1
        return stored

    def _insist(self, exchange: Exchange) -> Outcome:
        """Who is silent is asked again while the run could not go on; AbortError in the end.

        It is not journalled then: a resumed run asks all sites, and who answered before says the same.
        """
        outcome = self._ask(exchange)
        for number in range(1, MAX_ATTEMPTS):
            silent = outcome.silent()
            if _too_few(exchange, outcome) is None or not silent:
                break
            time.sleep(number * self.pause)
            again = self._ask(replace(exchange, requests={site: exchange.requests[site] for site in sorted(silent)}))
            lost = {site: why for site, why in outcome.lost.items() if site not in silent}
            outcome = Outcome({**outcome.replies, **again.replies}, {**lost, **again.lost})
        reason = _too_few(exchange, outcome)
        if reason is not None:
            lost = dict(sorted(outcome.lost.items()))
            self.report({"event": "lost", "round": exchange.round, "exchange": exchange.name, "sites": lost})
            raise AbortError(f"{reason}. A resumed run asks again for `{exchange.name}`")
        return outcome

    def _ask(self, exchange: Exchange) -> Outcome:
        self.report({"event": "asking", "round": exchange.round, "exchange": exchange.name})
        began = time.monotonic()
        outcome = _of_its_kind(exchange, self.transport.exchange(exchange, self.journal.spool))
        self.report(_measured(exchange, outcome, round(time.monotonic() - began, 3)))
        return outcome


def _too_few(exchange: Exchange, outcome: Outcome) -> str | None:
    """Why the run cannot go on with these replies, where nothing else can be tried; None where it can."""
    try:
        if exchange.settle is not None:
            exchange.settle(outcome)
    except AbortError as e:
        return str(e)
    return None


def _of_its_kind(exchange: Exchange, outcome: Outcome) -> Outcome:
    """A file where words are expected is no reply, nor the other way round."""
    other = {s for s, reply in outcome.replies.items() if isinstance(reply, Path) != (exchange.name in UPLOADS)}
    why = "PeerViolationError: it sent a file where words were asked for, or words for a file"
    replies = {site: reply for site, reply in outcome.replies.items() if site not in other}
    return Outcome(replies, {**outcome.lost, **dict.fromkeys(other, why)})


def _shown(state: State) -> State:
    """What a round's watcher is given: the plain adapter, where the coordinator has one."""
    return adapter_of(state) if isinstance(state, AdapterState) else state


def _measured(exchange: Exchange, outcome: Outcome, seconds: float) -> dict[str, object]:
    up = {s: len(r) if isinstance(r, bytes) else r.stat().st_size for s, r in outcome.replies.items()}
    return {
        "event": "exchange",
        "round": exchange.round,
        "attempt": exchange.attempt,
        "exchange": exchange.name,
        "seconds": seconds,
        "bytes_down": {s: len(r) for s, r in exchange.requests.items()},
        "bytes_up": up,
        "lost": dict(outcome.lost),
    }
