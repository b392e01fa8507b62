"""The site policy: what one hospital's officer allows, enforced at the site before anything else happens.

A policy is the site's and is not negotiable by message. What it does not name is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from fedsec.plan.document import canonical, digest
from fedsec.plan.matrix import combination_of, refusals
from fedsec.plan.model import Draft, LabelName, Plan, Sha256Hex, Strict
from fedsec_secure.errors import LocalMisuseError

POLICY_FORMAT: Final = 1


def _whole_utc_second(moment: datetime.datetime) -> datetime.datetime:
    if moment.utcoffset() != datetime.timedelta(0) or moment.microsecond:
        raise ValueError("expected UTC to the second, for instance 2027-01-31T12:00:00Z")
    return moment.astimezone(datetime.UTC)


UtcSecond = Annotated[AwareDatetime, AfterValidator(_whole_utc_second)]
"""RFC 3339 date-time in UTC without fractions: one moment has one text."""


class PrivacyBudget(Strict):
    """The most that one study may charge one unit."""

    unit: Literal["record", "patient"]
    max_epsilon: float = Field(gt=0)
    max_delta: float = Field(gt=0, lt=1)


class Policy(Strict):
    """What an officer allows at this site. Every field narrows; none opens more than its own words."""

    format: Literal[1] = POLICY_FORMAT
    expires: UtcSecond
    """Nothing runs under this policy from this moment on (UTC)."""
    modes: tuple[Literal["mask", "he-mask", "he", "none"], ...] = Field(min_length=1)
    """Secure modes. With none the coordinator sees this site's update."""
    minimum_cohort: int = Field(ge=1, le=1000)
    """No accepted sum may hold fewer sites."""
    weight_rules: tuple[Literal["uniform", "size", "influence", "group-influence"], ...] = Field(min_length=1)
    """Weight rules."""
    weight_cap: float = Field(gt=0, le=1)
    """No site may weigh more than this share of a round."""
    minimum_effective_cohort: float = Field(ge=1, le=1000)
    """(sum of weights)^2 / sum of squared weights, at its worst: how many equal sites the sum is as good as."""
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
    """The most that one study may charge, by unit; a DP plan without a line for its unit is refused."""
    min_cohort_change: int = Field(2, ge=1, le=1000)
    """Rosters of two runs, and without differential privacy the sites of any two sums, must be equal or differ by this
    many sites, so that no difference isolates one site. A heuristic: only differential privacy bounds combinations."""

    @model_validator(mode="after")
    def _lists_name_a_thing_once(self) -> Policy:
        for name in ("modes", "weight_rules", "base_models", "targets", "allowed_baselines", "dp_modes"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names a thing twice")
        units = [b.unit for b in self.budgets]
        if len(set(units)) != len(units):
            raise ValueError("budgets has two lines for one unit")
        return self

    def canonical(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return canonical(self)

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, 32 bytes."""
        return digest(self)


@dataclass(frozen=True)
class Violation:
    """One way in which a plan goes beyond a policy. ``number`` is the check's and stays the same over versions."""

    number: int
    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"policy check {self.number}: expected {self.expected}; found {self.found}; {self.fix}"


@dataclass(frozen=True)
class _Question:
    policy: Policy
    plan: Plan
    now: datetime.datetime
    history: tuple[frozenset[str], ...]


Answer = tuple[str, str, str] | None
"""None when the check holds, else (expected, found, what to do)."""


def check_plan(
    policy: Policy, plan: Plan, now: datetime.datetime, history: Iterable[frozenset[str]] = ()
) -> list[Violation]:
    """Everything in which ``plan`` goes beyond ``policy`` at the moment ``now``; empty when it may run.

    Args:
        policy: the site's policy.
        plan: the compiled plan.
        now: the present moment, with a time zone.
        history: the site keys (hex) of each roster that this site has released an update to before.
    """
    if now.tzinfo is None:
        raise LocalMisuseError("check_plan needs a moment with a time zone")
    question = _Question(policy, plan, now, tuple(history))
    answers = ((number, check(question)) for number, check in enumerate(_CHECKS, start=1))
    return [Violation(number, *answer) for number, answer in answers if answer is not None]


def check_run_count(policy: Policy, started: int) -> Violation | None:
    """Whether one more run may start where ``started`` other runs have, under the same approval."""
    if started < policy.max_runs:
        return None
    number = len(_CHECKS) + 1
    return Violation(
        number, f"at most {policy.max_runs} runs under one approval", f"{started} before this one", "approve again"
    )


def check_signatures(policy: Policy, signed: int) -> Violation | None:
    """Whether an approval that ``signed`` different officers of this site have signed counts."""
    if signed >= policy.approvals_required:
        return None
    number = len(_CHECKS) + 2
    return Violation(
        number,
        f"the signatures of {policy.approvals_required} officers under an approval",
        f"{signed}",
        "have another officer of this site sign the same one: `fedsec plan approve --add`",
    )


def draft_policy(plan: Plan, expires: datetime.datetime, max_runs: int = 1) -> Policy:
    """The tightest policy that lets this plan run ``max_runs`` times until ``expires``: a start for an officer."""
    if plan.model.weights_sha256 is None:
        raise LocalMisuseError("a compiled plan pins its weights")
    budgets: tuple[PrivacyBudget, ...] = ()
    if plan.dp.target_epsilon is not None and plan.dp.target_delta is not None:
        limits = (plan.dp.target_epsilon, plan.dp.target_delta)
        budgets = (PrivacyBudget(unit=plan.dp.unit, max_epsilon=limits[0], max_delta=limits[1]),)
    return Policy(
        expires=expires,
        modes=(plan.secure.mode,),
        minimum_cohort=plan.secure.quorum,
        weight_rules=(plan.weighting.rule,),
        weight_cap=plan.weighting.cap,
        minimum_effective_cohort=_rounded_down(worst_effective_cohort(plan)),
        base_models=(plan.model.weights_sha256,),
        targets=plan.lora.targets,
        max_rank=plan.lora.rank,
        max_rounds=plan.rounds,
        max_runs=max_runs,
        allowed_baselines=plan.evaluation.baselines,
        dp_modes=(plan.dp.mode,),
        budgets=budgets,
        min_cohort_change=plan.secure.min_cohort_change,
    )


def worst_effective_cohort(plan: Draft) -> Fraction:
    """The smallest (Σw)²/Σw² that any accepted sum can have under the plan's weight rule.

    The ratio is quasi-concave in the weights, so its least value lies where each is at one of its bounds; and one more
    site never lowers it there, so only the quorum matters. Scores of ``influence`` are bounded by the cap alone: the
    value is then 1/cap.
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
    return max(Fraction(1), 1 / Fraction(str(plan.weighting.cap)))


def _rounded_down(value: Fraction) -> float:
    """Three decimals, never above the value."""
    return int(value * 1000) / 1000


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(v) for v in values) or "nothing"


def _supported(q: _Question) -> Answer:
    """A combination that this version cannot protect must not start, whatever a policy says."""
    reasons = refusals(combination_of(q.plan))
    return ("a combination that this version supports", "; ".join(reasons), "change the plan") if reasons else None


def _not_expired(q: _Question) -> Answer:
    if q.now < q.policy.expires:
        return None
    return (f"a policy valid after {q.now:%Y-%m-%d %H:%M:%SZ}", f"expired {q.policy.expires:%Y-%m-%d}", "renew it")


def _mode(q: _Question) -> Answer:
    """Downgrade: a plan that asks for less protection than the officer allowed."""
    if q.plan.secure.mode in q.policy.modes:
        return None
    return (f"secure.mode of {_listed(q.policy.modes)}", q.plan.secure.mode, "set secure.mode to an allowed one")


def _minimum_cohort(q: _Question) -> Answer:
    """Small cohorts: with few sites in a sum, the others can subtract their own updates."""
    if q.plan.secure.quorum >= q.policy.minimum_cohort:
        return None
    wanted = q.policy.minimum_cohort
    return (f"at least {wanted} sites in every sum", f"{q.plan.secure.quorum}", "raise secure.minimum_cohort")


def _weight_rule(q: _Question) -> Answer:
    if q.plan.weighting.rule in q.policy.weight_rules:
        return None
    allowed = _listed(q.policy.weight_rules)
    return (f"weighting.rule of {allowed}", q.plan.weighting.rule, "set weighting.rule to an allowed one")


def _weight_cap(q: _Question) -> Answer:
    if q.plan.weighting.cap <= q.policy.weight_cap:
        return None
    return (f"weighting.cap of at most {q.policy.weight_cap}", f"{q.plan.weighting.cap}", "lower weighting.cap")


def _effective_cohort(q: _Question) -> Answer:
    """A cohort in name only: one heavy site, and the rest hide nobody."""
    worst = worst_effective_cohort(q.plan)
    if worst >= Fraction(str(q.policy.minimum_effective_cohort)):
        return None
    return (
        f"an effective cohort of at least {q.policy.minimum_effective_cohort}",
        f"{_rounded_down(worst)} at worst",
        "narrow weighting.count_min to count_max, or raise secure.minimum_cohort",
    )


def _base_model(q: _Question) -> Answer:
    if q.plan.model.weights_sha256 in q.policy.base_models:
        return None
    allowed = _listed(d[:12] + "…" for d in q.policy.base_models)
    found = f"{(q.plan.model.weights_sha256 or 'none')[:12]}… ({q.plan.model.base})"
    return (f"base weights {allowed}", found, "use an allowed base model")


def _targets(q: _Question) -> Answer:
    extra = [t for t in q.plan.lora.targets if t not in q.policy.targets]
    return (f"lora.targets within {_listed(q.policy.targets)}", _listed(extra), "remove these") if extra else None


def _rank(q: _Question) -> Answer:
    if q.plan.lora.rank <= q.policy.max_rank:
        return None
    return (f"lora.rank of at most {q.policy.max_rank}", f"{q.plan.lora.rank}", "lower lora.rank")


def _rounds(q: _Question) -> Answer:
    if q.plan.rounds <= q.policy.max_rounds:
        return None
    return (f"at most {q.policy.max_rounds} rounds", f"{q.plan.rounds}", "lower rounds")


def _dp_mode(q: _Question) -> Answer:
    if q.plan.dp.mode in q.policy.dp_modes:
        return None
    return (f"dp.mode of {_listed(q.policy.dp_modes)}", q.plan.dp.mode, "set dp.mode to an allowed one")


def _budget(q: _Question) -> Answer:
    if q.plan.dp.mode == "none":
        return None
    dp = q.plan.dp
    budget = next((b for b in q.policy.budgets if b.unit == dp.unit), None)
    if budget is None:
        return (f"dp.unit of {_listed(b.unit for b in q.policy.budgets)}", dp.unit, "ask for a budget of this unit")
    limit = f"epsilon <= {budget.max_epsilon} and delta <= {budget.max_delta} per {dp.unit}"
    if dp.target_epsilon is None or dp.target_delta is None:
        return (limit, "a plan without targets", "set dp.target_epsilon and dp.target_delta")
    if dp.target_epsilon > budget.max_epsilon or dp.target_delta > budget.max_delta:
        return (limit, f"epsilon {dp.target_epsilon}, delta {dp.target_delta}", "lower the targets")
    return None


def _baselines(q: _Question) -> Answer:
    extra = [b for b in q.plan.evaluation.baselines if b not in q.policy.allowed_baselines]
    allowed = _listed(q.policy.allowed_baselines)
    return (f"evaluation.baselines within {allowed}", _listed(extra), "remove these") if extra else None


def _cohort_change(q: _Question) -> Answer:
    """Differencing: two runs whose rosters differ by one site isolate that site in the difference of their sums."""
    roster = frozenset(site.key for site in q.plan.roster.sites.values())
    changes = [len(roster ^ before) for before in q.history]
    close = [c for c in changes if 0 < c < q.policy.min_cohort_change]
    if not close:
        return None
    return (
        f"the roster of an earlier run, or one that differs by {q.policy.min_cohort_change} sites or more",
        f"one that differs by {min(close)}",
        "change the roster by more sites, or not at all",
    )


def _survivor_change(q: _Question) -> Answer:
    """The same between rounds: the coordinator has to know how far two survivor sets must be apart."""
    if q.plan.dp.mode != "none" or q.plan.secure.mode == "none":
        return None
    wanted, found = q.policy.min_cohort_change, q.plan.secure.min_cohort_change
    if found >= wanted:
        return None
    return (f"secure.min_cohort_change of at least {wanted}", f"{found}", "raise secure.min_cohort_change")


_CHECKS: Final[tuple[Callable[[_Question], Answer], ...]] = (
    _supported,
    _not_expired,
    _mode,
    _minimum_cohort,
    _weight_rule,
    _weight_cap,
    _effective_cohort,
    _base_model,
    _targets,
    _rank,
    _rounds,
    _dp_mode,
    _budget,
    _baselines,
    _cohort_change,
    _survivor_change,
)
"""In this order, numbered from 1; new checks go to the end."""
