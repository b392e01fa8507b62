"""A batch of rounds whose keys are shared ahead: `keys` and `deal` once, then `step`, `confirm`, `unmask` for each.

A round's sum goes out with the next round's `step`, and the sites sign a verdict on the last one only: before, each
upload is signed under the adapter that its site computed from the sum. A site that misses an exchange is out until the
batch ends. A `step` that too few answer ends the batch after the rounds before it; the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from fedsec.coordinator.attempt import Attempt, Ended, RoundResult, Uploaded, measure
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.training.adapter import AdapterState
from fedsec.wire import KeysRequest, TrainRequest, decode_bundle, encode_bundle
from fedsec_secure.codec import seal
from fedsec_secure.errors import AbortError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.coordinator_collect import Masked, Refused, Shared, Stated, sift
from fedsec_secure.masking.parameters import AHEAD, RoundContext
from fedsec_secure.record.entries import RoundStartedEntry

Bundles = dict[SiteId, tuple[bytes, ...]]
T = TypeVar("T")


@dataclass(frozen=True)
class BatchResult:
    """The rounds that enough sites verified, in order; ``reason``: why the next one could not be had, if it could not.

    Only the last result has verdicts.
    """

    rounds: tuple[RoundResult, ...]
    reason: str | None


@dataclass(frozen=True)
class _Step(Attempt):
    """A round of a batch: its context is older than its adapter."""

    @property
    def context(self) -> bytes:
        """What its keys bind."""
        driver = self.driver
        plan, roster = driver.plan.digest(), driver.roster.digest()
        return RoundContext(plan, driver.run, self.index, self.attempt, roster, AHEAD).digest()


def batch(
    driver: Driver, first: int, attempt: int, adapter: AdapterState, verdicts: Mapping[SiteId, bytes]
) -> Generator[Exchange, Outcome, BatchResult]:
    """Rounds from ``first`` on, as many as the plan shares keys for at a time; AbortError where a sum is not verified.

    ``adapter``: what the first starts from, and ``verdicts`` those who attest it.
    """
    count = min(driver.plan.dp.keys_ahead, driver.plan.rounds - first)
    steps = [_Step(driver, first + i, attempt, adapter, verdicts, ()) for i in range(count)]
    done: list[Ended] = []
    reason = None
    try:
        shared = yield from _prepared(steps)
        start, present = _from_adapter(steps[0]), set(shared[0].dealings)
        for step, keys in zip(steps, shared, strict=True):
            ended = yield from _taken(replace(step, adapter=adapter), keys, start, present)
            adapter, start, present = ended.adapter, ended.request, set(ended.witnesses)
            done.append(ended)
    except AbortError as e:
        reason = str(e)
    if not done:
        return BatchResult((), reason)
    last = yield from steps[len(done) - 1].judged(done[-1])
    for ended in done:
        driver.record(ended.entry)
    results = [RoundResult(first + i, e.adapter, {}, e.weights) for i, e in enumerate(done)]
    return BatchResult((*results[:-1], replace(results[-1], verdicts=last)), reason)


def _prepared(steps: list[_Step]) -> Generator[Exchange, Outcome, list[Shared]]:
    """`keys` and `deal`: who is in for one round is in for all."""
    head = steps[0]
    driver = head.driver
    for step in steps:
        context = step.context.hex()
        driver.record(RoundStartedEntry(run=driver.run, round=step.index, attempt=step.attempt, context_sha256=context))
    body = KeysRequest(driver.run, head.index, head.attempt, len(steps)).encode()
    request = seal("keys-request", COORDINATOR, head.context, body, driver.sign)
    outcome = yield from head.ask("keys", dict.fromkeys(driver.roster.ids, request))

    def collect(number: int, replies: Mapping[SiteId, bytes]) -> tuple[Stated, Refused]:
        step = steps[number]
        parameters = driver.parameters(step.adapter.shapes, step.index)
        return Stated.collect(driver.group(), parameters, step.context, driver.sign, replies)

    stated = _in_for_all(head, "keys", outcome, len(steps), collect, lambda state: state.statements)
    requests = [state.share_requests() for state in stated]
    wanted = {site: encode_bundle([each[site] for each in requests]) for site in stated[0].statements}
    outcome = yield from head.ask("deal", wanted)
    return _in_for_all(
        head,
        "deal",
        outcome,
        len(steps),
        lambda number, replies: Shared.gather(stated[number], replies),
        lambda state: state.dealings,
    )


def _in_for_all(
    head: _Step,
    name: str,
    outcome: Outcome,
    count: int,
    take: Callable[[int, Mapping[SiteId, bytes]], tuple[T, Refused]],
    members: Callable[[T], Mapping[SiteId, bytes]],
) -> list[T]:
    """Each round's state over the same sites: those whose message is accepted for every round."""
    bundles: Bundles
    bundles, refused = sift(outcome.small(), lambda site, reply: decode_bundle(reply, count))
    while True:
        states = []
        for number in range(count):
            state, out = take(number, {site: parts[number] for site, parts in bundles.items()})
            refused |= out
            states.append(state)
        kept = set.intersection(*(set(members(state)) for state in states))
        if kept == set(bundles):
            head.note("refused", name, refused)
            return states
        bundles = {site: parts for site, parts in bundles.items() if site in kept}


def _from_adapter(step: _Step) -> bytes:
    """What the first round of a batch starts from."""
    body = TrainRequest(step.driver.run, step.index, step.attempt, step.adapter.to_bytes(), step.verdicts).encode()
    return seal("train-request", COORDINATOR, step.context, body, step.driver.sign)


def _taken(step: _Step, keys: Shared, start: bytes, present: set[SiteId]) -> Generator[Exchange, Outcome, Ended]:
    """`step`, `confirm`, `unmask`; then what follows from the sum."""
    shared = keys.at(step.adapter.digest())
    requests = {s: encode_bundle([start, r]) for s, r in shared.mask_requests().items() if s in present}
    outcome = yield from step.ask("step", requests)
    facts, broken = measure(outcome)
    state, refused = Masked.gather(shared, facts)
    step.note("refused", "step", refused | broken)
    summed = yield from step.summed(Uploaded(state.heads, outcome.uploads(), keys.weights, state))
    return step.ended(summed)
