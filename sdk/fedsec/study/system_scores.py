"""Scores at the coordinator: the shared adapter and what a plan compares it with, on the plan's public test sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from fedsec.evaluation.scores import KINDS, Scores
from fedsec.site.identity import Progress
from fedsec.site.work import TestSet, score_tests
from fedsec.study.folder import RunFolder
from fedsec.study.results import CENTRAL, FEDERATED, SINGLE, ZERO_SHOT
from fedsec.training.adapter import AdapterState
from fedsec.training.replicas import Replicas
from fedsec_secure.errors import LocalMisuseError, VerificationError
from fedsec_secure.identity.roster import SiteId

Pooled = Callable[[], AdapterState]
Baselines = Callable[[Callable[[bytes], dict[str, Scores]]], Mapping[SiteId, dict[str, Scores]]]


@dataclass(frozen=True)
class SystemScores:
    """Of one run. What has a score on disk is not scored again."""

    folder: RunFolder
    models: Replicas
    tests: Sequence[TestSet] = field(repr=False)
    progress: Progress
    pooled: Pooled | None = field(repr=False)

    def at_the_end(self, adapter: AdapterState | None, baselines: Baselines) -> None:
        """Every system that the plan asks for, the shared adapter where it is here.

        ``baselines``: the sites' own scores, which are asked for here; it is given what reads a site's JSON.
        """
        if not self.tests:
            return
        evaluation = self.folder.plan.evaluation
        if adapter is not None:
            self._once(FEDERATED, adapter)
        if "single" in evaluation.baselines:
            results = self.folder.results()
            for site, scores in baselines(lambda data: parse_baseline(data, self.tests)).items():
                results.scores[f"{SINGLE}{site}"] = scores
            self.folder.save_results(results)
        if "zero-shot" in evaluation.baselines:
            self._once(ZERO_SHOT, None, evaluation.zero_shot_test_limit)
        wanted = "central" in evaluation.baselines and CENTRAL not in self.folder.results().scores
        if wanted and self.pooled is not None:
            self._once(CENTRAL, self.pooled())

    def after_round(
        self, index: int, adapter: Callable[[], AdapterState | None], report: Callable[[dict[str, object]], None]
    ) -> None:
        """Where the plan asks for it: the shared adapter on public tests. Everyone in the run could do the same."""
        plan = self.folder.plan
        limit = plan.evaluation.round_test_limit
        if limit is None or any((e["event"], e.get("round")) == ("scored", index) for e in self.folder.events()):
            return
        shared = adapter()
        if shared is None:
            raise LocalMisuseError("expected the adapter at the coordinator: the plan scores it after each round")
        found = score_tests(self.models, shared, plan, self.tests, limit)
        f1 = {t: {k: v for k in KINDS if (v := s.f1(k, "strict")) is not None} for t, s in found.items()}
        report({"event": "scored", "round": index, "f1": f1})

    def _once(self, system: str, adapter: AdapterState | None, limit: int | None = None) -> None:
        results = self.folder.results()
        if system in results.scores:
            return

        def on_batch(done: int, of: int) -> None:
            self.progress({"event": "score", "site": system, "step": done, "steps": of})

        results.scores[system] = score_tests(self.models, adapter, self.folder.plan, self.tests, limit, on_batch)
        self.folder.save_results(results)


def parse_baseline(data: bytes, tests: Sequence[TestSet]) -> dict[str, Scores]:
    """A site's signed scores, strictly: known test sets only."""
    known = {t.spec.name for t in tests}
    try:
        raw = json.loads(data)
        return {name: Scores.model_validate(raw[name]) for name in sorted(raw) if name in known}
    except (ValueError, TypeError, RecursionError, ValidationError) as e:
        raise VerificationError(f"a baseline's scores do not parse: {type(e).__name__}") from None
