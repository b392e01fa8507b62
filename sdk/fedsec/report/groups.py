"""Rounds in groups: whose updates are in each sum that was opened, its loss, what it weighs, and the step.

The cosigned log says who is in a group and who in its sum. Losses and steps stand in ``metrics.jsonl``, as the
coordinator noted them; what groups weigh is computed from the losses again, as every site computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from fedsec.plan.group_checks import is_grouped
from fedsec.plan.model import Plan
from fedsec.report.rounds import read_events
from fedsec.training.group_step import group_rule
from fedsec_secure.errors import VerificationError
from fedsec_secure.numeric.score_levels import NO_SCORE, STEPS_PER_NAT, WORST_LEVEL, is_score
from fedsec_secure.record.entries import DrawEntry, Entry, SurvivorsEntry
from fedsec_secure.weighting.groups import shares


class _Noted(BaseModel):
    round: int
    levels: list[int]
    step: float


@dataclass(frozen=True)
class GroupReport:
    """One group in one round."""

    sites: tuple[str, ...]
    """In its sum."""
    away: tuple[str, ...]
    level: int
    share: float
    """Of the round, of all its sites together."""

    @property
    def loss(self) -> str:
        """In nats, as a page says it."""
        if self.level == NO_SCORE:
            return "no number"
        text = f"{self.level / STEPS_PER_NAT:.2f}"
        return f"{text} or more" if self.level == WORST_LEVEL else text

    @property
    def each(self) -> float:
        """The share of one of its sites."""
        return self.share / len(self.sites)


@dataclass(frozen=True)
class GroupedRound:
    """One finished round; its groups in the order of the draw."""

    number: int
    """From 1."""
    groups: tuple[GroupReport, ...]
    step: float

    @property
    def worth(self) -> float:
        """How many equal sites the shares are worth (Kish)."""
        return 1 / sum(len(group.sites) * group.each**2 for group in self.groups)


@dataclass(frozen=True)
class Grouping:
    """The groups of a run, and what came of them. Empty where the plan has none, or none are drawn yet."""

    drawn: tuple[tuple[str, ...], ...]
    rounds: tuple[GroupedRound, ...]


def grouping(
    plan: Plan, entries: Sequence[Entry], events: Iterable[Mapping[str, object]], finished: Iterable[int]
) -> Grouping:
    """What the page shows of groups. ``finished``: the rounds that are over, from 0.

    VerificationError where losses were noted that the log's sums cannot have.
    """
    drawn = next((e.groups for e in entries if isinstance(e, DrawEntry)), ())
    if not is_grouped(plan) or not drawn:
        return Grouping((), ())
    noted = {e.round: e for e in read_events(_Noted, events, "groups")}  # a resumed run notes the same again
    sums: dict[int, list[tuple[str, ...]]] = {}
    for entry in entries:
        if isinstance(entry, SurvivorsEntry):
            sums.setdefault(entry.round, []).append(entry.sites)
    numbers = sorted(set(finished) & noted.keys() & sums.keys())
    return Grouping(drawn, tuple(_round(plan, drawn, sums[number], noted[number]) for number in numbers))


def _round(
    plan: Plan, drawn: Sequence[tuple[str, ...]], sums: Sequence[tuple[str, ...]], noted: _Noted
) -> GroupedRound:
    if not len(drawn) == len(sums) == len(noted.levels) or not all(map(is_score, noted.levels)):
        raise VerificationError(
            f"metrics.jsonl: expected a loss for each of the {len(drawn)} groups of round {noted.round + 1}, of which "
            f"the log has {len(sums)} sums; found {len(noted.levels)}, some of which may be none"
        )
    counts = [len(sites) for sites in sums]
    parts = shares(counts, group_rule(plan).weigh(counts, noted.levels))
    groups = tuple(
        GroupReport(sites, tuple(s for s in members if s not in sites), level, float(share))
        for members, sites, level, share in zip(drawn, sums, noted.levels, parts, strict=True)
    )
    return GroupedRound(noted.round + 1, groups, noted.step)
