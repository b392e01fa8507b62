"""What the coordinator asks besides rounds: baselines, the sites' attestations, and cosignatures of the run's log."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeVar

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.plan.attestation import Attestation, open_attestation
from fedsec.wire import WitnessReply, WitnessRequest, attest_context, baseline_context, witness_context
from fedsec_secure.codec import open_packet, seal, sha256
from fedsec_secure.errors import AbortError
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
    context: Context,
    body: bytes,
    read: Callable[[SiteId, bytes], A],
    enough: Callable[[Mapping[SiteId, A]], None] | None = None,
) -> Generator[Exchange, Outcome, dict[SiteId, A]]:
    """Every site's signed answer to one request, as ``read`` takes it; who did not answer is reported.

    ``enough``: AbortError for answers that the run cannot go on with.
    """
    bound = context(driver.plan.digest(), driver.run, driver.roster.digest())
    request = seal(f"{name}-request", COORDINATOR, bound, body, driver.sign)
    requests = dict.fromkeys(driver.roster.ids, request)

    def accept(site: SiteId, packet: bytes) -> A:
        verify = driver.roster.verifier(site)
        return read(site, bytes(open_packet(packet, kind=name, sender=site, context=bound, verify=verify)))

    settle = None if enough is None else lambda outcome: enough(sift(outcome.small(), accept)[0])
    outcome = yield Exchange(name, index, 0, requests, driver.plan.deadline_seconds, settle)
    answers, refused = sift(outcome.small(), accept)
    driver.note("lost", index, name, outcome.lost)
    driver.note("refused", index, name, refused)
    return answers


def witness(driver: Driver, index: int, note: bytes, leaves: tuple[bytes, ...]) -> Generator[Exchange, Outcome, bytes]:
    """Ask every site to cosign the run's log; the note with all cosignatures, at least the floor's number.

    Before the end of the run the heads of the privacy ledgers, and who did not answer, go into the log: the next
    checkpoint has them. After the last there is none: what nobody signs is only reported; the log ends with the run.
    """
    ended = index == driver.plan.rounds

    def read(site: SiteId, content: bytes) -> WitnessReply:
        reply = WitnessReply.decode(content)
        add_cosignature(note, reply.line, site, driver.roster.sites[site])
        return reply

    def enough(replies: Mapping[SiteId, WitnessReply]) -> None:
        require(len(replies), driver.cohort(), "the set of cosignatures of the log")

    body = WitnessRequest(note, leaves).encode()
    asking = replace(driver, record=lambda entry: None) if ended else driver
    replies = yield from _ask(asking, "witness", index, witness_context, body, read, enough)
    for site, reply in replies.items():
        note = add_cosignature(note, reply.line, site, driver.roster.sites[site])
        if not ended:
            driver.record(LedgerHeadEntry(site=site, head_sha256=reply.ledger_head.hex()))
    return note


def baselines(driver: Driver, read: Callable[[bytes], A]) -> Generator[Exchange, Outcome, dict[SiteId, A]]:
    """Ask every site for its single-site baseline's scores on the plan's public tests; ``read`` takes their JSON."""
    scores = yield from _ask(
        driver, "baseline", driver.plan.rounds, baseline_context, b"", lambda site, content: read(content)
    )
    return scores


Attested = Mapping[SiteId, tuple[bytes, Attestation]]
"""By site: the envelope and what it says."""


def attestations(driver: Driver, body: bytes, needed: AbstractSet[SiteId]) -> Generator[Exchange, Outcome, Attested]:
    """Ask every site to sign what it did in this run. ``body``: the last adapter, where canaries are looked for;
    ``needed``: the sites that must.
    """

    def read(site: SiteId, content: bytes) -> tuple[bytes, Attestation]:
        return content, open_attestation(content, site, driver.roster.sites[site], driver.plan, driver.run)

    def enough(found: Attested) -> None:
        require(len(found), driver.cohort(), "the set of attestations")
        if missing := needed - found.keys():
            raise AbortError(
                f"{', '.join(sorted(missing))} did not attest the exposure of canaries: without every site of the last "
                "sum nothing is released"
            )

    found = yield from _ask(driver, "attest", driver.plan.rounds, attest_context, body, read, enough)
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
