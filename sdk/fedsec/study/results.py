"""Scores of a study: every system on every public test set, and the comparison that the table shows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fedsec.evaluation.scores import FIGURES, Interval, Kind, Match, Scores, paired_bootstrap, set_macro_f1

ZERO_SHOT, FEDERATED, CENTRAL, SINGLE = "zero-shot", "federated", "central", "single:"


class Results(BaseModel):
    """System -> test set -> scores. Systems are `zero-shot`, `single:SITE`, `central` and `federated`."""

    model_config = ConfigDict(extra="forbid")

    scores: dict[str, dict[str, Scores]] = {}

    def macro(self, system: str, kind: Kind, match: Match) -> float | None:
        """Mean micro F1 over the test sets."""
        return set_macro_f1(self.scores.get(system, {}).values(), kind, match)

    def singles(self) -> list[str]:
        """The single-site systems, by name."""
        return sorted(s for s in self.scores if s.startswith(SINGLE))

    def best_single(self, kind: Kind, match: Match) -> str | None:
        """The single site with the highest macro F1."""
        rated = [(value, s) for s in self.singles() if (value := self.macro(s, kind, match)) is not None]
        return max(rated)[1] if rated else None

    def figures(self, system: str) -> dict[str, float]:
        """Of `Scores.figures`, the means over the test sets."""
        found = ((name, self.macro(system, kind, match)) for name, kind, match in FIGURES)
        return {name: value for name, value in found if value is not None}

    def gain(self, kind: Kind = "entities", match: Match = "strict") -> tuple[str, Interval] | None:
        """The best single site, and federated minus it with a paired bootstrap 95 % interval.

        Only over examples that both answered: single sites may be scored on a part of each test set.
        """
        best = self.best_single(kind, match)
        if best is None or FEDERATED not in self.scores:
            return None
        a, b = _common(self.scores[FEDERATED], self.scores[best])
        return best, paired_bootstrap(a, b, kind=kind, match=match)


def _common(a: dict[str, Scores], b: dict[str, Scores]) -> tuple[dict[str, Scores], dict[str, Scores]]:
    first, second = {}, {}
    for name in a.keys() & b.keys():
        shared = {c.example_id for c in a[name].counts} & {c.example_id for c in b[name].counts}
        first[name], second[name] = _only(a[name], shared), _only(b[name], shared)
    return first, second


def _only(scores: Scores, ids: set[str]) -> Scores:
    return scores.model_copy(update={"counts": tuple(c for c in scores.counts if c.example_id in ids)})
