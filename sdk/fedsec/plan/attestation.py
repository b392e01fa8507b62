"""A site's attestation: what it did in one run, signed when the run is over. It releases nothing more of that run."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from fedsec.plan.canaries import highest
from fedsec.plan.cost import cost
from fedsec.plan.document import canonical, parse_canonical
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.plan.specs import Sha256Hex, SiteName, Strict
from fedsec_secure.errors import CodecError, VerificationError
from fedsec_secure.identity.envelope import open_envelope, sign_envelope
from fedsec_secure.identity.keys import PublicKey, SigningKey

ATTESTATION_TYPE: Final = "application/vnd.fedsec.attestation.v1+json"
Epsilon = Annotated[float, Field(ge=0)] | Literal["infinity"]
"""JSON has no infinity."""


class VerifiedRound(Strict):
    """A round whose sum this site checked itself."""

    round: int = Field(ge=0, lt=10_000)
    """From 0."""
    took_part: bool
    """Whether this site's own update is in the sum."""
    adapter_sha256: Sha256Hex
    """Digest of the global adapter that this site computed from the sum."""


class Floors(Strict):
    """What the site's officer asked for at least, as it was enforced: the policy's own and the plan's, the stricter."""

    minimum_cohort: int = Field(ge=1)
    """No accepted sum held fewer sites."""
    min_cohort_change: int = Field(ge=1)
    """No two survivor sets differed by fewer sites, but for equal ones. Of plans with differential privacy, or with
    secure mode none, nothing is said by it: any difference is accepted there."""
    weight_cap: float = Field(gt=0, le=1)
    """No site could weigh more than this share."""
    approvals_required: int = Field(ge=1)
    """As many officers had to sign."""
    max_exposure: float | None = Field(None, ge=0)
    """Mean exposure of this site's canaries, in bits, above which the adapter is not released; None: the officer set no
    bound."""


class Privacy(Strict):
    """What the site's privacy ledger says of the population whose notes were trained on."""

    unit: Literal["record", "patient"]
    """What is protected, or counted."""
    releases: int = Field(ge=0)
    """Charges of this run; one whose output never left stays."""
    epsilon_run: Epsilon
    """What the mechanisms of this run cost a unit that is there or not (PLD)."""
    epsilon_run_replace_one: Epsilon
    """And one whose content is exchanged."""
    epsilon_before: Epsilon
    """The ledger's bound (Rényi filter) over everything else that counts in this unit's account. What was charged to
    records with differential privacy counts in no account of patients."""
    epsilon_after: Epsilon
    """And with it."""
    delta: float = Field(gt=0, lt=1)
    """The delta at which all four are stated."""
    ledger_head_sha256: Sha256Hex
    """The newest entry of the ledger, which stands for all of them."""


class Exposed(Strict):
    """How exposed this site's canaries are under the run's adapter (Carlini et al. 2019)."""

    candidates: int = Field(ge=1)
    """How many answers that nobody trained on each was compared with."""
    bits: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    """log2(1 + candidates) - log2 rank, one by one: 0 where the answer that was trained on comes last."""

    @property
    def mean(self) -> float:
        """Over the canaries, in bits; 1.44 for an adapter that remembers nothing of them."""
        return math.fsum(self.bits) / len(self.bits)


class SiteLogHead(Strict):
    """The site's own log, which stays there, up to its attestation."""

    entries: int = Field(ge=0)
    root_sha256: Sha256Hex


class Attestation(Strict):
    """What a site signs."""

    format: Literal[1] = 1
    run: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    """The run."""
    plan_sha256: Sha256Hex
    """The plan, with roster and every setting."""
    policy_sha256: Sha256Hex
    """The policy that was enforced at every message."""
    approval_sha256: Sha256Hex
    """The officer's approval, as a file."""
    site: SiteName
    """Who speaks."""
    sums: Literal["verified", "in the open"]
    """``verified``: this site checked the tag of every sum below."""
    rounds: tuple[VerifiedRound, ...]
    """The rounds that ended here with a verdict, in order."""
    floors: Floors
    privacy: Privacy
    canaries: Exposed | None = None
    """None where the plan plants none."""
    exclusions_hmac_sha256: Sha256Hex | None = None
    """Of the list of patients who are left out, sorted, under a key that only the site has: a bare digest could be
    guessed. The site can show later which list it was. None without a list.
    """
    log: SiteLogHead
    versions: dict[str, str]
    """Software at the site, by package."""

    @model_validator(mode="after")
    def _rounds_in_order(self) -> Attestation:
        numbers = [r.round for r in self.rounds]
        if numbers != sorted(set(numbers)):
            raise ValueError("rounds must be in order, each once")
        return self


def sign_attestation(attestation: Attestation, key: SigningKey) -> bytes:
    """A DSSE envelope by the site's key."""
    return sign_envelope(ATTESTATION_TYPE, canonical(attestation), key)


def open_attestation(data: bytes, site: str, key: PublicKey, plan: Plan, run: str) -> Attestation:
    """What a site signed about this run.

    Checks: 1 signed by the site's pinned key (forgery); 2 form; 3 this site's (another's passed on); 4 this plan's and
    5 this run's (replay from another run); 6 no round that the plan does not have; 7 the epsilon that the plan's
    mechanisms have (a cost that sounds better); 8 the exposure of as many canaries as the plan plants, among as many
    candidates (a measurement that sounds better).

    Raises:
        VerificationError: with the number of the first check that failed.
    """
    try:
        payload = open_envelope(data, ATTESTATION_TYPE, {key})
    except (CodecError, VerificationError) as e:
        raise _failed(1, f"expected one signed by the pinned key of {site}; {e}") from e
    try:
        found = parse_canonical(payload, Attestation, "the attestation")
    except CodecError as e:
        raise _failed(2, str(e)) from e
    if found.site != site:
        raise _failed(3, f"expected the attestation of {site}; found one of {found.site}")
    if found.plan_sha256 != plan.digest().hex():
        raise _failed(4, f"{site} attests another plan")
    if found.run != run:
        raise _failed(5, f"{site} attests run {found.run}; expected {run}")
    if any(r.round >= plan.rounds for r in found.rounds):
        raise _failed(6, f"{site} attests more rounds than the plan's {plan.rounds}")
    _check_cost(found.privacy, plan, site)
    _check_canaries(found.canaries, plan, site)
    return found


def withheld(said: Attestation) -> str | None:
    """Why this site does not let the adapter be released; None where it does."""
    bound, found = said.floors.max_exposure, said.canaries
    if bound is None or (found is not None and found.mean <= bound):
        return None
    measured = "nothing measured" if found is None else f"{found.mean:.2f} bits in the mean of {len(found.bits)}"
    return f"{said.site} withholds the adapter: its canaries are exposed by {measured}; its policy allows {bound:g}"


def _check_canaries(said: Exposed | None, plan: Plan, site: str) -> None:
    spec = plan.canaries
    if said is None:
        if spec.per_site:
            raise _failed(8, f"{site} attests no exposure; the plan plants {spec.per_site} canaries")
        return
    if (len(said.bits), said.candidates) != (spec.per_site, spec.candidates):
        raise _failed(
            8,
            f"{site} attests the exposure of {len(said.bits)} canaries among {said.candidates} candidates; the plan "
            f"plants {spec.per_site} and compares with {spec.candidates}",
        )
    if max(said.bits) > highest(spec.candidates) * (1 + 1e-9):
        raise _failed(8, f"{site} attests {max(said.bits):.6g} bits; at most {highest(spec.candidates):.6g} can be")


def _check_cost(said: Privacy, plan: Plan, site: str) -> None:
    """Accountants of other versions and machines may differ in the last digits, and in nothing else."""
    planned = cost(plan)
    pairs = ((said.epsilon_run, planned.epsilon), (said.epsilon_run_replace_one, planned.replace_one))
    same = all(math.isclose(float(a), b, rel_tol=1e-3) for a, b in pairs)
    if not same or (said.unit, said.delta) != (plan.dp.unit, planned.delta):
        raise _failed(
            7,
            f"{site} attests epsilon {said.epsilon_run} and {said.epsilon_run_replace_one} per {said.unit} at delta "
            f"{said.delta:g}; the plan's mechanisms have {planned.epsilon:.6g} and {planned.replace_one:.6g} per "
            f"{plan.dp.unit} at {planned.delta:g}",
        )


def floors_of(plan: Plan, policy: Policy) -> Floors:
    """The stricter of both."""
    return Floors(
        minimum_cohort=max(plan.fewest_in_a_sum, policy.minimum_cohort),
        min_cohort_change=max(plan.secure.min_cohort_change, policy.min_cohort_change),
        weight_cap=min(plan.weighting.cap, policy.weight_cap),
        approvals_required=policy.approvals_required,
        max_exposure=policy.max_exposure,
    )


def _failed(number: int, message: str) -> VerificationError:
    return VerificationError(f"attestation check {number}: {message}")
