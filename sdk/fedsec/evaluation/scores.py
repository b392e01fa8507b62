"""Precision, recall and F1 from counts, and how sure a difference between two systems is.

Two different averages are called macro elsewhere; here each has its own name. ``type_macro_f1`` is the mean over the
types of one test set, `set_macro_f1` the mean of micro F1 over several test sets (one a site).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import scipy
from pydantic import BaseModel, ConfigDict

from fedsec.evaluation.matching import Tally
from fedsec_secure.errors import LocalMisuseError

Kind = Literal["entities", "relations", "titles"]
Match = Literal["strict", "lenient"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEASURE: Mapping[Kind, str] = MappingProxyType({"entities": "F1", "relations": "F1", "titles": "ROUGE-L"})
"""What is said of each kind. ROUGE-L has no strict and lenient matching: both name the same figure."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Frozen):
    """Micro scores of some counts. All three are 0 where there is neither gold nor prediction."""

    correct: int
    predicted: int
    gold: int
    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, correct: int, predicted: int, gold: int) -> Self:
        """Scores of ``correct`` matches among ``predicted`` items against ``gold`` ones."""
        return cls(
            correct=correct,
            predicted=predicted,
            gold=gold,
            precision=correct / predicted if predicted else 0.0,
            recall=correct / gold if gold else 0.0,
            f1=2 * correct / (predicted + gold) if predicted + gold else 0.0,
        )


class MatchScores(_Frozen):
    """One way of matching over one test set."""

    micro: Score
    """Counts summed over types; labels that were not asked for are false positives here."""
    by_type: dict[str, Score]
    type_macro_f1: float
    """Mean F1 over the types that occur, in gold or in predictions."""


class KindScores(_Frozen):
    """Mentions, or links, of one test set."""

    strict: MatchScores
    lenient: MatchScores


class Overlap(_Frozen):
    """ROUGE-L of one written text, or its mean over several."""

    precision: float
    recall: float
    fmeasure: float


class TitleScores(_Frozen):
    """Written titles of one test set."""

    rouge_l: Overlap
    """Mean over the examples."""
    loss: float
    """Nats per token of the true titles."""


class ExampleCounts(_Frozen):
    """What one answer held, kept for resampling."""

    example_id: str
    entities: dict[str, Tally]
    relations: dict[str, Tally]
    unknown_types: int = 0
    """Lines with a label that was not asked for: false positives among the entities, of no type."""
    title: Overlap | None = None

    def triple(self, kind: Kind, match: Match) -> tuple[float, int, int]:
        """(correct, predicted, gold) over all types. A title is one item that is right by its ROUGE-L: so the F1 of
        several is their mean.
        """
        if kind == "titles":
            return (0, 0, 0) if self.title is None else (self.title.fmeasure, 1, 1)
        tallies = getattr(self, kind).values()
        extra = self.unknown_types if kind == "entities" else 0
        correct = sum(getattr(t, match) for t in tallies)
        return correct, sum(t.predicted for t in tallies) + extra, sum(t.gold for t in tallies)


class Scores(_Frozen):
    """A system on one test set."""

    examples: int
    entities: KindScores | None
    """None where the task gives the mentions."""
    relations: KindScores | None
    """None where the test set has no relation labels."""
    titles: TitleScores | None = None
    """For the task kind ``title`` only."""
    ungrounded: int
    """Predicted mentions and links whose words are not in the note (counted as false positives)."""
    malformed_lines: int
    seconds: float
    counts: tuple[ExampleCounts, ...] = ()

    def without_counts(self) -> Scores:
        """The same without the counts by example."""
        return self.model_copy(update={"counts": ()})

    def f1(self, kind: Kind, match: Match) -> float | None:
        """Micro F1, for titles the mean ROUGE-L F-measure; None where the test set has no such labels."""
        if kind == "titles":
            return None if self.titles is None else self.titles.rouge_l.fmeasure
        scores: KindScores | None = getattr(self, kind)
        return None if scores is None else float(getattr(scores, match).micro.f1)

    def figures(self) -> dict[str, float]:
        """Everything of it that a table shows, by name: ``entities strict``, ``titles ROUGE-L``."""
        return {name: value for name, kind, match in FIGURES if (value := self.f1(kind, match)) is not None}


FIGURES: tuple[tuple[str, Kind, Match], ...] = (
    ("entities strict", "entities", "strict"),
    ("entities lenient", "entities", "lenient"),
    ("relations strict", "relations", "strict"),
    ("relations lenient", "relations", "lenient"),
    ("titles ROUGE-L", "titles", "strict"),
)


class Interval(_Frozen):
    """A difference a - b of `set_macro_f1`, with a percentile bootstrap interval."""

    difference: float
    low: float
    high: float
    level: float
    resamples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def kind_scores(counts: Iterable[ExampleCounts], kind: Kind) -> KindScores:
    """Sum the counts of a test set into its scores."""
    rows = list(counts)
    return KindScores(strict=_match_scores(rows, kind, "strict"), lenient=_match_scores(rows, kind, "lenient"))


def set_macro_f1(scores: Iterable[Scores], kind: Kind, match: Match) -> float | None:
    """Unweighted mean of micro F1 over the test sets that have such labels; None where none has."""
    values = [value for value in (s.f1(kind, match) for s in scores) if value is not None]
    return float(np.mean(values)) if values else None


Mean = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def _arithmetic(of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.mean(of, axis=0)
    return found


def paired_bootstrap(
    a: Mapping[str, Scores],
    b: Mapping[str, Scores],
    *,
    kind: Kind = "entities",
    match: Match = "strict",
    mean: Mean = _arithmetic,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval for `set_macro_f1` of system a minus system b, on the same test sets (name -> scores with counts).

    ``mean``: another mean of the F1 of several sets than the usual one, float64[sets, ...] -> float64[...].

    Each resample draws every test set's examples anew, with replacement and the same draw for both systems (Efron and
    Tibshirani 1993), so it speaks of the test examples' chance only, not of the training seed's.
    """
    if set(a) != set(b):
        raise LocalMisuseError(f"paired bootstrap: test sets differ ({sorted(a)} and {sorted(b)})")
    pairs = [
        _paired_counts(name, a[name], b[name], kind, match)
        for name in sorted(a)
        if getattr(a[name], kind) is not None or getattr(b[name], kind) is not None
    ]
    if not pairs:
        raise LocalMisuseError(f"paired bootstrap: no test set has {kind}")

    def difference(*drawn: npt.NDArray[np.int64], axis: int) -> npt.NDArray[np.float64]:
        first = np.stack([_f1(x[i].sum(-2)) for (x, _), i in zip(pairs, drawn, strict=True)])
        second = np.stack([_f1(y[i].sum(-2)) for (_, y), i in zip(pairs, drawn, strict=True)])
        return mean(first) - mean(second)

    every = tuple(np.arange(len(first)) for first, _ in pairs)
    ends = scipy.stats.bootstrap(
        every,
        difference,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    observed = float(difference(*every, axis=-1))
    return Interval(difference=observed, low=float(ends.low), high=float(ends.high), level=level, resamples=resamples)


def _match_scores(counts: list[ExampleCounts], kind: Kind, match: Match) -> MatchScores:
    labels = sorted({label for row in counts for label in getattr(row, kind)})
    by_type = {}
    for label in labels:
        tallies = [tallies[label] for row in counts if label in (tallies := getattr(row, kind))]
        by_type[label] = Score.of(
            sum(getattr(t, match) for t in tallies), sum(t.predicted for t in tallies), sum(t.gold for t in tallies)
        )
    triples = [row.triple(kind, match) for row in counts]
    micro = Score.of(*(int(sum(column)) for column in zip(*triples, strict=True))) if triples else Score.of(0, 0, 0)
    occurring = [score.f1 for score in by_type.values() if score.predicted + score.gold]
    return MatchScores(micro=micro, by_type=by_type, type_macro_f1=float(np.mean(occurring)) if occurring else 0.0)


def _paired_counts(
    name: str, a: Scores, b: Scores, kind: Kind, match: Match
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not a.counts or [row.example_id for row in a.counts] != [row.example_id for row in b.counts]:
        raise LocalMisuseError(
            f"paired bootstrap, test set {name}: expected counts of the same examples in the same order from both "
            f"systems, found {len(a.counts)} and {len(b.counts)}"
        )
    first, second = (np.array([row.triple(kind, match) for row in s.counts], dtype=np.float64) for s in (a, b))
    if len(first) == 1:  # scipy resamples two or more; the same example twice has the same F1
        return first.repeat(2, axis=0), second.repeat(2, axis=0)
    return first, second


def _f1(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """F1 of (correct, predicted, gold) along the last axis; 0 where there is neither prediction nor gold."""
    result: npt.NDArray[np.float64] = 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1.0)
    return result
