"""What happened, round by round: who is in each sum, bytes, time, and every answer that was refused or never came.

The cosigned log says who and why; bytes, seconds and attempts that were given up stand in ``metrics.jsonl`` only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from fedsec.plan.model import Plan
from fedsec.study.evidence import survivors_of
from fedsec_secure.errors import ConfigError
from fedsec_secure.record.entries import Entry, RefusalEntry, RoundStartedEntry, printable

M = TypeVar("M", bound=BaseModel)
_PARTS = {"train": "training", "witness": "log"}
_EXCHANGES: Mapping[str, str] = {
    "commit": "committing to the draw of groups",
    "reveal": "opening its part of the draw",
    "draw": "drawing the groups",
    "keys": "making keys for several rounds",
    "deal": "sharing those keys",
    "step": "sending a masked step",
    "train": "training",
    "share": "sharing keys",
    "mask": "sending the masked update",
    "plain": "sending the update in the open",
    "encrypt": "sending the encrypted update",
    "key-offer": "offering a key for the encryption key",
    "key-deal": "dealing the encryption key",
    "key-take": "taking the encryption key",
    "confirm": "confirming who is in the sum",
    "unmask": "taking the masks off the sum",
    "sum": "checking its group’s sum",
    "verdict": "checking the sum",
    "witness": "signing the log",
    "baseline": "scoring its own model",
    "attest": "attesting its part",
}


class _Exchange(BaseModel):
    round: int
    exchange: str
    seconds: float
    bytes_down: dict[str, int]
    bytes_up: dict[str, int]


class _Round(BaseModel):
    round: int
    survivors: list[str]
    weights: dict[str, int] = {}
    seconds: float


class _Absent(BaseModel):
    round: int
    exchange: str
    sites: dict[str, str]


class _Aborted(BaseModel):
    round: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class Traffic:
    """Bytes and seconds of one round, of the end of a run, or of all of it."""

    sent: int
    """Bytes that the busiest site sent."""
    received: int
    training: float
    """Seconds until the last site had trained."""
    summing: float
    """Seconds of everything about the sum; at the end of the run: scores and attestations."""
    log: float
    """Seconds of cosigning."""

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.training + self.summing + self.log


@dataclass(frozen=True)
class RoundReport:
    """One finished round."""

    number: int
    """From 1."""
    attempts: int
    sites: tuple[str, ...]
    away: tuple[str, ...]
    verified_by: tuple[str, ...]
    traffic: Traffic
    shares: Mapping[str, float]
    """Site -> its share of the sum, where weights are public; empty where all weigh the same or counts are hidden."""

    @property
    def worth(self) -> float:
        """How many equal sites the shares are worth (Kish)."""
        return 1 / sum(share**2 for share in self.shares.values())


@dataclass(frozen=True)
class Refusal:
    """An answer that was refused, or did not come."""

    round: int
    """From 1; above the plan's rounds: at the end of the run."""
    site: str
    asked: str
    reason: str
    in_log: bool


@dataclass(frozen=True)
class Aborted:
    """An attempt at a round that was given up, and why."""

    round: int
    attempt: int
    reason: str


def rounds(
    plan: Plan,
    entries: Sequence[Entry],
    events: Sequence[Mapping[str, object]],
    verified: Mapping[int, tuple[str, ...]],
) -> tuple[RoundReport, ...]:
    """Every finished round. ``verified``: round from 0 -> sites that attest its adapter."""
    logged = survivors_of(entries)
    started = Counter(
        number for number, _ in {(e.round, e.attempt) for e in entries if isinstance(e, RoundStartedEntry)}
    )
    found = {e.round: e for e in read_events(_Round, events, "round")}
    exchanges = read_events(_Exchange, events, "exchange")
    roster = plan.roster.sites.keys()
    return tuple(
        RoundReport(
            number=number + 1,
            attempts=max(started[number], 1),
            sites=(sites := logged.get(number, tuple(sorted(found[number].survivors)))),
            away=tuple(sorted(roster - set(sites))),
            verified_by=verified.get(number, ()),
            traffic=_traffic([e for e in exchanges if e.round == number]),
            shares=_shares(plan, found[number].weights),
        )
        for number in sorted(found)
    )


def _shares(plan: Plan, weights: Mapping[str, int]) -> dict[str, float]:
    """By the coordinator's word: each site computed the weights itself, but signs the sum that they gave, not them."""
    if plan.weighting.rule in ("uniform", "size") or not weights:
        return {}
    total = sum(weights.values())
    return {site: weights[site] / total for site in sorted(weights)}


def ending(plan: Plan, events: Sequence[Mapping[str, object]]) -> Traffic | None:
    """The end of the run: single-site scores, attestations and the last cosignatures; None before it."""
    last = [e for e in read_events(_Exchange, events, "exchange") if e.round >= plan.rounds]
    return _traffic(last) if last else None


def total_bytes(events: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    """(sent, received) in the whole run by the site that has most."""
    whole = _traffic(read_events(_Exchange, events, "exchange"))
    return whole.sent, whole.received


def refusals(
    plan: Plan, entries: Sequence[Entry], events: Sequence[Mapping[str, object]]
) -> tuple[tuple[Refusal, ...], tuple[Aborted, ...]]:
    """Every refusal and loss by round, those in the log first, and the attempts that were given up."""
    found, current = [], 0
    for entry in entries:
        if isinstance(entry, RoundStartedEntry):
            current = entry.round
        elif isinstance(entry, RefusalEntry):
            found.append(Refusal(current + 1, entry.site, asked(entry.exchange), entry.reason, True))
    known = {(r.round, r.site, r.asked, r.reason) for r in found}
    for event in read_events(_Absent, events, "lost", "refused", "left-out"):
        for site, why in sorted(event.sites.items()):
            noted = Refusal(event.round + 1, site, asked(event.exchange), printable(why), False)
            key = (noted.round, noted.site, noted.asked, noted.reason)
            if key not in known and site in plan.roster.sites:  # a resumed run notes the same again
                known.add(key)
                found.append(noted)
    given_up = {
        (e.round + 1, e.attempt + 1, printable(e.reason)): None
        for e in read_events(_Aborted, events, "attempt-aborted")
    }
    return tuple(sorted(found, key=lambda refusal: refusal.round)), tuple(Aborted(*key) for key in given_up)


def asked(exchange: str) -> str:
    """What a site was asked for, in words."""
    return _EXCHANGES.get(exchange, exchange)


def _traffic(exchanges: Iterable[_Exchange]) -> Traffic:
    sent, received = Counter[str](), Counter[str]()
    seconds = {"training": 0.0, "summing": 0.0, "log": 0.0}
    for e in exchanges:
        sent.update(e.bytes_up)
        received.update(e.bytes_down)
        seconds[_PARTS.get(e.exchange, "summing")] += e.seconds
    return Traffic(
        sent=max(sent.values(), default=0),
        received=max(received.values(), default=0),
        **seconds,
    )


def read_events(model: type[M], events: Iterable[Mapping[str, object]], *names: str) -> list[M]:
    """The events of these names, strictly; ConfigError for one that is not as fedsec writes it."""
    chosen = [event for event in events if event.get("event") in names]
    try:
        return TypeAdapter(list[model]).validate_python(chosen)  # type: ignore[valid-type]
    except ValidationError as e:
        where = e.errors(include_url=False, include_input=False)[0]["loc"]
        raise ConfigError(f"metrics.jsonl: a line of {names[0]} is not as fedsec writes it ({where[-1]})") from None
