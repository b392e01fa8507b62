"""The certificate of a run: an in-toto statement about its adapter, in a DSSE envelope by the coordinator.

Everything in it but the coordinator's own software versions follows from what others signed: the officers' approvals,
the log that the sites cosigned, and the sites' attestations. `verify.py` derives it again and compares.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from fedsec.plan.attestation import Exposed, Floors, Privacy
from fedsec.plan.document import canonical, parse_canonical
from fedsec.plan.model import Plan
from fedsec.plan.policy import UtcSecond
from fedsec.plan.specs import PublicKeyHex, Sha256Hex, SiteName, Strict
from fedsec.study.evidence import Evidence
from fedsec.study.manifest import file_digest
from fedsec_secure.codec import sha256
from fedsec_secure.errors import VerificationError
from fedsec_secure.identity.envelope import open_envelope, sign_envelope
from fedsec_secure.identity.keys import PublicKey, SigningKey
from fedsec_secure.record.entries import AggregateEntry, RefusalEntry, RoundStartedEntry

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
CERTIFICATE: Final = "certificate.json"
ADAPTER_AT_SITES: Final = "adapter"


class Subject(Strict):
    """What the statement is about: a file, or an adapter that only the sites have."""

    name: str
    """A file's path in the run folder; or `adapter`, with the digest of its tensors."""
    digest: dict[Literal["sha256"], Sha256Hex]


class PlanSummary(Strict):
    """What was agreed. The plan itself has every setting."""

    name: str
    sha256: Sha256Hex
    base_model: str
    base_weights_sha256: Sha256Hex
    strategy: str
    rank: int
    rounds: int
    secure_mode: str
    minimum_cohort: int
    """Fewest sites in any accepted sum, by the plan."""
    threshold: int
    """Sites that must stay to the end of a round."""
    dp_mode: str
    weight_rule: str
    weight_cap: float
    """Largest share of a round that one site may have."""


class ApprovalSummary(Strict):
    """One site's officers' signatures."""

    site: SiteName
    officers: tuple[PublicKeyHex, ...]
    """Who signed."""
    approval_sha256: Sha256Hex
    policy_sha256: Sha256Hex
    expires: UtcSecond


class RoundSummary(Strict):
    """One round as it ended."""

    round: int
    """From 0."""
    cohort: int
    """Sites that were asked."""
    attempts: int
    survivors: tuple[SiteName, ...]
    """Whose updates are in the sum."""
    sum_sha256: Sha256Hex
    adapter_sha256: Sha256Hex
    """The global adapter after it."""
    verified_by: tuple[SiteName, ...]
    """Sites that computed this adapter themselves, and attest it; with masks they checked the sum's tag."""


class SiteSummary(Strict):
    """What one site attests."""

    site: SiteName
    attestation_sha256: Sha256Hex
    policy_sha256: Sha256Hex
    floors: Floors
    """The floors that held at the site."""
    privacy: Privacy
    """Its privacy ledger."""
    canaries: Exposed | None
    """How exposed its canaries are; None where the plan plants none."""
    exclusions_hmac_sha256: Sha256Hex | None


class LogSummary(Strict):
    """The run's log at its end."""

    origin: str
    entries: int
    root_sha256: Sha256Hex
    cosigned: dict[str, int]
    """Site -> seconds since 1970 by its own clock."""


class Certificate(Strict):
    """The predicate."""

    format: Literal[1] = 1
    run: str
    adapter_sha256: Sha256Hex
    """Digest of the adapter's tensors, as the log and the sites name it."""
    plan: PlanSummary
    approvals: tuple[ApprovalSummary, ...]
    rounds: tuple[RoundSummary, ...]
    sites: tuple[SiteSummary, ...]
    not_attested: tuple[SiteName, ...]
    """Sites of the roster that signed nothing at the end."""
    refusals: int
    """Answers that were refused, late or wrong, one by one in the log."""
    log: LogSummary
    coordinator_versions: dict[str, str]
    """Software at the coordinator, which alone says so."""


class Statement(Strict):
    """in-toto Statement v1."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field("https://in-toto.io/Statement/v1", alias="_type")
    subject: tuple[Subject, ...]
    predicate_type: Literal["urn:fedsec:certificate:v1"] = Field("urn:fedsec:certificate:v1", alias="predicateType")
    predicate: Certificate


def state(evidence: Evidence, versions: dict[str, str]) -> Statement:
    """What the evidence says. ``versions``: the coordinator's."""
    if evidence.has_adapter:
        subject = tuple(
            Subject(name=f"adapter/{path.name}", digest={"sha256": file_digest(path)})
            for path in sorted((evidence.folder / "adapter").iterdir())
        )
    else:
        subject = (Subject(name=ADAPTER_AT_SITES, digest={"sha256": evidence.model.adapter_sha256}),)
    book, plan = evidence.book, evidence.plan
    certificate = Certificate(
        run=evidence.run,
        adapter_sha256=evidence.model.adapter_sha256,
        plan=_plan(plan),
        approvals=tuple(
            ApprovalSummary(
                site=site,
                officers=filed.signers,
                approval_sha256=sha256(filed.raw).hex(),
                policy_sha256=filed.said.policy_sha256,
                expires=filed.said.expires,
            )
            for site, filed in evidence.approvals.items()
        ),
        rounds=_rounds(evidence),
        sites=tuple(
            SiteSummary(
                site=site,
                attestation_sha256=sha256(raw).hex(),
                policy_sha256=said.policy_sha256,
                floors=said.floors,
                privacy=said.privacy,
                canaries=said.canaries,
                exclusions_hmac_sha256=said.exclusions_hmac_sha256,
            )
            for site, (raw, said) in evidence.attestations.items()
        ),
        not_attested=tuple(sorted(plan.roster.sites.keys() - evidence.attestations.keys())),
        refusals=sum(isinstance(e, RefusalEntry) for e in book.entries),
        log=LogSummary(
            origin=book.opened.checkpoint.origin,
            entries=len(book.entries),
            root_sha256=book.opened.checkpoint.head.root.hex(),
            cosigned=dict(sorted(book.opened.cosigned.items())),
        ),
        coordinator_versions=versions,
    )
    return Statement(subject=subject, predicate=certificate)


def _plan(plan: Plan) -> PlanSummary:
    return PlanSummary(
        name=plan.name,
        sha256=plan.digest().hex(),
        base_model=plan.model.base,
        base_weights_sha256=str(plan.model.weights_sha256),
        strategy=plan.lora.strategy,
        rank=plan.lora.rank,
        rounds=plan.rounds,
        secure_mode=plan.secure.mode,
        minimum_cohort=plan.secure.minimum_cohort,
        threshold=plan.secure.quorum,
        dp_mode=plan.dp.mode,
        weight_rule=plan.weighting.rule,
        weight_cap=plan.weighting.cap,
    )


def _rounds(evidence: Evidence) -> tuple[RoundSummary, ...]:
    entries = evidence.book.entries
    survivors = evidence.survivors
    started = {(e.round, e.attempt) for e in entries if isinstance(e, RoundStartedEntry)}
    return tuple(
        RoundSummary(
            round=e.round,
            cohort=len(evidence.plan.roster.sites),
            attempts=sum(number == e.round for number, _ in started),
            survivors=survivors.get(e.round, ()),
            sum_sha256=e.sum_sha256,
            adapter_sha256=e.adapter_after_sha256,
            verified_by=evidence.verified_by(e.round, e.adapter_after_sha256),
        )
        for e in entries
        if isinstance(e, AggregateEntry)
    )


def sign_certificate(statement: Statement, key: SigningKey) -> bytes:
    """A DSSE envelope by the coordinator's key."""
    return sign_envelope(PAYLOAD_TYPE, canonical(statement), key)


def open_certificate(data: bytes, coordinator: PublicKey) -> Statement:
    """Signature first, then strict parsing; VerificationError or CodecError."""
    return parse_canonical(open_envelope(data, PAYLOAD_TYPE, {coordinator}), Statement, CERTIFICATE)


def require_same(found: Statement, derived: Statement) -> None:
    """VerificationError names the first field in which a certificate says something else than the evidence."""
    one, other = found.model_dump(mode="json"), derived.model_dump(mode="json")
    for part in ("subject", "predicate"):
        if one[part] == other[part]:
            continue
        where = part if part == "subject" else next(k for k in one[part] if one[part][k] != other[part][k])
        raise VerificationError(f"the certificate's {where} is not what approvals, log, attestations and adapter say")
