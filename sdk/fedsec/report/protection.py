"""Who could learn what from whom: the report's table, from what the plan fixes. `threat_model/` has the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsec.plan.colluders import colluders_needed
from fedsec.plan.model import Plan
from fedsec.plan.statement import count_in_words

Level = Literal["no", "part", "yes", "known"]
"""Could they learn it? ``known``: they do, and are meant to."""


@dataclass(frozen=True)
class Cell:
    """One answer and its reason."""

    level: Level
    text: str


@dataclass(frozen=True)
class Row:
    """One thing that somebody could learn, and the answer for each column."""

    what: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Protection:
    """The table."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def protection(plan: Plan) -> Protection:
    """The table for a plan."""
    most = colluders_needed(plan, len(plan.roster.sites)) - 1
    few = f"the coordinator with up to {count_in_words(most)} site{'' if most == 1 else 's'}"
    if not plan.secure.is_masked:
        few = "the coordinator with one site" if plan.secure.mode == "he" else "the coordinator with sites"
    columns = (
        "the coordinator alone",
        few,
        "the other sites",
        "whoever has the adapter",
        "whoever has this run folder",
    )
    rows = (_notes(plan), _update(plan), _sum(plan), _adapter(plan), _weight(plan), _scores(plan), _TRAFFIC)
    return Protection(columns, rows)


def within(plan: Plan) -> str:
    """What bounds what an update tells by itself, where something does."""
    return "" if plan.dp.mode == "none" else f", within ε ≤ {plan.dp.target_epsilon:g} for one {plan.dp.unit}"


_KNOWN = Cell("known", "Has it.")
_TRAFFIC = Row(
    "Who took part, when, and what was refused",
    (
        Cell("known", "Sees it."),
        Cell("known", "See it."),
        Cell("known", "It is in the log that they sign."),
        Cell("no", "Not in it."),
        Cell("known", "The log is in there."),
    ),
)


def _adapter(plan: Plan) -> Row:
    alone = _KNOWN
    if plan.secure.is_encrypted:
        alone = Cell("no", "Its digest. Who runs all sites in one process has it in the run folder.")
    return Row("The finished adapter", (alone, _KNOWN, _KNOWN, _KNOWN, Cell("known", "It is in there.")))


def _notes(plan: Plan) -> Row:
    unit, target = plan.dp.unit, plan.dp.target_epsilon
    bound = "nothing bounds it" if plan.dp.mode == "none" else f"ε ≤ {target:g} bounds it for one {unit}"
    holder = Cell("part", f"Can test whether a note was in it; may repeat rare text: {bound}.")
    through = "only what adapter and sums show"
    seen = through if plan.secure.is_masked else f"but parts can be rebuilt from the updates{within(plan)}"
    if "central" in plan.evaluation.baselines:
        pooled = Cell("yes", "Pooled in one place for the comparison “central”.")
        others = Cell("part", f"Not sent to them: {through}.")
        return Row("A site’s notes and labels", (pooled, pooled, others, holder, holder))
    alone = Cell("part", f"Never sent: {seen}.")
    if plan.secure.is_encrypted:
        alone = Cell("no", "Never sent, and it reads neither adapter nor sums.")
    cells = (
        alone,
        Cell("part", f"Never sent: {seen}, and the sites’ own."),
        Cell("part", f"Never sent: {through}."),
        holder,
        Cell("part", "The adapter is in there: as on the left."),
    )
    return Row("A site’s notes and labels", cells)


def _update(plan: Plan) -> Row:
    what = "One site’s update of a round"
    among = (
        f"Not from any one; {count_in_words(plan.fewest_in_a_sum - 1)} who share a sum with it can subtract their own."
    )
    if plan.secure.quorum <= 2:
        among = "Yes in a sum of two: each subtracts its own."
    others = Cell("no" if plan.secure.quorum > 2 else "yes", among)
    gone = "Not in it by itself."
    if plan.secure.mode == "none":
        seen = Cell("yes", f"Seen in the clear; parts of notes can be reconstructed from it{within(plan)}.")
        kept = Cell("part", "Deleted after each round; deleting overwrites nothing on most disks.")
        return Row(what, (seen, seen, others, Cell("no", gone), kept))
    if plan.secure.mode == "he":
        alone = Cell("no", "Encrypted under a key that it does not have.")
        seen = Cell("yes", f"One site’s key opens it; parts of notes can be reconstructed from it{within(plan)}.")
        held = Cell("part", f"Not sent to them; each has the key that opens it. {among}")
        deleted = Cell("no", "Encrypted uploads are deleted after each round.")
        return Row(what, (alone, seen, held, Cell("no", gone), deleted))
    ahead = plan.dp.mode == "distributed" and plan.dp.keys_ahead > 1
    kept = Cell("no", f"Masked uploads are deleted after each {'batch of rounds' if ahead else 'round'}.")
    if plan.secure.min_cohort_change == 1 and plan.dp.mode == "none":
        near = Cell("part", "Masked; but two sums may differ by this site alone.")
        return Row(what, (near, near, others, Cell("no", gone), kept))
    needed = count_in_words(colluders_needed(plan, len(plan.roster.sites)))
    alone = Cell("no", "Masked; it gets the sum only, even if it lies.")
    if plan.secure.mode == "he-mask":
        alone = Cell("no", "Masked and encrypted; it gets nothing it can read, even if it lies.")
    few = Cell("no", f"Masked. From {needed} sites on they could, if the coordinator lies.")
    return Row(what, (alone, few, others, Cell("no", gone), kept))


def _sum(plan: Plan) -> Row:
    size = f"at least {count_in_words(plan.fewest_in_a_sum)} sites"
    alone, few = Cell("known", f"Of {size}, every round."), Cell("known", "As on the left.")
    if plan.secure.is_encrypted:
        alone = Cell("no", "Encrypted: it adds what it cannot read, and has no key.")
        few = Cell("known", f"One site’s key opens it: of {size}, every round.")
    cells = (
        alone,
        few,
        Cell("known", "To check it and compute the next adapter."),
        Cell("part", "Only what all rounds made."),
        Cell("part", "What all rounds made."),
    )
    grouped = plan.weighting.groups is not None
    return Row("The sum of each group’s updates of a round" if grouped else "The sum of all updates of a round", cells)


def _weight(plan: Plan) -> Row:
    what = "How many examples a site has"
    # Private steps draw from all examples, whatever examples_per_round says.
    timed = plan.dp.mode != "none" or plan.training.examples_per_round is None
    hint = " Training time hints at it." if timed else ""
    level: Level = "part" if timed else "no"
    gone = Cell("no", "Not in it.")
    if plan.weighting.rule != "size":
        why = "all sites weigh the same" if plan.weighting.rule == "uniform" else "weights follow from losses"
        unsent = Cell(level, f"Not sent: {why}.{hint}")
        return Row(what, (unsent, unsent, Cell("no", "Not sent."), gone, Cell(level, f"Not in it.{hint}")))
    others = Cell("no", "Only the total of all sites.")
    if plan.secure.mode == "none":
        seen = Cell("yes", "Sent in the clear, as the site’s weight.")
        return Row(what, (seen, seen, others, gone, gone))
    if plan.secure.mode == "he":
        seen = Cell("yes", "One site’s key opens it, as part of the update.")
        return Row(what, (Cell(level, f"Encrypted.{hint}"), seen, others, gone, Cell(level, f"Not in it.{hint}")))
    few = Cell(level, f"Masked; only the total is seen.{hint}")
    alone = Cell(level, f"Masked and encrypted; not even the total.{hint}") if plan.secure.mode == "he-mask" else few
    return Row(what, (alone, few, others, gone, Cell(level, f"Not in it.{hint}")))


def _scores(plan: Plan) -> Row:
    what = "Scores of one site’s own model"
    if plan.weighting.rule == "influence":
        seen = Cell("known", "Its loss, every round, in steps of 0.05.")
        tests = Cell("known", "In results.json.") if "single" in plan.evaluation.baselines else Cell("no", "Not in it.")
        return Row(what, (seen, seen, Cell("known", "To recompute all weights."), Cell("no", "Not in it."), tests))
    if "single" not in plan.evaluation.baselines:
        none = Cell("no", "None were made.")
        return Row(what, (none,) * 5)
    seen = Cell("known", "On public tests, as the plan says.")
    cells = (seen, seen, Cell("no", "Not sent to them."), Cell("no", "Not in it."), Cell("known", "In results.json."))
    return Row(what, cells)
