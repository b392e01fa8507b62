"""What the run gave on the public test sets: by system, by site, and from round to round where the plan asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from fedsec.evaluation.scores import MEASURE, Interval, Kind, Scores, paired_bootstrap
from fedsec.study.results import CENTRAL, FEDERATED, SINGLE, ZERO_SHOT, Results
from fedsec_secure.errors import ConfigError


@dataclass(frozen=True)
class Fair:
    """One public test set: what taking part gave the site of the same name."""

    test: str
    examples: int
    federated: float
    """Strict micro F1 of the shared adapter."""
    alone: float | None
    """Of the adapter that the site of this name trained alone; None where there is no such site or baseline."""
    alone_examples: int
    gain: Interval | None
    """Federated minus alone, on the examples that both answered."""
    weakest: bool


@dataclass(frozen=True)
class System:
    """What was trained how, and how well it does."""

    name: str
    mean: float
    """Of F1 over the test sets, each on the examples that it answered."""


@dataclass(frozen=True)
class KindReport:
    """Everything about entities, about relations, or about written titles."""

    kind: Kind
    fair: tuple[Fair, ...]
    systems: tuple[System, ...]
    best_alone: str | None
    gain: Interval | None
    """Federated minus the best single site, over all test sets."""

    @property
    def measure(self) -> str:
        """F1 or ROUGE-L."""
        return MEASURE[self.kind]

    @property
    def unit(self) -> str:
        """What one example is."""
        return "texts" if self.kind == "titles" else "sentences"


def kind_report(results: Results, kind: Kind) -> KindReport | None:
    """None where no test set has such labels."""
    fair = _fairness(results, kind)
    if not fair:
        return None
    best = results.gain(kind)
    order = [ZERO_SHOT, *results.singles(), FEDERATED, CENTRAL]
    means = {s: results.macro(s, kind, "strict") for s in order if s in results.scores}
    systems = tuple(System(system_title(s), mean) for s, mean in means.items() if mean is not None)
    name, gain = (None, None) if best is None else (best[0].removeprefix(SINGLE), best[1])
    return KindReport(kind, fair, systems, name, gain)


def system_title(system: str) -> str:
    """As people read it."""
    names = {ZERO_SHOT: "base model as it is", FEDERATED: "together", CENTRAL: "pooled notes"}
    return names.get(system, f"{system.removeprefix(SINGLE)} alone")


def _fairness(results: Results, kind: Kind) -> tuple[Fair, ...]:
    federated = {t: s for t, s in results.scores.get(FEDERATED, {}).items() if s.f1(kind, "strict") is not None}
    values = {t: _f1(s, kind) or 0.0 for t, s in federated.items()}
    least, spread = min(values.values(), default=0.0), len(set(values.values())) > 1
    weakest = next((t for t in sorted(values) if spread and values[t] == least), None)
    rows = []
    for test in sorted(federated):
        own = results.scores.get(f"{SINGLE}{test}", {}).get(test)
        rows.append(
            Fair(
                test=test,
                examples=federated[test].examples,
                federated=values[test],
                alone=_f1(own, kind),
                alone_examples=0 if own is None else own.examples,
                gain=_gain(federated[test], own, kind),
                weakest=test == weakest,
            )
        )
    return tuple(rows)


def _f1(scores: Scores | None, kind: Kind) -> float | None:
    return None if scores is None else scores.f1(kind, "strict")


def _gain(federated: Scores, alone: Scores | None, kind: Kind) -> Interval | None:
    if alone is None or alone.f1(kind, "strict") is None:
        return None
    shared = {c.example_id for c in federated.counts} & {c.example_id for c in alone.counts}
    if not shared:
        return None
    a, b = ({"": s.model_copy(update={"counts": _only(s, shared)})} for s in (federated, alone))
    return paired_bootstrap(a, b, kind=kind)


def _only(scores: Scores, ids: set[str]) -> tuple[object, ...]:
    return tuple(c for c in scores.counts if c.example_id in ids)


class _Scored(BaseModel):
    round: int
    f1: dict[str, dict[Kind, float]]


def learning_curve(events: Iterable[Mapping[str, object]], kind: Kind) -> Mapping[str, Sequence[tuple[int, float]]]:
    """Test set -> (round from 1, F1 of the global adapter after it), from ``scored`` events; a later one replaces."""
    found: dict[str, dict[int, float]] = {}
    for event in events:
        if event.get("event") != "scored":
            continue
        try:
            scored = _Scored.model_validate(event)
        except ValidationError:
            raise ConfigError("metrics.jsonl: a line of scores between rounds is not as fedsec writes it") from None
        for test, values in scored.f1.items():
            if kind in values:
                found.setdefault(test, {})[scored.round + 1] = values[kind]
    return {test: sorted(points.items()) for test, points in sorted(found.items())}
