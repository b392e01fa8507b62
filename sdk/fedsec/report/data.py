"""Everything that the report shows, gathered from the run folder alone; each part is checked as it is read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsec.evaluation.scores import KINDS, Kind
from fedsec.logfile import CHECKPOINT
from fedsec.plan.attestation import Attestation, Floors
from fedsec.plan.explain import explain
from fedsec.plan.model import Plan
from fedsec.plan.spoken import spoken
from fedsec.plan.statement import Statement
from fedsec.report.exposure import Exposures, exposures
from fedsec.report.groups import Grouping, grouping
from fedsec.report.protection import Protection, protection
from fedsec.report.rounds import Aborted, Refusal, RoundReport, Traffic, ending, refusals, rounds, total_bytes
from fedsec.report.scoring import KindReport, kind_report, learning_curve
from fedsec.study.certificate import ADAPTER_AT_SITES, CERTIFICATE, Certificate, open_certificate
from fedsec.study.evidence import FiledApproval, read_approvals, read_attestations
from fedsec.study.folder import RunFolder
from fedsec.study.logbook import Logbook
from fedsec.study.manifest import file_digest
from fedsec_secure.errors import VerificationError
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.record.entries import AggregateEntry, Entry


@dataclass(frozen=True)
class Allowed:
    """One officer's approval."""

    site: str
    words: tuple[str, ...]
    """The keys of the officers who signed, as they are compared by telephone."""
    until: datetime.datetime
    policy_sha256: str


@dataclass(frozen=True)
class Budget:
    """One site's privacy ledger, as the site attests it; no numbers where it attests nothing."""

    site: str
    attested: bool
    unit: str = ""
    releases: int = 0
    run: float = 0.0
    before: float = 0.0
    after: float = 0.0
    delta: float = 0.0
    floors: Floors | None = None
    exclusion_list: bool = False
    """Whether patients are left out here, by a list that the site can show later."""


@dataclass(frozen=True)
class Certified:
    """The certificate, its file's digest, and when its log was signed by the sites' clocks."""

    digest: str
    says: Certificate
    first_signed: datetime.datetime
    last_signed: datetime.datetime
    adapter_here: bool
    """Whether the folder has the adapter; otherwise the sites alone have it."""


@dataclass(frozen=True)
class ReportData:
    """What the page shows."""

    run: str
    distributed: bool
    """Whether sites joined from processes of their own, or one process ran all; the coordinator's word."""
    plan: Plan
    plan_sha256: str
    certified: Certified | None
    """None for a run that is not finished."""
    allowed: tuple[Allowed, ...]
    statements: tuple[Statement, ...]
    protection: Protection
    budgets: tuple[Budget, ...]
    exposures: Exposures
    rounds: tuple[RoundReport, ...]
    grouping: Grouping
    ending: Traffic | None
    sent: int
    received: int
    refusals: tuple[Refusal, ...]
    aborted: tuple[Aborted, ...]
    kinds: tuple[KindReport, ...]
    curves: Mapping[Kind, Mapping[str, Sequence[tuple[int, float]]]]
    """Kind -> test set -> (round, F1), where the run has scores between rounds."""


def gather(folder: RunFolder) -> ReportData:
    """Read a run folder, finished or not. FedsecError where something in it is not what its authors signed."""
    plan, events = folder.plan, folder.events()
    approvals = read_approvals(folder.path, plan)
    said = {site: s for site, (_, s) in read_attestations(folder.path, plan, folder.run).items()}
    book = Logbook.read(folder.path) if (folder.path / "log" / CHECKPOINT).is_file() else None
    entries: tuple[Entry, ...] = () if book is None else book.entries
    sent, received = total_bytes(events)
    refused, aborted = refusals(plan, entries, events)
    results = folder.results()
    over = rounds(plan, entries, events, _verified(entries, said))
    return ReportData(
        run=folder.run,
        distributed=folder.distributed,
        plan=plan,
        plan_sha256=plan.digest().hex(),
        certified=_certified(folder),
        allowed=tuple(_allowed(plan, site, filed) for site, filed in approvals.items()),
        statements=tuple(explain(plan)),
        protection=protection(plan),
        budgets=tuple(_budget(site, said.get(site)) for site in plan.roster.sites),
        exposures=exposures(plan, said),
        rounds=over,
        grouping=grouping(plan, entries, events, [row.number - 1 for row in over]),
        ending=ending(plan, events),
        sent=sent,
        received=received,
        refusals=refused,
        aborted=aborted,
        kinds=tuple(report for kind in KINDS if (report := kind_report(results, kind)) is not None),
        curves={kind: curve for kind in KINDS if (curve := learning_curve(events, kind))},
    )


def _allowed(plan: Plan, site: str, filed: FiledApproval) -> Allowed:
    signers = [key for key in plan.roster.sites[site].officers if key in filed.signers]
    words = tuple(spoken(PublicKey.from_hex(key)) for key in signers)
    return Allowed(site, words, filed.said.expires, filed.said.policy_sha256)


def _certified(folder: RunFolder) -> Certified | None:
    path = folder.path / CERTIFICATE
    if not path.is_file():
        return None
    statement = open_certificate(path.read_bytes(), PublicKey.from_hex(folder.plan.roster.coordinator))
    certificate, here = statement.predicate, [s.name for s in statement.subject] != [ADAPTER_AT_SITES]
    if (certificate.run, certificate.plan.sha256) != (folder.run, folder.plan.digest().hex()):
        raise VerificationError(f"{CERTIFICATE} is of run {certificate.run} of another plan or run than this folder's")
    times = [datetime.datetime.fromtimestamp(t, datetime.UTC) for t in certificate.log.cosigned.values()]
    return Certified(file_digest(path), certificate, min(times), max(times), here)


def _budget(site: str, said: Attestation | None) -> Budget:
    if said is None:
        return Budget(site, attested=False)
    p = said.privacy
    run, before, after = (float(e) for e in (p.epsilon_run, p.epsilon_before, p.epsilon_after))
    excluded = said.exclusions_hmac_sha256 is not None
    return Budget(site, True, p.unit, p.releases, run, before, after, p.delta, said.floors, excluded)


def _verified(entries: Sequence[Entry], said: Mapping[str, Attestation]) -> dict[int, tuple[str, ...]]:
    """Round from 0 -> the sites that attest the adapter that the log names after it."""
    made = {e.round: e.adapter_after_sha256 for e in entries if isinstance(e, AggregateEntry)}
    return {
        number: tuple(
            site
            for site, attestation in sorted(said.items())
            if any((r.round, r.adapter_sha256) == (number, digest) for r in attestation.rounds)
        )
        for number, digest in made.items()
    }
