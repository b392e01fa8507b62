"""A federation as `fedsec run` does it, under masks; and, beside it, the plain sum of the very same updates.

Every site of a run is in this process and its notes are public, so that what no server may see can be kept: each
site's local adapter (in `Lab.train`) and the adapter that each round began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from cells.folders import write_sites
from cells.loop import FailedError
from cells.table import locked

from fedsec.data.schema import Example
from fedsec.plan.model import Plan
from fedsec.plan.specs import TrainingSpec
from fedsec.site.identity import Progress, SiteWork
from fedsec.site.work import LocalWork
from fedsec.spool import write_durably
from fedsec.study.federation import open_study
from fedsec.study.folder import RunFolder
from fedsec.study.prepare import prepare_run
from fedsec.training.adapter import AdapterState, Float32Array, load_peft
from fedsec.training.strategies import apply_update, local_update, shared_vector
from fedsec.wire import sum_parameters
from fedsec_secure.errors import FedsecError
from suite.aggregate import mean
from suite.lab import Lab
from suite.notes import VALIDATION, Deal
from suite.settings import PLAN

UNIFORM, INFLUENCE = "uniform", "influence"


@dataclass(frozen=True)
class Round:
    """One round of a run: where it began, what each site made of it, what each site weighed, and where it ended."""

    index: int
    start: AdapterState
    updates: Mapping[str, Float32Array]
    weights: Mapping[str, int]
    end: AdapterState

    def plain(self, plan: Plan) -> AdapterState:
        """Where it ends without masks, from the same updates with the same weights."""
        plain = mean([self.updates[s] for s in self.weights], list(self.weights.values()), plan.secure.clip)
        return apply_update(plan.lora.strategy, self.start, plain, self.index)

    def bound(self, plan: Plan) -> float:
        """How far no coordinate may be from there (`SumParameters.error_bound`), and the float32 rounding of the next
        adapter on both sides.
        """
        weights = self.weights.values()
        parameters = sum_parameters(plan, next(iter(self.updates.values())).size)
        parameters = replace(parameters, weight_max=max(weights))  # the heaviest site's travel at full scale
        rounding = 2 * float(np.abs(self.end.flatten()).max()) * 2.0**-24
        return parameters.error_bound(len(weights), sum(weights)) + rounding

    def deviation(self, plan: Plan) -> float:
        """The largest difference of a coordinate between masked and plain."""
        there, here = (shared_vector(plan.lora.strategy, a, self.index) for a in (self.plain(plan), self.end))
        return float(np.abs(there.astype(np.float64) - here).max())


@dataclass(frozen=True)
class Federation:
    """A finished run."""

    folder: RunFolder
    adapter: AdapterState
    rounds: tuple[Round, ...]

    def locals(self, index: int) -> dict[str, AdapterState]:
        """Each site's own adapter after its training of a round."""
        one, strategy = self.rounds[index], self.folder.plan.lora.strategy
        return {site: apply_update(strategy, one.start, update, index) for site, update in one.updates.items()}


class KeptWork:
    """A site's work; its local training is shared with every other run and experiment that does the same."""

    def __init__(self, local: LocalWork, lab: Lab, folder: Path) -> None:
        self._local, self._lab, self._folder = local, lab, folder

    def __getattr__(self, name: str) -> object:
        return getattr(self._local, name)

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        """Local training of one round; beside the run stands what it began with."""
        start = start_of(self._folder, round_index)
        if not start.is_file():
            write_durably(start.with_name(f"{start.name}-{self._local.name}"), [adapter.to_bytes()])
            start.with_name(f"{start.name}-{self._local.name}").replace(start)
        with self._local.models.take() as base:
            plan = self._local.plan
            return self._lab.train(
                adapter,
                self._local.examples,
                self._local.name,
                round_index=round_index,
                rounds=plan.rounds,
                seed=plan.seed,
                spec=plan.training,
                base=base,
            )


def start_of(folder: Path, round_index: int) -> Path:
    """The file of the adapter that a round of a run began with."""
    return folder.with_name(f"{folder.name}-start-{round_index}.safetensors")


def site_spec(lab: Lab, records: int, rounds: int | None = None) -> TrainingSpec:
    """A site's training: its sentences shared out over the rounds (None: the plan's), each seen once."""
    share = max(1, records // (rounds or lab.draft.rounds))
    return lab.draft.training.model_copy(update={"examples_per_round": share})


def deal_examples(lab: Lab, deal: Deal) -> dict[str, list[Example]]:
    """Every site's training examples."""
    return {site: lab.examples(documents, section) for site, (documents, section) in deal.items()}


def records_of(deal: Deal) -> int:
    """The limit that all sites of a deal have."""
    (limit,) = {section.limit for _, section in deal.values()}
    assert limit is not None
    return limit


def federate(lab: Lab, name: str, rule: str, seed: int, rounds: int | None = None) -> Federation:
    """The finished run of this deal under this weight rule; begun, resumed or only read.

    ``rounds``: None for the plan's. FailedError with the reason where `fedsec` refuses.
    """
    folder = lab.out / "runs" / (f"{name}-{rule}-s{seed}" + (f"-{rounds}-rounds" if rounds else ""))
    deal = lab.notes.deal(name, seed)
    sites = lab.out / "sites" / f"{name}-s{seed}"
    for parent in (folder.parent, sites.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with locked(sites.with_name(f"{sites.name}.lock")):
        write_sites(sites, deal, {VALIDATION: lab.notes.validation})
    with locked(folder.with_name(f"{folder.name}.lock")):  # a process that needs the same run waits for it
        _finish(lab, folder, sites, assignments(lab, deal, rule, seed, rounds))
    return _read(lab, RunFolder.open(folder), deal)


def _finish(lab: Lab, folder: Path, sites: Path, changes: Sequence[str]) -> None:
    try:
        if not (folder / "run.json").is_file():
            prepare_run(PLAN, sites, folder, init=True, assignments=changes)
        if not (folder / "certificate.json").is_file():
            run = RunFolder.open(folder)
            study = open_study(run, _progress(lab, run.plan.rounds), lab.jobs)
            study.work = _kept(lab, folder)
            study.run()
    except FedsecError as e:
        raise FailedError(f"{type(e).__name__}: {e}") from e


def assignments(lab: Lab, deal: Deal, rule: str, seed: int, rounds: int | None = None) -> list[str]:
    """What ``--set`` changes in the plan."""
    spec = site_spec(lab, records_of(deal), rounds)
    quorum = 2 * len(deal) // 3 + 1
    found = [
        *lab.scale.changes,
        f"seed={seed}",
        f"secure.minimum_cohort={quorum}",
        f"secure.threshold={quorum}",
        f"training.examples_per_round={spec.examples_per_round}",
        f"weighting.rule={rule}",
        *([f"rounds={rounds}"] if rounds else []),
    ]
    if rule == INFLUENCE:
        types = ", ".join(f'"{label}"' for label in lab.notes.validation_labels.entities)
        found.append(
            f'weighting.validation={{name="{VALIDATION}", entity_types=[{types}], limit={lab.scale.validation}}}'
        )
    return found


def _kept(lab: Lab, folder: Path) -> Callable[[LocalWork], SiteWork]:
    def keep(local: LocalWork) -> SiteWork:
        return cast(SiteWork, KeptWork(local, lab, folder))  # what it does not do itself, it passes on

    return keep


def _progress(lab: Lab, rounds: int) -> Progress:
    def told(event: dict[str, object]) -> None:
        if event.get("event") == "round":
            lab.say("rounds", int(str(event["round"])) + 1, rounds)

    return told


def _read(lab: Lab, folder: RunFolder, deal: Deal) -> Federation:
    plan = folder.plan
    adapter = load_peft(folder.adapter)
    starts = [AdapterState.from_bytes(start_of(folder.path, i).read_bytes()) for i in range(plan.rounds)]
    examples = deal_examples(lab, deal)
    told = {int(str(e["round"])): e for e in folder.events() if e["event"] == "round"}
    rounds = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], adapter], strict=True)):
        # Where a plan weighs by scores, the run says what each site weighed.
        survivors = cast("Sequence[str]", told[index]["survivors"])
        weights = cast("Mapping[str, int] | None", told[index].get("weights")) or dict.fromkeys(survivors, 1)
        made = {
            site: lab.train(
                start,
                examples[site],
                site,
                round_index=index,
                rounds=plan.rounds,
                seed=plan.seed,
                spec=plan.training,
            )
            for site in weights
        }
        updates = {site: local_update(plan.lora.strategy, start, after, index) for site, after in made.items()}
        rounds.append(Round(index, start, updates, weights, end))
    return Federation(folder, adapter, tuple(rounds))
