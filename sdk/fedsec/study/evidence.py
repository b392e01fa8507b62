"""What a finished run folder holds that officers and sites signed: read, checked, and held against each other."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from fedsec.plan.approval import Approval, open_approval
from fedsec.plan.attestation import Attestation, open_attestation, withheld
from fedsec.plan.document import read_bounded
from fedsec.plan.group_checks import is_grouped
from fedsec.plan.model import Plan
from fedsec.study.logbook import Logbook
from fedsec.training.adapter import load_peft
from fedsec_secure.codec import sha256
from fedsec_secure.errors import CodecError, VerificationError
from fedsec_secure.identity.envelope import MAX_ENVELOPE_BYTES
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.masking.draw import least_threshold
from fedsec_secure.record.entries import (
    AggregateEntry,
    ApprovalEntry,
    AttestationEntry,
    DrawEntry,
    Entry,
    ModelEntry,
    RunFinishedEntry,
    SurvivorsEntry,
)

ATTESTATIONS = "attestations"
MAX_ADAPTER_BYTES: Final = (1 << 32) - 1
"""What one message of a run can carry."""


@dataclass(frozen=True)
class FiledApproval:
    """An approval as it lies in the folder."""

    raw: bytes
    said: Approval
    signers: tuple[str, ...]
    """Public keys (hex, sorted) of the officers who signed."""


@dataclass(frozen=True)
class Evidence:
    """Everything that is signed in one run folder."""

    folder: Path
    run: str
    plan: Plan
    approvals: dict[str, FiledApproval]
    """By site."""
    book: Logbook
    attestations: dict[str, tuple[bytes, Attestation]]

    @classmethod
    def read(cls, folder: Path, run: str, plan: Plan) -> Evidence:
        """Every signature is verified; what the parts say of each other is for `EVIDENCE_CHECKS`."""
        approvals, book = read_approvals(folder, plan), Logbook.read(folder)
        return cls(folder, run, plan, approvals, book, read_attestations(folder, plan, run))

    @property
    def has_adapter(self) -> bool:
        """Whether the adapter is in the folder. Where sums are encrypted it may be at the sites alone."""
        return not self.plan.secure.is_encrypted or (self.folder / "adapter").exists()

    @property
    def survivors(self) -> dict[int, tuple[str, ...]]:
        """By round: whose updates are in its sum, or in the sums of its groups."""
        return survivors_of(self.book.entries)

    @property
    def model(self) -> ModelEntry:
        """The registration of the run's adapter; VerificationError where there is not exactly one."""
        found = [e for e in self.book.entries if isinstance(e, ModelEntry)]
        if len(found) != 1:
            raise VerificationError(f"the log registers {len(found)} adapters; expected the run's one")
        return found[0]

    def verified_by(self, round_index: int, adapter: str) -> tuple[str, ...]:
        """Sites that attest this adapter (digest, hex) after this round."""
        return tuple(
            site
            for site, (_, said) in self.attestations.items()
            if any((r.round, r.adapter_sha256) == (round_index, adapter) for r in said.rounds)
        )


def survivors_of(entries: Iterable[Entry]) -> dict[int, tuple[str, ...]]:
    """By round: all survivors that the log has, of whatever group, sorted."""
    found: dict[int, set[str]] = {}
    for entry in entries:
        if isinstance(entry, SurvivorsEntry):
            found.setdefault(entry.round, set()).update(entry.sites)
    return {number: tuple(sorted(sites)) for number, sites in found.items()}


def read_approvals(folder: Path, plan: Plan) -> dict[str, FiledApproval]:
    """Each site's approval by its officers, of this plan.

    VerificationError for one that is forged, of another plan or another site, missing, or too many.
    """
    paths = {path.stem: path for path in sorted((folder / "approvals").glob("*.json"))}
    if set(paths) != set(plan.roster.sites):
        missing, extra = (
            sorted(plan.roster.sites.keys() - paths.keys()),
            sorted(paths.keys() - plan.roster.sites.keys()),
        )
        raise VerificationError(
            f"expected an approval for each site of the roster; missing: {', '.join(missing) or 'none'}; for sites "
            f"that the roster does not have: {', '.join(extra) or 'none'}"
        )
    found = {}
    for site, path in paths.items():
        found[site] = read_approval(path, site, plan)
    return found


def read_approval(path: Path, site: str, plan: Plan) -> FiledApproval:
    """One site's approval of this plan, by officers whom the plan names; VerificationError otherwise, or OSError."""
    raw = read_bounded(path, MAX_ENVELOPE_BYTES)
    officers = [PublicKey.from_hex(key) for key in plan.roster.sites[site].officers]
    approval, signers = open_approval(raw, site, officers)
    if approval.site != site or approval.plan_sha256 != plan.digest().hex():
        raise VerificationError(f"approvals/{path.name} approves another plan, or this one for {approval.site}")
    return FiledApproval(raw, approval, signers)


def read_attestations(folder: Path, plan: Plan, run: str) -> dict[str, tuple[bytes, Attestation]]:
    """What each site signed of itself; VerificationError for one that is forged or of another run."""
    found = {}
    for path in sorted((folder / ATTESTATIONS).glob("*.json")):
        member = plan.roster.sites.get(path.stem)
        if member is None:
            raise VerificationError(f"{ATTESTATIONS}/{path.name}: the roster has no such site")
        raw = read_bounded(path, MAX_ENVELOPE_BYTES)
        found[path.stem] = raw, open_attestation(raw, path.stem, PublicKey.from_hex(member.key), plan, run)
    return found


def _approvals_in_log(evidence: Evidence) -> None:
    """The log has these approvals and no others, and each was valid when its site last cosigned."""
    logged = {e.site: e for e in evidence.book.entries if isinstance(e, ApprovalEntry)}
    if set(logged) != set(evidence.approvals):
        raise VerificationError("the log has approvals of other sites than the folder")
    cosigned = evidence.book.opened.cosigned
    middle = statistics.median_low(cosigned.values())  # of a site that did not cosign: one wrong clock decides nothing
    for site, filed in evidence.approvals.items():
        approval = filed.said
        said = (logged[site].plan_sha256, logged[site].policy_sha256, logged[site].officers)
        if said != (approval.plan_sha256, approval.policy_sha256, filed.signers):
            raise VerificationError(f"the log has another approval of {site} than the folder")
        moment = datetime.datetime.fromtimestamp(cosigned.get(site, middle), datetime.UTC)
        if moment >= approval.expires:
            raise VerificationError(
                f"the approval of {site} ended {approval.expires:%Y-%m-%d %H:%M:%SZ}; the run went on until "
                f"{moment:%Y-%m-%d %H:%M:%SZ} by the sites' clocks; approve for longer, or set the clock that is wrong"
            )


def _attestations(evidence: Evidence) -> None:
    """Enough sites attest, what they signed is what the log holds, and it was under the approval that lies here."""
    logged = {e.site: e for e in evidence.book.entries if isinstance(e, AttestationEntry)}
    if set(logged) != set(evidence.attestations):
        raise VerificationError("the log has attestations of other sites than the folder")
    if len(logged) < evidence.plan.secure.quorum:
        raise VerificationError(f"{len(logged)} sites attest; expected {evidence.plan.secure.quorum}")
    _released(evidence)
    for site, (raw, said) in evidence.attestations.items():
        entry, filed = logged[site], evidence.approvals[site]
        if entry.attestation_sha256 != sha256(raw).hex():
            raise VerificationError(f"the log has another attestation of {site} than the folder")
        if entry.exclusions_hmac_sha256 != said.exclusions_hmac_sha256:
            raise VerificationError(f"the log has another exclusion list of {site} than its attestation")
        if said.approval_sha256 != sha256(filed.raw).hex() or said.policy_sha256 != filed.said.policy_sha256:
            raise VerificationError(f"{site} attests that it ran under another approval or policy than lies here")
        if len(filed.signers) < said.floors.approvals_required:
            raise VerificationError(
                f"the policy of {site} asks for {said.floors.approvals_required} officers; {len(filed.signers)} signed"
            )


def _released(evidence: Evidence) -> None:
    """No site withholds the adapter, and where canaries were planted none that was in the last sum keeps quiet."""
    survivors = evidence.survivors
    if evidence.plan.canaries.per_site and survivors:
        quiet = sorted(set(survivors[max(survivors)]) - evidence.attestations.keys())
        if quiet:
            raise VerificationError(
                f"{', '.join(quiet)} attests no exposure of canaries; every site of the last sum has to"
            )
    for _, said in evidence.attestations.values():
        why = withheld(said)
        if why is not None:
            raise VerificationError(why)


def _rounds(evidence: Evidence) -> None:
    """Every round of the plan ended once, from the adapter before it, above all floors, as enough sites attest."""
    plan, entries = evidence.plan, evidence.book.entries
    sums = [e for e in entries if isinstance(e, AggregateEntry)]
    if [e.round for e in sums] != list(range(plan.rounds)):
        raise VerificationError(f"the log has sums of rounds {[e.round for e in sums]}; the plan has {plan.rounds}")
    survivors = evidence.survivors
    floor = max([plan.secure.quorum, *(said.floors.minimum_cohort for _, said in evidence.attestations.values())])
    _groups(evidence)
    for before, now in pairwise(sums):
        if now.adapter_before_sha256 != before.adapter_after_sha256:
            raise VerificationError(f"round {now.round} did not start from the adapter that round {before.round} made")
    for entry in sums:
        names = survivors.get(entry.round, ())
        if len(names) < floor:
            raise VerificationError(f"round {entry.round} has {len(names)} survivors; the floors ask for {floor}")
        agreeing = evidence.verified_by(entry.round, entry.adapter_after_sha256)
        if len(agreeing) < plan.secure.quorum:
            raise VerificationError(
                f"round {entry.round}: {len(agreeing)} sites attest the adapter that the log names; expected "
                f"{plan.secure.quorum}"
            )
    for site, (_, said) in evidence.attestations.items():
        for own in said.rounds:
            if own.adapter_sha256 != sums[own.round].adapter_after_sha256:
                raise VerificationError(f"{site} attests another adapter after round {own.round} than the log")
            if own.took_part and site not in survivors.get(own.round, ()):
                raise VerificationError(f"{site} attests its part in round {own.round}; the log counts it out")


def _groups(evidence: Evidence) -> None:
    """One set of survivors a round, or where sites are weighed in groups one of each group that the run drew, none
    below that group's floor.
    """
    plan, entries = evidence.plan, evidence.book.entries
    drawn = [e.groups for e in entries if isinstance(e, DrawEntry)]
    if is_grouped(plan) != (len(drawn) == 1) or len(drawn) > 1:
        raise VerificationError(f"the log has {len(drawn)} draws of groups; the plan's rule is {plan.weighting.rule}")
    groups = drawn[0] if drawn else (tuple(plan.roster.sites),)
    if sorted(site for group in groups for site in group) != sorted(plan.roster.sites):
        raise VerificationError("the groups in the log are not the plan's roster, each site once")
    least = max([plan.secure.minimum_cohort, *(s.floors.minimum_cohort for _, s in evidence.attestations.values())])
    for number in range(plan.rounds):
        sets = [e.sites for e in entries if isinstance(e, SurvivorsEntry) and e.round == number]
        if len(sets) != len(groups):
            raise VerificationError(f"round {number} has {len(sets)} sets of survivors; expected {len(groups)}")
        for group, sites in zip(groups, sets, strict=True):
            floor = max(least, least_threshold(len(group))) if drawn else 1
            if not set(sites) <= set(group) or len(sites) < floor:
                raise VerificationError(
                    f"round {number} has {len(sites)} survivors of one group; expected {floor} of {', '.join(group)}"
                )


def _adapter(evidence: Evidence) -> None:
    """The adapter in the folder, or its digest alone, is the one that the last round made and the log registers."""
    entries, model = evidence.book.entries, evidence.model
    last = [e for e in entries if isinstance(e, AggregateEntry)][-1]
    digest = _digest_of_adapter(evidence.folder) if evidence.has_adapter else last.adapter_after_sha256
    ends = [e for e in entries if isinstance(e, RunFinishedEntry)]
    claims = {model.adapter_sha256, last.adapter_after_sha256, *(e.adapter_sha256 for e in ends)}
    if len(ends) != 1 or claims != {digest}:
        what = "adapter in the folder" if evidence.has_adapter else "adapter that the sites attest"
        raise VerificationError(f"the {what} is not the one that the log registers for this run")
    if model.plan_sha256 != evidence.plan.digest().hex() or model.run != evidence.run:
        raise VerificationError("the log registers the adapter for another plan or run")
    if model.base_weights_sha256 != evidence.plan.model.weights_sha256:
        raise VerificationError("the log registers the adapter for another base model than the plan's")


def _digest_of_adapter(folder: Path) -> str:
    """Hex; CodecError for a file that no run could have made."""
    path = folder / "adapter" / "adapter_model.safetensors"
    if path.is_file() and path.stat().st_size > MAX_ADAPTER_BYTES:
        raise CodecError(f"{path} has {path.stat().st_size} bytes; at most {MAX_ADAPTER_BYTES} are read")
    return load_peft(path.parent).digest().hex()


ADAPTER_CHECK: Final = "the adapter is the one that the rounds made"
EVIDENCE_CHECKS: Final[tuple[tuple[str, Callable[[Evidence], None]], ...]] = (
    ("every site had an approval, in the log, that had not ended", _approvals_in_log),
    ("enough sites attest what they did, under those approvals", _attestations),
    ("every round held the floors, and enough sites attest its adapter", _rounds),
    (ADAPTER_CHECK, _adapter),
)
"""What holds of the evidence of a finished run, in this order; VerificationError where it does not."""
