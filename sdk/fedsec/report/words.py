"""The sentences that a run's facts make. What a plan risks is said by `fedsec.plan.explain`, and only there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsec.plan.colluders import colluders_needed
from fedsec.plan.cost import charged, cost
from fedsec.plan.model import Plan
from fedsec.plan.statement import Statement, count_in_words, plural
from fedsec.privacy.shown import shown_epsilon, shown_rest
from fedsec.report.data import ReportData
from fedsec.report.protection import within
from fedsec.report.scoring import KindReport

_PROTECTION = ("supported", "protection", "sites", "collusion", "differences")


def summary(data: ReportData) -> tuple[str, ...]:
    """What came of it, who was protected from whom, and what it cost: a sentence or two each."""
    return _outcome(data), _protected(data), _cost(data)


def _outcome(data: ReportData) -> str:
    plan = data.plan
    sites = f"{count_in_words(len(plan.roster.sites), capital=True)} sites"
    rounds = f"{count_in_words(plan.rounds)} round{'' if plan.rounds == 1 else 's'}"
    if data.certified is None:
        done = f"{_none_or(len(data.rounds))} {'are' if len(data.rounds) > 1 else 'is'} over"
        return f"This run is not finished: of its {rounds}, {done}. {sites} take part."
    attest = len(data.certified.says.sites)
    who = "all of them" if attest == len(plan.roster.sites) else f"{count_in_words(attest)} of them"
    return (
        f"{sites} trained one shared adapter in {rounds}, each after its own officer had signed the plan; the run is "
        f"finished, and {who} attest what they did."
    )


def _protected(data: ReportData) -> str:
    plan = data.plan
    start = "No site’s notes were sent to anyone."
    if "central" in plan.evaluation.baselines:
        start = "All sites’ notes were pooled in one place for a comparison, which plan and policies named."
    if plan.secure.mode == "none":
        return (
            f"{start} There were no masks: the coordinator saw every site’s update, and could rebuild notes from it"
            f"{within(plan)}."
        )
    if plan.secure.mode == "he":
        return (
            f"{start} The coordinator got every site’s update encrypted under a key of the sites, and added them "
            "unseen. Together with any one site, or its key, it can open every one of them, and rebuild notes from it"
            f"{within(plan)}."
        )
    if data.rounds:
        grouped = plan.weighting.groups is not None
        fewest = plan.fewest_in_a_sum if grouped else min(len(r.sites) for r in data.rounds)
        least = count_in_words(fewest)
        sums = f"The coordinator got sums of {least} or more sites’ updates"
    else:
        sums = "The coordinator gets sums of updates"
    if plan.secure.mode == "he-mask":
        sums += ", encrypted under a key of the sites,"
    needed = count_in_words(colluders_needed(plan, len(plan.roster.sites)))
    return f"{start} {sums} and no single one; to open one it would have to lie, and to have {needed} sites with it."


def _cost(data: ReportData) -> str:
    plan = data.plan
    if plan.dp.mode == "none":
        return (
            "This plan has no differential privacy: nothing bounds what the adapter tells about one patient (ε = ∞). "
            "No privacy budget is left; what remains to be decided is who may have the adapter."
        )
    planned, unit = cost(plan), plan.dp.unit
    spent = [b.after for b in data.budgets if b.attested]
    replaced = shown_epsilon(planned.replace_one, infinite="no bound")
    known = f"at most ε = {shown_epsilon(max(spent))}" if spent else "not attested yet"
    whose = "at every site bounds what its releases tell"
    if plan.dp.mode == "distributed":
        allied = f"also to {count_in_words(plan.dp.colluders)} site{'' if plan.dp.colluders == 1 else 's'} in league"
        allied = allied if plan.dp.colluders else "but not to a site that knows its own share of the noise"
        whose = f"of the sums bounds what they, and all that follows from them, tell, {allied},"
    studies = "all studies ever" if unit == "record" else f"all studies per patient, for {_NOT_OF_RECORDS}"
    return (
        f"Differential privacy {whose} about one {unit}: ε = "
        f"{shown_epsilon(planned.epsilon)} at δ = {planned.delta:g} for the {unit} being there or not, "
        f"{replaced} for its content. Charged to one {unit} over {studies}: {known}; this "
        f"plan may charge {plan.dp.target_epsilon or 0.0:g}."
    )


_NOT_OF_RECORDS = "what studies per record charged is in no account of patients"


def counted(plan: Plan) -> str:
    """What a site's ledger adds up for one unit of the plan."""
    if plan.dp.unit == "record":
        return "over everything that was ever released, from the site’s own ledger"
    return (
        "over all that was charged to patients or released without differential privacy, from the site’s own ledger: "
        f"{_NOT_OF_RECORDS}"
    )


def in_sums(data: ReportData) -> str:
    """``4 to 5 of 5``: how many sites were in the sums; of groups how many a sum had at least."""
    if not data.rounds:
        return "none yet"
    if data.plan.weighting.groups is not None:
        return f"{data.plan.fewest_in_a_sum} or more of {len(data.plan.roster.sites)}"
    counts = [len(r.sites) for r in data.rounds]
    least, most = min(counts), max(counts)
    return f"{least if least == most else f'{least} to {most}'} of {len(data.plan.roster.sites)}"


def validation(plan: Plan) -> str:
    """What groups' sums are tried on."""
    spec = plan.weighting.validation
    if spec is None:
        return ""
    count = spec.examples or spec.limit
    return f"{'public examples' if count is None else f'{count} public examples'} ({spec.name})"


def budget_left(data: ReportData) -> str:
    """What the officer may still spend, as far as the run folder can say."""
    target = data.plan.dp.target_epsilon
    spent = [b.after for b in data.budgets if b.attested]
    bounded = [e for e in spent if not math.isinf(e)]
    if target is not None and bounded and max(bounded) > target:
        # The ledgers' figures are of all studies: more than one plan's limit, and no overrun of it.
        return (
            f"What is left of the plan’s ε = {target:g} is not in these figures, as earlier studies charged the same "
            f"{data.plan.dp.unit}s: one run of this plan charges {shown_epsilon(charged(data.plan))} by itself."
        )
    if target is not None and bounded:
        rest = max(target - max(bounded), 0.0)
        left = f"Of the plan’s ε = {target:g}, at least {shown_rest(rest)} is left at every site that attests"
        return f"{left}." if bounded == spent else f"{left} and has a bound (ε below ∞)."
    if target is not None and not spent:
        return "No site has attested its ledger yet."
    return (
        "Nothing is left. A budget is a promise about everything that was ever released about a patient; what is "
        "released without differential privacy has no bound, and that is never undone (ε = ∞). A full bar means "
        "that, not that much was used."
    )


def refused(data: ReportData) -> str:
    """How many answers were refused or missing."""
    if not data.refusals and not data.aborted:
        so_far = "" if data.certified else " so far"
        return f"Nothing was refused{so_far}: every site answered every time, and every answer was accepted."
    logged = sum(r.in_log for r in data.refusals)
    count = count_in_words(len(data.refusals), capital=True)
    text = f"{count} answer{' was' if len(data.refusals) == 1 else 's were'} refused or did not come"
    where = f"; {_none_or(logged)} of them stand{'' if logged > 1 else 's'} in the log that the sites signed."
    given_up = len(data.aborted)
    more = f" {count_in_words(given_up, capital=True)} attempt{'s' * (given_up > 1)} at a round had to be given up."
    return text + (where if data.refusals else ".") + (more if given_up else "")


def _none_or(count: int) -> str:
    return count_in_words(count) if count else "none"


def gained(report: KindReport) -> str | None:
    """Whether the sites together did better than the best alone, and whether that could be chance."""
    if report.gain is None or report.best_alone is None:
        return None
    i = report.gain
    sure = "more than" if i.excludes_zero else "no more than"
    side = "below" if i.difference < 0 else "above"
    gap = f"{abs(i.difference):.2f} {report.measure}"
    return (
        f"Over all public test sets the shared adapter is {gap} {side} the best site "
        f"alone ({report.best_alone}); 95 % interval {signed(i.low)} to {signed(i.high)}: {sure} the choice of test "
        f"{report.unit} explains."
    )


def fairness(report: KindReport) -> str:
    """Who is served worst, and whether a site does worse with the others than alone."""
    weakest = next((row for row in report.fair if row.weakest), None)
    if weakest is None:
        first = f"On {report.kind}, no test set is behind the others."
    else:
        least = f"{report.measure} {weakest.federated:.2f}"
        first = f"On {report.kind}, the shared adapter is weakest on {weakest.test}: {least}."
    compared = [row for row in report.fair if row.gain is not None]
    if not compared:
        return f"{first} There is no site’s own model to compare with."
    worse = [row.test for row in compared if row.gain is not None and row.gain.high < 0]
    if worse:
        names = ", ".join(worse)
        return f"{first} Worse together than alone, by more than the choice of test {report.unit} explains: {names}."
    return f"{first} No site is worse off together than alone beyond what the choice of test {report.unit} explains."


def split(statements: Sequence[Statement]) -> tuple[list[Statement], list[Statement]]:
    """(about who learns what, about everything else)."""
    about = [s for s in statements if s.topic in _PROTECTION]
    return about, [s for s in statements if s not in about]


def settings(plan: Plan) -> tuple[tuple[str, str], ...]:
    """The plan's main points, in an officer's words."""
    labels = ", ".join((*plan.task.entity_types, *plan.task.relation_types))
    task = "titles, as their authors wrote them" if plan.task.kind == "title" else labels
    size, drawn = plan.training.examples_per_round, f"a chance of {plan.dp.sampling_rate:g} for each {plan.dp.unit}"
    examples = "all of a site’s examples" if size is None else f"{size} of a site’s examples"
    over = {
        "none": f"each over {examples}",
        "local": f"each of {plural(plan.dp.steps, 'step')} with {drawn}",
        "distributed": f"each one step over all sites, with {drawn}",
    }[plan.dp.mode]
    modes = {"mask": "masked sums", "none": "no masks: updates in the open"}
    modes["he"] = "encrypted updates, opened by any site’s key"
    modes["he-mask"] = "masked sums, encrypted until the sites open them"
    sums = f"{modes[plan.secure.mode]}; at least {plan.fewest_in_a_sum} sites in each"
    weights = {"uniform": "all sites weigh the same", "size": "by number of examples", "influence": "by their scores"}
    weights["group-influence"] = f"by the losses of the sums of {count_in_words(plan.weighting.groups or 0)} groups"
    rule = weights.get(plan.weighting.rule, plan.weighting.rule)
    dp = "none" if plan.dp.mode == "none" else f"{plan.dp.mode}, ε = {plan.dp.target_epsilon:g} per {plan.dp.unit}"
    return (
        ("Base model", plan.model.base),
        ("Its weights, SHA-256", str(plan.model.weights_sha256)),
        ("What is read from notes", task),
        ("Adapter", f"{plan.lora.strategy}, rank {plan.lora.rank}, in {', '.join(plan.lora.targets)}"),
        ("Rounds", f"{plan.rounds}, {over}"),
        ("Sums", sums),
        ("Weights", f"{rule}; no site above {plan.weighting.cap:.0%} of a round"),
        ("Differential privacy", dp),
        ("Comparisons", ", ".join(plan.evaluation.baselines) or "none"),
        ("Public test sets", ", ".join(t.name for t in plan.evaluation.public_tests) or "none"),
    )


def signed(value: float) -> str:
    """``+0.12``, ``−0.12``, ``0.00``."""
    text = f"{value:+.2f}".replace("-", "−")
    return text[1:] if text[1:] == "0.00" else text


def unbroken(text: str) -> str:
    """Equations stay on one line."""
    return text.replace(" = ", "\u00a0=\u00a0")


def size(count: int) -> str:
    """Bytes, for people."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= divisor:
            return f"{count / divisor:.3g} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Seconds, for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
