"""What the coordinator asks besides rounds: baselines, the sites' attestations, and cosignatures of the run's log."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Floors, Outcome
from fedsec.plan.attestation import Attestation, open_attestation
from fedsec.wire import WitnessReply, WitnessRequest, attest_context, baseline_context, witness_context
from fedsec_secure.codec import open_packet, seal, sha256
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.coordinator_collect import require, sift
from fedsec_secure.record.checkpoint import add_cosignature
from fedsec_secure.record.entries import AttestationEntry, LedgerHeadEntry

A = TypeVar("A")
Context = Callable[[bytes, str, bytes], bytes]


def _ask(
    driver: Driver,
    name: str,
    index: int,
    floors: Floors,
    context: Context,
    body: bytes,
    read: Callable[[SiteId, bytes], A],
    attempt: int = 0,
) -> Generator[Exchange, Outcome, dict[SiteId, A]]:
    """Every site's signed answer to one request, as ``read`` takes it; who did not answer is reported."""
    bound = context(driver.plan.digest(), driver.run, driver.roster.digest())
    request = seal(f"{name}-request", COORDINATOR, bound, body, driver.sign)
    requests = dict.fromkeys(driver.roster.ids, request)
    outcome = yield Exchange(name, index, attempt, requests, driver.plan.deadline_seconds, floors)

    def accept(site: SiteId, packet: bytes) -> A:
        verify = driver.roster.verifier(site)
        return read(site, bytes(open_packet(packet, kind=name, sender=site, context=bound, verify=verify)))

    answers, refused = sift(outcome.small(), accept)
    driver.note("lost", index, name, outcome.lost)
    driver.note("refused", index, name, refused)
    return answers


def witness(driver: Driver, index: int, note: bytes, leaves: tuple[bytes, ...]) -> Generator[Exchange, Outcome, bytes]:
    """Ask every site to cosign the run's log; the note with all cosignatures, at least the floor's number.

    Before the end of the run the heads of the sites' privacy ledgers go into the log: the next checkpoint has them.
    """

    def read(site: SiteId, content: bytes) -> WitnessReply:
        reply = WitnessReply.decode(content)
        add_cosignature(note, reply.line, site, driver.roster.sites[site])
        return reply

    body, floors = WitnessRequest(note, leaves).encode(), ((frozenset(driver.roster.ids), driver.cohort().floor),)
    replies = yield from _ask(driver, "witness", index, floors, witness_context, body, read)
    require(len(replies), driver.cohort(), "the cosignatures of the log")
    for site, reply in replies.items():
        note = add_cosignature(note, reply.line, site, driver.roster.sites[site])
        if index < driver.plan.rounds:
            driver.record(LedgerHeadEntry(site=site, head_sha256=reply.ledger_head.hex()))
    return note


def baselines(driver: Driver) -> Generator[Exchange, Outcome, dict[SiteId, bytes]]:
    """Ask every site for its single-site baseline's scores on the plan's public tests; JSON a site."""
    scores = yield from _ask(
        driver, "baseline", driver.plan.rounds, (), baseline_context, b"", lambda site, content: content
    )
    return scores


Attested = Mapping[SiteId, tuple[bytes, Attestation]]
"""By site: the envelope and what it says."""


def attestations(driver: Driver, body: bytes, attempt: int) -> Generator[Exchange, Outcome, Attested]:
    """Ask every site to sign what it did in this run. ``body``: the last adapter, where canaries are looked for."""

    def read(site: SiteId, content: bytes) -> tuple[bytes, Attestation]:
        return content, open_attestation(content, site, driver.roster.sites[site], driver.plan, driver.run)

    found = yield from _ask(driver, "attest", driver.plan.rounds, (), attest_context, body, read, attempt)
    return found


def record_attestations(driver: Driver, attested: Attested) -> None:
    """Their digests, in the run's log."""
    for site, (signed, said) in attested.items():
        driver.record(
            AttestationEntry(
                run=driver.run,
                site=site,
                attestation_sha256=sha256(signed).hex(),
                exclusions_hmac_sha256=said.exclusions_hmac_sha256,
            )
        )
