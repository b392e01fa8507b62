"""What a published score tells: whether one record was trained on, guessed from the level that a site states.

With `weighting.rule = "influence"` a site publishes the loss of its own model on the plan's validation set, in steps of
0.05. Here many sites are trained from the same start with the same records, half of them with one record more, and an
attacker who knows all the rest guesses from the level alone which ones had it. What it gets is the area under its ROC
curve: 0.5 is chance, 1 is certainty (Yeom et al. 2018 guess membership from a loss in this way).

It depends on who chose the validation set. The worst is one that has the record itself in it: the score then asks for
it. With DP-SGD a level follows from a private update, and the area is bounded by its epsilon: no test of an
(epsilon, delta)-private output has a ROC curve above min(e^epsilon x + delta, 1 - e^-epsilon (1 - delta - x)) (Kairouz,
Oh and Viswanath 2015, theorem 2.1).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedsec.audits.bounds import confidence_level
from fedsec.audits.canaries import LORA, Run
from fedsec.audits.crafted import tiny_base
from fedsec.audits.outcome import Row, Watch, unseen
from fedsec.data.schema import Example
from fedsec.evaluation.loss import example_losses, mean_loss
from fedsec.plan.specs import TrainingSpec
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.loop import train_round
from fedsec.training.private.loop import Private, train_private_round
from fedsec_secure.errors import ConfigError
from fedsec_secure.numeric.score_levels import level_of

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel

Levels = npt.NDArray[np.float64]
SPEC: Final = TrainingSpec(learning_rate=1e-2, batch_size=4, epochs=6, threads=1, max_tokens=128, warmup_fraction=0.05)
_LEAKS: Final = 0.75
"""The area that the control has to show: below, the test would show nothing where there is something."""


@dataclass(frozen=True)
class Sites:
    """What is trained and guessed. ConfigError for numbers that no such test can use.

    Attributes:
        trainings: of each kind, half of them with the record.
        records: of a site beside the one in question.
        validation: examples of the validation set.
        noise_multiplier, sampling_rate, steps: of the private trainings.
        confidence: of each bound.
    """

    trainings: int = 60
    records: int = 20
    validation: int = 5
    noise_multiplier: float = 2.0
    sampling_rate: float = 0.5
    steps: int = 10
    confidence: float = 0.95

    def __post_init__(self) -> None:
        confidence_level(self.confidence)
        if not (20 <= self.trainings <= 10_000 and self.records >= 4 and self.validation >= 1):
            raise ConfigError(
                "scores: expected 20 to 10000 trainings, 4 records or more and a validation set, found "
                f"{self.trainings}, {self.records} and {self.validation}"
            )

    @property
    def private(self) -> Run:
        """The private trainings."""
        return Run(self.noise_multiplier, self.sampling_rate, self.steps)


def audit(sites: Sites, watch: Watch = unseen) -> list[Row]:
    """A control that has to leak, what an unrelated validation set tells, and a row that epsilon bounds."""
    own, apart = notes("site", sites.records), notes("elsewhere", sites.validation)
    target = notes("target", 1)[0]
    asking = [*apart[1:], target]
    base, level = tiny_base(), confidence_level(sites.confidence)
    plain = _levels(base, own, target, (asking, apart), sites, watch, private=False)
    private = _levels(base, own, target, (asking,), sites, watch, private=True)
    bound = largest_area(sites.private.theory, sites.private.delta)
    rows = []
    low, area, high = area_under(*plain[0], level)
    numbers = {"area": area, "low": low, "high": high}
    text = _words(low, area, high)
    rows.append(Row("control: the record is in the set", f"leaks: area ≥ {_LEAKS}", text, area >= _LEAKS, numbers))
    low, area, high = area_under(*plain[1], level)
    numbers = {"area": area, "low": low, "high": high}
    text = _words(low, area, high)
    rows.append(Row("a set without it", "no more than the control", text, low <= rows[0].numbers["high"], numbers))
    low, area, high = area_under(*private[0], level)
    numbers = {"area": area, "low": low, "high": high, "bound": bound, "epsilon": sites.private.theory}
    expected = f"area ≤ {bound:.3f}, by ε {sites.private.theory:.2f}"
    rows.append(Row("private, the record is in the set", expected, _words(low, area, high), low <= bound, numbers))
    return rows


def _words(low: float, area: float, high: float) -> str:
    return f"area {area:.2f} [{low:.2f}, {high:.2f}]; 0.5 is chance"


def _levels(
    base: BaseModel,
    own: Sequence[Example],
    target: Example,
    sets: Sequence[Sequence[Example]],
    sites: Sites,
    watch: Watch,
    *,
    private: bool,
) -> list[tuple[Levels, Levels]]:
    """For each validation set the levels of the sites with the record, and of those without."""
    what = "private scores" if private else "scores"
    found: list[tuple[list[int], list[int]]] = [([], []) for _ in sets]
    start = initial_adapter(base, LORA, 0)
    for number in range(sites.trainings):
        without = number % 2
        examples = list(own) if without else [*own, target]
        adapter = _trained(base, start, examples, sites, private)
        for levels, examined in zip(found, sets, strict=True):
            losses = example_losses(base, adapter, LORA, examined, max_tokens=SPEC.max_tokens)
            levels[without].append(level_of(mean_loss(losses)))
        watch(what, number + 1, sites.trainings)
    return [(np.array(having, np.float64), np.array(lacking, np.float64)) for having, lacking in found]


def _trained(
    base: BaseModel, start: AdapterState, examples: Sequence[Example], sites: Sites, private: bool
) -> AdapterState:
    """A site's model after a round, as it would be scored."""
    if not private:
        seed = os.urandom(32)
        return train_round(base, start, examples, SPEC, LORA, round_index=0, rounds=1, seed_material=seed).adapter
    how = Private(sites.private.dp(len(examples)))
    return train_private_round(base, start, examples, SPEC, LORA, private=how, round_index=0, rounds=1).adapter


def area_under(having: Levels, lacking: Levels, level: float) -> tuple[float, float, float]:
    """(low, area, high): the chance that a site with the record states a lower level than one without, ties halved, and
    a bootstrap interval of confidence 1 - ``level``.
    """

    def area(a: Levels, b: Levels) -> float:
        return float(stats.mannwhitneyu(b, a).statistic) / (len(a) * len(b))

    found = area(having, lacking)
    interval = stats.bootstrap(
        (having, lacking), area, vectorized=False, n_resamples=999, confidence_level=1 - level, method="percentile"
    ).confidence_interval
    return float(interval.low), found, float(interval.high)


def largest_area(epsilon: float, delta: float) -> float:
    """The largest area under a ROC curve that an (``epsilon``, ``delta``)-private output allows."""
    corner = (1 - delta) / (1 + math.exp(epsilon))
    below = delta * corner + math.exp(epsilon) * corner**2 / 2
    return below + (1 - delta - corner) * (2 - corner) / 2 + delta


def notes(kind: str, count: int) -> list[Example]:
    """Made-up records of one kind, always the same: a drug with a number in a short sentence."""
    numbers = np.random.default_rng(list(kind.encode())).integers(100, 1000, count)
    found = []
    for index, number in enumerate(numbers):
        text = f"Took drug{number} for pain."
        name = f"{kind}-{index}"
        found.append(
            Example(
                example_id=name, document_id=name, patient_id=name, text=text, offset=0, entities=(), relations=None,
                prompt=f"Text: {text}\nEntities:\n", answer=f"drug{number} | Drug",
            )
        )  # fmt: skip
    return found
