"""The policy's checks: in what a plan goes beyond what one hospital's officer allows. Enforced at the site."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from fedsec.plan.canaries import highest, no_memory_stays_below
from fedsec.plan.cost import charged, distributed_step
from fedsec.plan.matrix import combination_of, refusals
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, rounded_down, worst_effective_cohort
from fedsec.privacy.shown import shown_epsilon
from fedsec_secure.errors import ConfigError, LocalMisuseError

RUNS: Final = 17
"""The number of the one that the site's record enforces: how many runs one approval lets start."""
SIGNATURES: Final = 18
"""And of the one about the approval."""


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
    answers = ((number, check(question)) for number, check in PLAN_CHECKS.items())
    return [Violation(number, *answer) for number, answer in answers if answer is not None]


def check_signatures(policy: Policy, signed: int) -> Violation | None:
    """Whether an approval that ``signed`` different officers of this site have signed counts."""
    if signed >= policy.approvals_required:
        return None
    return Violation(
        SIGNATURES,
        f"the signatures of {policy.approvals_required} officers under an approval",
        f"{signed}",
        "have another officer of this site sign the same one: `fedsec plan approve --add`",
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(v) for v in values) or "nothing"


def _supported(q: _Question) -> Answer:
    """A combination that this version cannot protect must not start, whatever a policy says."""
    reasons = refusals(combination_of(q.plan))
    return ("a combination that this version supports", "; ".join(reasons), "change the plan") if reasons else None


def _not_expired(q: _Question) -> Answer:
    if q.now < q.policy.expires:
        return None
    expected = f"a policy valid after {q.now.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%SZ}, by this machine's clock"
    return expected, f"expired {q.policy.expires:%Y-%m-%d %H:%M:%SZ}", "renew it, or set the clock if it is wrong"


def _mode(q: _Question) -> Answer:
    """Downgrade: a plan that asks for less protection than the officer allowed."""
    if q.plan.secure.mode in q.policy.modes:
        return None
    return (f"secure.mode of {_listed(q.policy.modes)}", q.plan.secure.mode, "set secure.mode to an allowed one")


def _minimum_cohort(q: _Question) -> Answer:
    """Small cohorts: with few sites in a sum, the others can subtract their own updates."""
    fewest, wanted = q.plan.fewest_in_a_sum, q.policy.minimum_cohort
    if fewest >= wanted:
        return None
    groups = q.plan.weighting.groups
    found = f"{fewest}" if groups is None else f"{fewest}, for the sums of {groups} groups are opened one by one"
    return (f"at least {wanted} sites in every sum", found, "raise secure.minimum_cohort")


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
        f"{rounded_down(worst)} at worst",
        "narrow weighting.count_min to count_max, raise weighting.effective_cohort or secure.minimum_cohort",
    )


def _validation(q: _Question) -> Answer:
    """Weights that a handful of examples decides, and so chance, or whoever picked them."""
    public, private = q.plan.weighting.validation, q.plan.weighting.private
    if public is not None:
        count, where = public.examples or 0, public.name
    elif private is not None:
        count, where = private.expected_units, "each site's held-out notes"
    else:
        return None
    if count >= q.policy.minimum_validation:
        return None
    wanted = f"at least {q.policy.minimum_validation} examples to draw weights from"
    return (wanted, f"{count} in {where}", "take more of them")


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
    lines = [b for b in q.policy.budgets if b.unit == dp.unit]
    if not lines:
        return (f"dp.unit of {_listed(b.unit for b in q.policy.budgets)}", dp.unit, "ask for a budget of this unit")
    # Which line counts is the site file's to say; the ledger holds exactly that one.
    most, loosest = max(b.max_epsilon for b in lines), max(b.max_delta for b in lines)
    limit = f"epsilon <= {most} and delta <= {loosest} per {dp.unit}"
    if dp.target_epsilon is None or dp.target_delta is None:
        return (limit, "a plan without targets", "set dp.target_epsilon and dp.target_delta")
    if dp.target_epsilon > most or dp.target_delta > loosest:
        return (limit, f"epsilon {dp.target_epsilon}, delta {dp.target_delta}", "lower the targets")
    return None


def _noise(q: _Question) -> Answer:
    """A target in words only: noise that does not keep what the plan promises."""
    dp = q.plan.dp
    if dp.mode == "none" or dp.target_epsilon is None or dp.target_delta is None:
        return None
    needed = charged(q.plan)
    if needed <= dp.target_epsilon:
        return _distributed(q)
    expected = f"noise that keeps epsilon {dp.target_epsilon:g} at delta {dp.target_delta:g}"
    return (expected, f"epsilon {shown_epsilon(needed)} with noise multiplier {dp.noise_multiplier}", "raise the noise")


def _distributed(q: _Question) -> Answer:
    """Noise in shares that no site can add, or no sum can carry."""
    if q.plan.dp.mode != "distributed":
        return None
    try:
        distributed_step(q.plan)
    except ConfigError as e:
        return ("noise that the sites can add up", str(e), "change dp or secure.ring")
    return None


def _colluders(q: _Question) -> Answer:
    """Shared noise of which a few sites know most."""
    if q.plan.dp.mode != "distributed" or q.plan.dp.colluders >= q.policy.min_colluders:
        return None
    expected = f"noise that is enough with {q.policy.min_colluders} sites of a sum in league"
    return (expected, f"dp.colluders = {q.plan.dp.colluders}", "raise dp.colluders")


def _exposure(q: _Question) -> Answer:
    """A bound on what an adapter knows by heart that nothing measures."""
    bound, spec = q.policy.max_exposure, q.plan.canaries
    if bound is None:
        return None
    expected = f"canaries that tell whether exposure is above {bound:g} bits"
    if spec.per_site == 0:
        return (expected, "none", "set canaries.per_site, for instance to 8")
    if highest(spec.candidates) <= bound:
        return (expected, f"canaries.candidates = {spec.candidates}", "raise it: log2(1 + candidates) has to be more")
    chance = no_memory_stays_below(spec.per_site)
    if chance > bound:
        found = f"{spec.per_site} canaries, of which chance alone exceeds it in 1 of 100 runs (up to {chance:.2f})"
        return (f"{expected}, and no chance", found, "raise canaries.per_site")
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


PLAN_CHECKS: Final[Mapping[int, Callable[[_Question], Answer]]] = MappingProxyType(
    {
        1: _supported,
        2: _not_expired,
        3: _mode,
        4: _minimum_cohort,
        5: _weight_rule,
        6: _weight_cap,
        7: _effective_cohort,
        8: _base_model,
        9: _targets,
        10: _rank,
        11: _rounds,
        12: _dp_mode,
        13: _budget,
        14: _baselines,
        15: _cohort_change,
        16: _survivor_change,
        19: _noise,
        20: _colluders,
        21: _exposure,
        22: _validation,
    }
)
"""By number, which never changes: new checks go to the end."""
