"""A training run with canaries in it, and what it tells about which ones were there.

Each of m canaries is included by a fair coin, the site trains once with the real loop, and an auditor guesses coins
from what came out (`one_run` has the bound). Two auditors:

* *text*, black box: canaries are records of random letters; the auditor sees the adapter's loss on each before and
  after `train_private_round`, which is less than any recipient of the adapter sees.
* *gradient*: canaries are units whose gradient is one coordinate, far beyond the clipping norm, as different from all
  others as can be; the auditor adds up that coordinate over the steps' released sums. This is what somebody who sees
  every step can do, and what epsilon is charged for.

A canary is a unit: with sampled records a patient who has twice as many as are used, all the same. Of a plan with
distributed noise the sites are trained with that can be counted on, and only gradient canaries: what is seen are the
decoded sums of their integers.

Beside each stands a control that must leak: the same canaries without privacy, or with next to no noise. An audit that
saw nothing there would show nothing here. What is found is given as "ε ≥ x of y": y is the bound where every guess is
right. An epsilon above y cannot be refuted by so many canaries, however much leaks: such a row shows nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fedsec.audits.bounds import LEAST_NOISE, auditable, confidence_level
from fedsec.audits.crafted import Matrix, Seen, dimension, dp_of, sampled_records, take_shares, take_steps, tiny_base
from fedsec.audits.one_run import Found, ceiling, from_scores
from fedsec.audits.outcome import Row, Watch, told, unseen
from fedsec.data.schema import Example
from fedsec.evaluation.loss import example_losses
from fedsec.plan.cost import DEFAULT_DELTA, RELATION, PrivateSteps, noised_scores, records_sampled, steps_charged
from fedsec.plan.model import Draft
from fedsec.plan.specs import DpSpec, LoraSpec, TrainingSpec
from fedsec.privacy.accountant import PldAccountant
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.loop import train_round
from fedsec.training.private.loop import Private, train_private_round
from fedsec.training.private.mechanism import MATES
from fedsec.training.round import StepInfo
from fedsec_secure.accounting.events import Event
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

Scores = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

LORA: Final = LoraSpec(
    rank=16, alpha=32.0, dropout=0.0,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)  # fmt: skip
WIDE: Final = LoraSpec(strategy="ffa", rank=64, alpha=64.0, dropout=0.0, targets=("q_proj",))
"""For gradient canaries: 2,048 coordinates in two tensors."""
SPEC: Final = TrainingSpec(
    learning_rate=2e-3, batch_size=64, threads=1, max_tokens=64, warmup_fraction=0.0, schedule="constant"
)
LEAKY: Final = SPEC.model_copy(update={"learning_rate": 5e-3, "batch_size": 16, "epochs": 30})
"""Without privacy: until the canaries are known by heart."""
_LETTERS: Final = 8
_FEWEST: Final = 40
"""Fewer canaries show nothing."""
_TEXTS: Final = 256
"""Text canaries, at most: the tiny model cannot learn more of them by heart."""


@dataclass(frozen=True)
class Run:
    """What is trained and audited. ConfigError for numbers that no run has or no audit can use.

    Attributes:
        noise_multiplier: z, standard deviation of the noise over the clipping norm.
        sampling_rate: q of the Poisson sampling.
        steps: of the whole run.
        delta: at which epsilon is given.
        canaries: how many gradient canaries; of text canaries there are at most 256. Fewer where a step would draw more
            units than its bounds hold for.
        confidence: of each lower bound.
        records: of a patient, where records are sampled; 1 where units are.
        sharing: with distributed noise the fewest sites of a sum, and how many of them may tell their noise.
        beside: what else is released and charged, as a plan's scores on held-out notes.
    """

    noise_multiplier: float = 4.0
    sampling_rate: float = 0.5
    steps: int = 40
    delta: float = DEFAULT_DELTA
    canaries: int = 1000
    confidence: float = 0.95
    records: int = 1
    sharing: tuple[int, int] | None = None
    beside: Event | None = None

    def __post_init__(self) -> None:
        confidence_level(self.confidence)
        if not (_FEWEST <= self.canaries <= 2000 and 0 < self.sampling_rate <= 1 and 1 <= self.steps <= 100_000):
            raise ConfigError(
                "canaries: expected 40 to 2000 of them, a sampling rate above 0 and up to 1 and 1 to 100000 steps, "
                f"found {self.canaries}, {self.sampling_rate} and {self.steps}: use 1000, 0.5 and 40 for a short run"
            )
        auditable(self.noise_multiplier, self.delta, self.records)
        if self.count < _FEWEST:
            raise ConfigError(
                f"canaries: expected no more records of a patient than leave room for {_FEWEST} canaries in a step, "
                f"found {self.records} at a rate of {self.sampling_rate:g}: audit fewer, or a lower rate"
            )

    @property
    def theory(self) -> float:
        """The epsilon that is reported for the run: what `fedsec.plan.cost` says of a plan with these numbers."""
        events = [self.event] if self.beside is None else [self.event, self.beside]
        return PldAccountant(RELATION).epsilon(events, self.delta)

    @property
    def event(self) -> Event:
        """What its steps are charged as."""
        return PrivateSteps.of(self.dp(self.count), self.steps).event

    @property
    def count(self) -> int:
        """Gradient canaries: so few that all units of those that the coins include, five deviations above half, are
        expected to give a step no more than the loop takes.
        """
        most = MATES / 2 / (self.sampling_rate * self.records)
        return min(self.canaries, int(((math.sqrt(25 + 8 * most) - 5) / 2) ** 2))

    def dp(self, canaries: int) -> DpSpec:
        """The part of a plan that such a run is made from."""
        expected = max(1, round(canaries * self.records * self.sampling_rate / 2))
        more = sampled_records(self.records) if self.records > 1 else {}
        return dp_of(self.noise_multiplier, self.sampling_rate, self.steps, self.delta, expected_batch=expected, **more)

    def shared(self, values: int) -> DistributedStep | None:
        """A step of a run whose sites share the noise, releasing so many values."""
        if self.sharing is None:
            return None
        return DistributedStep(
            self.sampling_rate, self.noise_multiplier, 1.0, 1 << 16, values, *self.sharing, self.records
        )


def of_plan(plan: Draft) -> Run:
    """The run that a plan's sites are charged for: all of its rounds. ConfigError for a plan without noise."""
    dp = plan.dp
    if dp.mode == "none" or dp.noise_multiplier is None:
        raise ConfigError(
            f"audit canaries: expected a plan with noise, dp.mode local or distributed, found {dp.mode}: give "
            "--noise-multiplier, --sampling-rate and --steps instead of a plan"
        )
    return Run(
        dp.noise_multiplier,
        dp.sampling_rate,
        steps_charged(plan),
        dp.target_delta or DEFAULT_DELTA,
        records=records_sampled(dp),
        sharing=(plan.secure.quorum, dp.colluders) if dp.mode == "distributed" else None,
        beside=noised_scores(plan),
    )


def audit(run: Run, watch: Watch = unseen) -> list[Row]:
    """Rows that have to hold, and for each a control that has to leak. ConfigError where no guesses could refute."""
    level, count = confidence_level(run.confidence), run.count
    texts = min(count, _TEXTS)
    most = {number: ceiling(number, run.delta, level) for number in (count, texts)}
    if not all(most.values()):
        raise ConfigError(
            f"canaries: expected a delta at which {count} right guesses of {count} refute something, found "
            f"{run.delta:g} with confidence {run.confidence}: audit at a smaller --delta or --confidence"
        )

    def found(scores: Callable[[Coins], Scores], canaries: int) -> Found:
        coins = np.frombuffer(os.urandom(canaries), np.uint8) % 2 == 1
        return from_scores(scores(coins), coins, run.delta, level)

    base = tiny_base()
    rate = min(0.5, 800 / count)
    naked = replace(run, noise_multiplier=LEAST_NOISE, sampling_rate=rate, steps=10, records=1)
    gradient = found(lambda coins: _gradient_scores(base, run, coins, "gradient canaries", watch), count)
    bare = found(lambda coins: _gradient_scores(base, naked, coins, "control: little noise", watch), count)
    rows = [
        _private(f"{count} gradient canaries", gradient, run.theory, most[count]),
        _control("control: little noise", bare, most[count]),
    ]
    if run.sharing is not None:
        return rows
    text = found(lambda coins: _text_scores(base, run, coins, watch, private=True), texts)
    leaked = found(lambda coins: _text_scores(base, run, coins, watch, private=False), texts)
    private = _private(f"{texts} text canaries", text, run.theory, most[texts])
    return [private, rows[0], _control("control: no privacy", leaked, most[texts]), rows[1]]


def _private(name: str, found: Found, theory: float, most: float) -> Row:
    shows = most > theory
    more = "" if shows else ": no more can be shown"
    got = f"ε ≥ {found.epsilon:.2f} of {most:.2f} ({found.right} of {found.guesses} right){more}"
    numbers = {"theory": theory, "lower_bound": found.epsilon, "most": most}
    return Row(name, f"no bound above ε {theory:.2f}", got, found.epsilon <= theory, numbers, shows=shows)


def _control(name: str, found: Found, most: float) -> Row:
    got = f"ε ≥ {found.epsilon:.2f} of {most:.2f} ({found.right} of {found.guesses} right)"
    numbers = {"lower_bound": found.epsilon, "most": most}
    return Row(name, f"leaks ε ≥ {most / 2:.2f}", got, found.epsilon >= most / 2, numbers)


def _gradient_scores(base: BaseModel, run: Run, coins: Coins, what: str, watch: Watch) -> Scores:
    values = dimension(base, WIDE)
    total = np.zeros(values)
    for seen in told(_steps(base, run, np.flatnonzero(coins), values), run.steps, what, watch):
        total += seen.released
    return total[: len(coins)]


def _steps(base: BaseModel, run: Run, included: npt.NDArray[np.intp], values: int) -> Iterator[Seen]:
    """All steps with the gradients of the included canaries; where sites share the noise, each has some of them."""

    def records(of: npt.NDArray[np.intp]) -> tuple[Matrix, list[int]]:
        owners = np.repeat(of, brought(run))
        gradients = np.zeros((len(owners), values))
        gradients[np.arange(len(owners)), owners] = 1e3
        return gradients, owners.tolist()

    step = run.shared(values)
    if step is None:
        return take_steps(base, WIDE, run.dp(run.count), *records(included))
    at_sites = [records(part) for part in np.array_split(included, step.survivors - step.colluding)]
    gradients, owners = zip(*at_sites, strict=True)
    return islice(take_shares(WIDE, step, gradients, owners), run.steps)


def brought(run: Run) -> int:
    """Records that a canary has: twice as many as are used where records are sampled, or one."""
    return 2 * run.records if run.records > 1 else 1


def _text_scores(base: BaseModel, run: Run, coins: Coins, watch: Watch, *, private: bool) -> Scores:
    canaries = text_canaries(len(coins))
    start = initial_adapter(base, LORA, 0)
    included = [canary for canary, coin in zip(canaries, coins, strict=True) if coin]
    copies = [
        canary.model_copy(update={"example_id": f"{canary.example_id}-{number}"})
        for canary in included
        for number in range(brought(run))
    ]
    what = "text canaries" if private else "control: no privacy"

    def told(info: StepInfo) -> None:
        watch(what, info.step, info.steps)

    if private:
        how = Private(run.dp(len(coins)))
        result = train_private_round(
            base, start, copies, SPEC, LORA, private=how, round_index=0, rounds=1, on_step=told
        )
    else:
        result = train_round(
            base, start, included, LEAKY, LORA, round_index=0, rounds=1, seed_material=os.urandom(32), on_step=told
        )
    return _losses(base, start, canaries) - _losses(base, result.adapter, canaries)


def _losses(base: BaseModel, adapter: AdapterState, canaries: Sequence[Example]) -> Scores:
    found = example_losses(base, adapter, LORA, canaries, max_tokens=SPEC.max_tokens, batch_size=64)
    return np.array([loss.nats for loss in found])


def text_canaries(count: int) -> list[Example]:
    """Records of eight random letters and an answer of eight more; always the same ones."""
    letters = np.random.default_rng(0).integers(ord("!"), ord("~") + 1, (count, 2, _LETTERS)).astype(np.uint8)
    found = []
    for number, (prompt, answer) in enumerate(letters):
        name, text = f"canary-{number}", bytes(prompt).decode("ascii")
        found.append(
            Example(
                example_id=name, document_id=name, patient_id=name, text=text, offset=0, entities=(), relations=None,
                prompt=text, answer=bytes(answer).decode("ascii"),
            )
        )  # fmt: skip
    return found
