"""The site policy: what one hospital's officer allows, enforced at the site before anything else happens.

A policy is the site's and is not negotiable by message. What it does not name is refused.
"""

from __future__ import annotations

import datetime
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from fedsec.plan.document import canonical, digest
from fedsec.plan.model import Draft, Plan
from fedsec.plan.specs import LabelName, Sha256Hex, SiteName, Strict
from fedsec_secure.errors import LocalMisuseError

POLICY_FORMAT: Final = 1


def _whole_utc_second(moment: datetime.datetime) -> datetime.datetime:
    if moment.utcoffset() != datetime.timedelta(0) or moment.microsecond:
        raise ValueError("expected UTC to the second, for instance 2027-01-31T12:00:00Z")
    return moment.astimezone(datetime.UTC)


UtcSecond = Annotated[AwareDatetime, AfterValidator(_whole_utc_second)]
"""RFC 3339 date-time in UTC without fractions: one moment has one text."""


class PrivacyBudget(Strict):
    """The most that may be charged to one unit of a data set."""

    unit: Literal["record", "patient"]
    max_epsilon: float = Field(gt=0)
    """By one study."""
    max_delta: float = Field(gt=0, lt=1)
    """The δ at which epsilon is counted."""
    total_epsilon: float | None = Field(None, gt=0)
    """By all studies ever, together; where nothing stands, as much as one study may. Not to be raised after results
    were seen: the ledger's proof is for a limit that was fixed beforehand."""
    population: SiteName | None = None
    """The data set, as the site file's population names it; where nothing stands, every other."""

    @property
    def total(self) -> float:
        """What all studies together may charge."""
        return self.max_epsilon if self.total_epsilon is None else self.total_epsilon

    @model_validator(mode="after")
    def _all_is_no_less_than_one(self) -> PrivacyBudget:
        if self.total < self.max_epsilon:
            raise ValueError(f"total_epsilon {self.total:g} is below max_epsilon {self.max_epsilon:g} of one study")
        return self


class Policy(Strict):
    """What an officer allows at this site. Every field narrows; none opens more than its own words."""

    format: Literal[1] = POLICY_FORMAT
    expires: UtcSecond
    """Nothing runs under this policy from this moment on (UTC)."""
    modes: tuple[Literal["mask", "he-mask", "he", "none"], ...] = Field(min_length=1)
    """Secure modes. With none the coordinator sees this site's update."""
    minimum_cohort: int = Field(ge=1, le=1000)
    """No sum that is opened may hold fewer sites, a group's neither."""
    weight_rules: tuple[Literal["uniform", "size", "influence", "group-influence"], ...] = Field(min_length=1)
    """Weight rules."""
    weight_cap: float = Field(gt=0, le=1)
    """No site may weigh more than this share of a round."""
    minimum_effective_cohort: float = Field(ge=1, le=1000)
    """(sum of weights)^2 / sum of squared weights, at its worst: how many equal sites the sum is as good as."""
    minimum_validation: int = Field(5, ge=1, le=1 << 24)
    """Rule influence: weights are drawn from the losses on at least so many examples. Of few the weights are chance."""
    base_models: tuple[Sha256Hex, ...] = Field(min_length=1)
    """Digests of the base model weights that may be trained."""
    targets: tuple[LabelName, ...] = Field(min_length=1)
    """Linear layers that may carry an adapter."""
    max_rank: int = Field(ge=1, le=256)
    """Highest LoRA rank: a bound on how much an adapter can memorise."""
    max_rounds: int = Field(ge=1, le=10_000)
    """Most rounds of one plan."""
    max_runs: int = Field(ge=1, le=10_000)
    """Most runs (run ids) under one approval."""
    approvals_required: int = Field(1, ge=1, le=64)
    """How many of this site's officers must sign an approval before it counts. One of them alone withdraws it."""
    allowed_baselines: tuple[Literal["zero-shot", "single", "central"], ...] = ()
    """Comparisons. single publishes scores of this site's own adapter on public tests; central pools notes."""
    dp_modes: tuple[Literal["none", "local", "distributed"], ...] = Field(min_length=1)
    """Differential privacy of training. Leave none out to require it."""
    budgets: tuple[PrivacyBudget, ...] = ()
    """The most that may be charged, by data set and unit; a DP plan without a line for its unit is refused."""
    min_colluders: int = Field(0, ge=0, le=999)
    """Distributed noise has to be enough even if so many sites of a sum tell others theirs."""
    max_exposure: float | None = Field(None, ge=1.5, le=10)
    """Mean exposure of this site's canaries, in bits, above which the run's adapter is not released: 1.44 is chance.
    With it a plan has to plant canaries; without, what an adapter knows by heart is measured or not as the plan says.
    Of a site that is not in the last sum the run ends without the measurement, if it does not come.
    """
    min_cohort_change: int = Field(2, ge=1, le=1000)
    """Rosters of two runs, and without differential privacy the sites of any two sums, must be equal or differ by this
    many sites, so that no difference isolates one site. A heuristic: only differential privacy bounds combinations."""

    @model_validator(mode="after")
    def _lists_name_a_thing_once(self) -> Policy:
        for name in ("modes", "weight_rules", "base_models", "targets", "allowed_baselines", "dp_modes"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names a thing twice")
        lines = [(b.unit, b.population) for b in self.budgets]
        if len(set(lines)) != len(lines):
            raise ValueError("budgets has two lines for one unit of one population")
        return self

    def budget(self, unit: str, population: str) -> PrivacyBudget | None:
        """The line for this unit of this data set; None where nothing may be charged to it."""
        lines = {b.population: b for b in self.budgets if b.unit == unit}
        return lines.get(population) or lines.get(None)

    def canonical(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return canonical(self)

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, 32 bytes."""
        return digest(self)


def draft_policy(plan: Plan, expires: datetime.datetime, max_runs: int = 1) -> Policy:
    """The tightest policy that lets this plan run ``max_runs`` times until ``expires``: a start for an officer."""
    if plan.model.weights_sha256 is None:
        raise LocalMisuseError("a compiled plan pins its weights")
    public, private = plan.weighting.validation, plan.weighting.private
    drawn = 5 if private is None else private.expected_units
    drawn = drawn if public is None or public.examples is None else public.examples
    budgets: tuple[PrivacyBudget, ...] = ()
    if plan.dp.target_epsilon is not None and plan.dp.target_delta is not None:
        limits = (plan.dp.target_epsilon, plan.dp.target_delta)
        budgets = (PrivacyBudget(unit=plan.dp.unit, max_epsilon=limits[0], max_delta=limits[1]),)
    return Policy(
        expires=expires,
        modes=(plan.secure.mode,),
        minimum_cohort=plan.fewest_in_a_sum,
        weight_rules=(plan.weighting.rule,),
        weight_cap=plan.weighting.cap,
        minimum_effective_cohort=rounded_down(worst_effective_cohort(plan)),
        minimum_validation=drawn,
        base_models=(plan.model.weights_sha256,),
        targets=plan.lora.targets,
        max_rank=plan.lora.rank,
        max_rounds=plan.rounds,
        max_runs=max_runs,
        allowed_baselines=plan.evaluation.baselines,
        dp_modes=(plan.dp.mode,),
        budgets=budgets,
        min_colluders=plan.dp.colluders if plan.dp.mode == "distributed" else 0,
        min_cohort_change=plan.secure.min_cohort_change,
    )


def worst_effective_cohort(plan: Draft) -> Fraction:
    """The smallest (Σw)²/Σw² that any accepted sum can have under the plan's weight rule.

    The ratio is quasi-concave in the weights, so its least value lies where each is at one of its bounds; and one more
    site never lowers it there, so only the quorum matters. With ``influence`` the cap bounds it by 1/cap, and what the
    plan itself refuses below.
    """
    quorum = plan.secure.quorum
    if plan.weighting.rule == "uniform":
        return Fraction(quorum)
    if plan.weighting.rule == "size":
        low, high = plan.weighting.count_min, plan.weighting.count_max
        return min(
            Fraction((k * high + (quorum - k) * low) ** 2, k * high**2 + (quorum - k) * low**2)
            for k in range(quorum + 1)
        )
    return max(1 / Fraction(str(plan.weighting.cap)), Fraction(str(plan.weighting.effective_cohort)))


def rounded_down(value: Fraction) -> float:
    """Three decimals, never above the value."""
    return int(value * 1000) / 1000
