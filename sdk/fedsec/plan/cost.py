"""What a plan costs: the mechanisms that one run of it releases from a site, and their epsilon.

Sampler, noise and accountant take their numbers from one object (:class:`PrivateSteps`), so that none of them can be
told something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

from fedsec.plan.model import Draft, Plan
from fedsec.plan.specs import DpSpec
from fedsec.privacy.accountant import PldAccountant, RdpFilter, calibrate, steps_of
from fedsec.privacy.distributed import DistributedStep
from fedsec.privacy.shown import shown_epsilon
from fedsec_secure.accounting.events import (
    Event,
    GaussianEvent,
    Neighbours,
    NonPrivateRelease,
    SelfComposed,
)
from fedsec_secure.errors import ConfigError, LocalMisuseError
from fedsec_secure.numeric.lanes import Lanes
from fedsec_secure.numeric.poisson_sampling import PoissonSampler

UPDATE, BASELINE, SCORE = "update", "baseline", "score"
RELATION: Final[Neighbours] = "add-or-remove"
"""Of every ledger: relations do not compose, so there is one."""
DEFAULT_DELTA: Final = 1e-5
SPARE_DELTA: Final = 1e-6
"""Where no delta is promised: without differential privacy epsilon is infinite at any."""

D = TypeVar("D", bound=Draft)


@dataclass(frozen=True)
class PrivateSteps:
    """So many steps of DP-SGD: what sampler, noise and accountant share."""

    sampler: PoissonSampler
    noise_multiplier: float
    count: int
    records: int = 1
    """How many records of a unit are sampled, each by itself; 1 where units are."""

    @classmethod
    def of(cls, dp: DpSpec, count: int) -> PrivateSteps:
        """As the plan says; LocalMisuseError for a plan without noise."""
        if dp.mode == "none" or dp.noise_multiplier is None:
            raise LocalMisuseError(f"dp.mode {dp.mode}, noise {dp.noise_multiplier}: no private step is planned")
        return cls(PoissonSampler(dp.sampling_rate), dp.noise_multiplier, count, records_sampled(dp))

    @property
    def event(self) -> Event:
        """What the ledger stores, and every accountant composes."""
        return steps_of(self.sampler.accounted, self.noise_multiplier, self.count, self.records)


def records_sampled(dp: DpSpec) -> int:
    """How many vectors of one unit a step may sum, each drawn by itself."""
    return dp.max_records if dp.sampling == "record" else 1


@dataclass(frozen=True)
class Cost:
    """Epsilon (natural logarithms) of one run at ``delta``; infinite without differential privacy."""

    delta: float
    epsilon: float
    """PLD, for neighbours that differ by one unit more or less: what is reported."""
    replace_one: float
    """PLD, for neighbours that differ in one unit's content."""
    charged: float
    """The filter's bound, which the ledger holds against budgets."""


def releases(plan: Plan) -> list[tuple[int, str, Event]]:
    """(round, purpose, event) of everything private that one run of ``plan`` releases from a site, in order."""
    if plan.dp.mode == "distributed":
        return [(number, UPDATE, distributed_step(plan).event) for number in range(plan.rounds)]
    return _releases(_Run.of(plan))


def distributed_step(plan: Plan) -> DistributedStep:
    """What every site does in a round of a plan with distributed noise.

    The clipping norm has the largest power of two of grid steps, up to 2^16, for which sums do not leave their lanes:
    with twice the expected batch, all sites' noise at 14 deviations, and all in one coordinate. With more than 2^16 a
    site's own sum might leave its 32 bits (`training.private.distributed`). ConfigError where there is none.
    """
    sites = len(plan.roster.sites)
    return _distributed_step(plan.dp, plan.secure.quorum, sites, Lanes.named(plan.secure.lanes).largest_sum)


@lru_cache(maxsize=64)
def _distributed_step(dp: DpSpec, quorum: int, sites: int, largest: int) -> DistributedStep:
    if dp.noise_multiplier is None or dp.dimension is None:
        raise LocalMisuseError("a plan with distributed noise says how much noise and how many coordinates")
    for bits in range(16, 5, -1):
        step = DistributedStep(
            dp.sampling_rate,
            dp.noise_multiplier,
            dp.clipping_norm,
            1 << bits,
            dp.dimension,
            quorum,
            dp.colluders,
            records_sampled(dp),
        )
        if 2 * dp.expected_batch * step.sensitivity + 14 * step.sigma * math.sqrt(sites) <= largest:
            return step
    wider = "" if largest >= Lanes.named("2x32").largest_sum else "choose a wider ring, for instance 2x32, or "
    raise ConfigError(
        f"secure.ring has lanes up to {largest}: too narrow for {dp.expected_batch} units in a step and noise "
        f"{dp.noise_multiplier:g}; {wider}lower dp.expected_batch, or the noise (a higher target, fewer rounds)"
    )


def cost(plan: Draft) -> Cost:
    """What one run of ``plan`` costs every unit that takes part."""
    return _cost(_Run.of(plan))


def charged(plan: Draft) -> float:
    """`Cost.charged` alone, which takes a fraction of the time."""
    return _charged(_Run.of(plan))


def epsilon_of_scores(plan: Draft) -> float:
    """PLD of the noised scores alone, all rounds, add-or-remove: what a run would cost that released nothing else."""
    scores = noised_scores(plan)
    delta = plan.dp.target_delta or DEFAULT_DELTA
    return 0.0 if scores is None else PldAccountant(RELATION).epsilon([scores], delta)


def noised_scores(plan: Draft) -> Event | None:
    """The scores that a site gives on its held-out notes, of all rounds; None where there are none."""
    private = plan.weighting.private
    return None if private is None else SelfComposed(GaussianEvent(private.noise_multiplier), plan.rounds)


@dataclass(frozen=True)
class _Run:
    """What the cost of a run depends on."""

    dp: DpSpec
    rounds: int
    single: bool
    score: float | None
    """Noise multiplier of each round's private score."""

    @classmethod
    def of(cls, plan: Draft) -> _Run:
        private = plan.weighting.private
        noise = None if private is None else private.noise_multiplier
        return cls(plan.dp, plan.rounds, "single" in plan.evaluation.baselines, noise)


def _releases(run: _Run) -> list[tuple[int, str, Event]]:
    """With distributed noise: as pooled data with a Gaussian, which bounds it (`DistributedStep`)."""
    dp, rounds = run.dp, run.rounds
    steps = 1 if dp.mode == "distributed" else dp.steps

    def event(count: int) -> Event:
        return NonPrivateRelease() if dp.mode == "none" else PrivateSteps.of(dp, count * steps).event

    found = [(number, UPDATE, event(1)) for number in range(rounds)]
    if run.score is not None:
        found += [(number, SCORE, GaussianEvent(run.score)) for number in range(rounds)]
    return [*found, (rounds, BASELINE, event(_alone(rounds)))] if run.single else found


def steps_charged(plan: Draft) -> int:
    """Private steps of one run: of all rounds, and of a single-site baseline where there is one."""
    rounds = plan.rounds + (_alone(plan.rounds) if "single" in plan.evaluation.baselines else 0)
    return rounds * (1 if plan.dp.mode == "distributed" else plan.dp.steps)


def _alone(rounds: int) -> int:
    """Rounds that a single-site baseline is charged for: its first is the site's own update. At least one."""
    return max(1, rounds - 1)


@lru_cache(maxsize=64)
def _cost(run: _Run) -> Cost:
    delta = run.dp.target_delta or SPARE_DELTA
    if run.dp.mode == "none":
        return Cost(delta, math.inf, math.inf, math.inf)
    events = [event for _, _, event in _releases(run)]
    return Cost(
        delta,
        PldAccountant(RELATION).epsilon(events, delta),
        PldAccountant("replace-one").epsilon(events, delta),
        _charged(run),
    )


@lru_cache(maxsize=64)
def _charged(run: _Run) -> float:
    if run.dp.mode == "none":
        return math.inf
    events = [event for _, _, event in _releases(run)]
    return RdpFilter(RELATION).epsilon(events, run.dp.target_delta or SPARE_DELTA)


def with_noise(draft: D) -> D:
    """The draft with delta and noise multiplier: where it names no noise, the least that keeps the target.

    ConfigError where the noise that it names does not keep the target, or where scores alone exceed it.
    """
    dp = draft.dp
    if dp.mode == "none" or dp.target_epsilon is None:
        return draft
    delta, noise = dp.target_delta or DEFAULT_DELTA, dp.noise_multiplier
    _require_room_beside_scores(draft, dp.target_epsilon, delta)
    if noise is None:
        steps = steps_charged(draft)
        records = records_sampled(dp)
        noise = calibrate(dp.target_epsilon, delta, dp.sampling_rate, steps, RELATION, records, noised_scores(draft))
        noise = max(0.125, noise)
    full = draft.model_copy(update={"dp": dp.model_copy(update={"target_delta": delta, "noise_multiplier": noise})})
    needed = charged(full)
    if needed > dp.target_epsilon:
        raise ConfigError(
            f"plan {draft.name}: expected noise that keeps epsilon {dp.target_epsilon:g}, found noise multiplier "
            f"{noise:g} and epsilon {shown_epsilon(needed)} at delta {delta:g}: leave out dp.noise_multiplier and it "
            "is computed, or raise the target"
        )
    return full


def _require_room_beside_scores(draft: Draft, target: float, delta: float) -> None:
    """Scores that use up the target by themselves: no noise on the steps helps."""
    private, scores = draft.weighting.private, noised_scores(draft)
    if private is None or scores is None:
        return
    alone = RdpFilter(RELATION).epsilon([scores], delta)
    if alone >= target:
        raise ConfigError(
            f"plan {draft.name}: expected a weighting.private.noise_multiplier that leaves something of "
            f"dp.target_epsilon {target:g}, found {private.noise_multiplier:g}: the scores of {draft.rounds} rounds "
            f"alone cost epsilon {shown_epsilon(alone)} at delta {delta:g}, whatever noise the steps get; raise it, "
            "take fewer rounds, or score public examples (weighting.validation)"
        )
