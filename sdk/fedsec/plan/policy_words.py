"""A policy in plain words: what it lets plans do, and each of its rules by number."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

from fedsec.plan.canaries import CHANCE
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, PrivacyBudget
from fedsec.plan.policy_checks import check_plan
from fedsec.plan.statement import Statement, count_in_words

RULES: Final = (
    ("supported", "a plan that this version cannot protect", None),
    ("expires", "an old decision that still counts", "expires"),
    ("modes", "downgrade: a plan with less protection than was allowed", "modes"),
    ("minimum cohort", "small sums, from which the others' updates can be subtracted", "minimum_cohort"),
    ("weight rules", "weights that nobody here agreed to", "weight_rules"),
    ("weight cap", "one heavy site, whose update is the sum", "weight_cap"),
    ("effective cohort", "a cohort in name only", "minimum_effective_cohort"),
    ("base models", "a model that was prepared to leak", "base_models"),
    ("targets", "adapters in layers that nobody looked at", "targets"),
    ("rank", "an adapter with room to memorise", "max_rank"),
    ("rounds", "more releases than were agreed", "max_rounds"),
    ("dp modes", "a plan without the differential privacy that is required", "dp_modes"),
    ("budgets", "more privacy loss than the study may charge", "budgets"),
    ("baselines", "comparisons that publish this site's own scores, or pool notes", "allowed_baselines"),
    ("rosters", "two runs whose rosters differ by one site", "min_cohort_change"),
    ("survivors", "two sums without noise that differ by one site", "min_cohort_change"),
    ("runs", "many runs under one approval", "max_runs"),
    ("officers", "one officer who errs, or whose key was stolen", "approvals_required"),
    ("noise", "a promise of privacy that the plan's own noise does not keep", None),
    ("colluders", "noise that a few sites together can subtract", "min_colluders"),
    ("exposure", "an adapter that knows single records by heart", "max_exposure"),
    ("validation", "weights that a handful of examples decides", "minimum_validation"),
)
"""(name, what it stops, the policy's field), in the order of the policy checks, from 1."""

FIXED: Final = (
    "The limit for all studies together (total_epsilon) is fixed beforehand: raised after results were seen, it is no "
    "longer proved to hold."
)
"""Of every budget: see `fedsec_secure.accounting.rules`."""


@dataclass(frozen=True)
class Rule:
    """One numbered policy check: what it stops, what this policy says, and where a plan goes beyond it."""

    number: int
    name: str
    stops: str
    says: str
    violation: str | None


def rules(policy: Policy, plan: Plan | None = None, now: datetime.datetime | None = None) -> list[Rule]:
    """All of them. With a ``plan``, ``violation`` says what it exceeds at the moment ``now``, or is None."""
    broken: dict[int, str] = {}
    if plan is not None:
        moment = now or datetime.datetime.now(datetime.UTC)
        broken = {v.number: f"found {v.found}; {v.fix}" for v in check_plan(policy, plan, moment)}
    return [
        Rule(number, name, stops, _value(policy, field), broken.get(number))
        for number, (name, stops, field) in enumerate(RULES, start=1)
    ]


def _value(policy: Policy, field: str | None) -> str:
    if field is None:
        return "always"
    value = getattr(policy, field)
    if value is None:
        return "no bound"
    if field == "budgets":
        return "; ".join(map(_limits, value)) or "none"
    if field == "base_models":
        return ", ".join(f"{digest[:12]}…" for digest in value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:%Y-%m-%d %H:%M} UTC" if isinstance(value, datetime.datetime) else f"{value:g}"


def describe(policy: Policy, now: datetime.datetime) -> list[Statement]:
    """What an officer should know before putting this policy into force at the moment ``now``."""
    parts = (_officers, _protection, _sums, _model, _privacy)
    return [*_time(policy, now), *(statement for part in parts for statement in part(policy))]


def _time(policy: Policy, now: datetime.datetime) -> list[Statement]:
    if policy.expires <= now:
        return [Statement("refused", "time", f"It expired on {policy.expires:%Y-%m-%d}: nothing runs under it.")]
    days = (policy.expires - now).days
    releases = policy.max_rounds * policy.max_runs
    text = (
        f"For {days} more days, each approval lets a plan run {_times(policy.max_runs)} with at most "
        f"{policy.max_rounds} rounds: up to {releases} sums with this site's update in them."
    )
    several = policy.max_runs > 1
    more = [Statement("risk", "time", "Two runs from the same notes are alike: their sums can be compared.")] * several
    return [Statement("risk" if days > 366 else "fact", "time", text), *more]


def _officers(policy: Policy) -> list[Statement]:
    count = policy.approvals_required
    if count == 1:
        text = "One officer's signature puts an approval into force."
    else:
        text = (
            f"{count_in_words(count, capital=True)} different officers must sign an approval before it counts. Any one "
            "of them withdraws it."
        )
    return [Statement("fact", "officers", text)]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count_in_words(count)} times"


def _protection(policy: Policy) -> list[Statement]:
    risks = {
        "none": "A plan may choose mode none: the coordinator then sees this site's update.",
        "he": "A plan may choose mode he: the server and one site together open all updates.",
        "single": "A plan may publish the scores of this site's own adapter on public test sets.",
        "central": "A plan may pool notes for comparison: for public or invented ones only.",
    }
    allowed = (*policy.modes, *policy.allowed_baselines)
    found = [Statement("risk", "protection", text) for choice, text in risks.items() if choice in allowed]
    if not {"none", "he"} & set(policy.modes):
        text = f"Updates leave only under protection: mode {' or '.join(policy.modes)}."
        found.insert(0, Statement("fact", "protection", text))
    return found


def _sums(policy: Policy) -> list[Statement]:
    cohort, cap = policy.minimum_cohort, policy.weight_cap
    open_it = count_in_words(cohort - 1)
    text = (
        f"Every sum holds at least {count_in_words(cohort)} sites; {open_it} of them together can open the "
        f"{'third' if cohort == 3 else 'last'} one's update. No site weighs more than {cap:.0%}."
    )
    found = [Statement("risk" if cohort < 4 else "fact", "sums", text)]
    if policy.minimum_effective_cohort > cohort and policy.weight_rules == ("uniform",):
        text = f"With equal weights a sum of {cohort} is worth {cohort} sites: larger sums than the minimum are needed."
        found.append(Statement("risk", "sums", text))
    if "influence" in policy.weight_rules:
        held_out = ", or with local differential privacy on its held-out notes under noise"
        text = (
            f"A plan may weigh sites by a published score of their own model, on at least {policy.minimum_validation} "
            f"public examples{held_out if 'local' in policy.dp_modes else ''}: unless the update is differentially "
            "private, the score can tell whether a single record was trained on."
        )
        found.append(Statement("risk", "sums", text))
    if "group-influence" in policy.weight_rules:
        text = (
            "A plan may draw the sites into groups and open each group's sum by itself: the least number of sites in a "
            "sum then counts for groups."
        )
        found.append(Statement("risk", "sums", text))
    if policy.min_cohort_change == 1 and "none" in policy.dp_modes:
        text = "Two sums may differ by this site alone: their difference is close to its update."
        found.append(Statement("risk", "sums", text))
    return found


def _model(policy: Policy) -> list[Statement]:
    count = len(policy.base_models)
    text = (
        f"{count_in_words(count, capital=True)} base model{'s' if count > 1 else ''}, by digest; adapters of rank "
        f"{policy.max_rank} at most, in {', '.join(policy.targets)}."
    )
    return [Statement("fact", "model", text)]


def _privacy(policy: Policy) -> list[Statement]:
    found = []
    private = [mode for mode in policy.dp_modes if mode != "none"]
    if "none" in policy.dp_modes:
        text = "Differential privacy is not required: nothing bounds what an adapter remembers of one patient."
        found.append(Statement("risk", "privacy", text))
    if private and not policy.budgets:
        text = f"dp_modes has {' and '.join(private)}, but budgets has no line: every such plan is refused."
        found.append(Statement("refused", "privacy", text))
    for budget in policy.budgets:
        text = (
            f"A study may charge each {_whose(budget)} ε ≤ {budget.max_epsilon:g} at δ ≤ {budget.max_delta:g}, and all "
            f"studies together ε ≤ {budget.total:g}. {FIXED}"
        )
        found.append(Statement("risk" if budget.total > 10 else "fact", "privacy", text))
    if any(budget.unit == "record" for budget in policy.budgets):
        text = "A budget per record bounds one window of a note: a patient with several is not bounded by it."
        found.append(Statement("risk", "privacy", text))
    return [*found, *_exposure(policy)]


def _exposure(policy: Policy) -> list[Statement]:
    if policy.max_exposure is None:
        return []
    text = (
        f"No adapter is released under which this site's canaries are exposed by more than {policy.max_exposure:g} "
        f"bits in the mean, if the site is in the last sum or its measurement comes; chance alone gives {CHANCE:.1f}."
    )
    return [Statement("fact", "privacy", text)]


def _limits(budget: PrivacyBudget) -> str:
    one, all_of_them = f"{budget.max_epsilon:g}", f"{budget.total:g}"
    return f"{_whose(budget)}: ε ≤ {one} by one study, ≤ {all_of_them} by all, δ ≤ {budget.max_delta:g}"


def _whose(budget: PrivacyBudget) -> str:
    return budget.unit if budget.population is None else f"{budget.unit} of {budget.population}"
