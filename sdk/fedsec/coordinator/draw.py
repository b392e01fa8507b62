"""Before round 0 of a run in groups: `commit`, `reveal` and `draw`, until the whole roster has answered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec_secure.codec import sha256
from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.coordinator_collect import sift
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.draw import draw_context
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.record.entries import DrawEntry


def empty_draw(driver: Driver) -> Draw:
    """Nobody has answered yet."""
    plan, roster = driver.plan, driver.roster
    if plan.weighting.groups is None:
        raise LocalMisuseError("expected a plan that weighs groups")
    context = draw_context(plan.digest(), driver.run, roster.digest())
    return Draw(roster, context, plan.weighting.groups, driver.run, driver.sign)


def ask(
    driver: Driver,
    name: str,
    index: int,
    attempt: int,
    sites: Iterable[SiteId],
    request: bytes,
    accept: Callable[[SiteId, bytes], bytes],
    enough: Callable[[Mapping[SiteId, bytes]], None] | None = None,
) -> Generator[Exchange, Outcome, dict[SiteId, bytes]]:
    """One exchange of a draw; the replies that hold. Who gave none is reported and logged.

    ``enough``: AbortError for replies without which nothing can follow.
    """
    requests = dict.fromkeys(sites, request)
    settle = None if enough is None else lambda outcome: enough(sift(outcome.small(), accept)[0])
    outcome = yield Exchange(name, index, attempt, requests, driver.plan.deadline_seconds, settle)
    good, refused = sift(outcome.small(), accept)
    driver.note("lost", index, name, outcome.lost)
    driver.note("refused", index, name, refused)
    return good


def drawn_entry(draw: Draw) -> DrawEntry:
    """The groups, for the run's log."""
    return DrawEntry(
        run=draw.run,
        groups=draw.groups,
        commitments_sha256=sha256(encode_packets(draw.commitments)).hex(),
        reveals_sha256=sha256(encode_packets(draw.reveals)).hex(),
    )
