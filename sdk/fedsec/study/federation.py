"""A whole study: a working set's sites in one process, their rounds, and the systems to compare with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from pydantic import ValidationError

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.journal import Journal
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.runner import Runner
from fedsec.coordinator.state import State
from fedsec.data.schema import Example
from fedsec.engines.embedded import EmbeddedTransport
from fedsec.evaluation.scores import KINDS, Scores
from fedsec.plan.model import Plan
from fedsec.plan.sitefile import Site, load_sites
from fedsec.site.agent import SiteAgent
from fedsec.site.encrypted import EncryptedAgent
from fedsec.site.identity import Progress, SiteWork
from fedsec.site.work import LocalWork, TestSet, score_tests, validation_loss
from fedsec.study.certify import write_certificate
from fedsec.study.corpora import load_held_out, load_public_tests, load_training, load_validation
from fedsec.study.folder import RunFolder
from fedsec.study.results import CENTRAL, FEDERATED, SINGLE, ZERO_SHOT
from fedsec.study.sites import open_agent
from fedsec.training.adapter import AdapterState, initial_adapter, load_peft
from fedsec.training.base_model import load_base
from fedsec.training.loop import train_round
from fedsec.training.public_step import adapter_of, between_rounds
from fedsec.training.replicas import Replicas, cores
from fedsec.training.round import StepInfo
from fedsec.wire import core_roster, log_of
from fedsec_secure.codec import sha256
from fedsec_secure.errors import AbortError, ConfigError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId

COORDINATOR_KEY = Path("coordinator") / "coordinator.key"


@dataclass
class Study:
    """One run folder with everything that acts in it. Use :func:`open_study`."""

    folder: RunFolder
    models: Replicas
    sites: dict[str, Site]
    training: dict[str, list[Example]] = field(repr=False)
    tests: Sequence[TestSet] = field(repr=False)
    validation: Sequence[Example] = field(repr=False, default=())
    progress: Progress = lambda event: None
    stopping: Event = field(default_factory=Event)
    work: Callable[[LocalWork], SiteWork] = lambda local: local
    """What a site does with its notes; an experiment on public corpora may keep what its sites make of them."""
    _agents: tuple[SiteAgent, ...] = field(init=False, repr=False, default=())

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.folder.plan

    def report(self, event: dict[str, object]) -> None:
        """To the run's metrics and to whoever watches."""
        if event["event"] != "asking":
            self.folder.note(event)
        self.progress(event)

    def step(self, event: dict[str, object]) -> None:
        """What a site at work reports after each step: to whoever watches, and the place where it can be stopped."""
        if self.stopping.is_set():
            raise AbortError("this run is being stopped; `fedsec resume` goes on with it")
        self.progress(event)

    def run(self) -> None:
        """All that is left to do: rounds, adapter, baselines, scores. Safe to call again after a kill."""
        with ExitStack() as stack:
            agents = {SiteId(n): self._agent(n, stack) for n in self.plan.roster.sites if n in self.sites}
            self._agents = tuple(agents.values())
            journal = Journal(self.folder.path)
            stack.callback(journal.close)
            roster = core_roster(self.plan)
            journal.bind(self.plan.digest(), self.folder.run, roster.digest())
            key = SigningKey.load(self.folder.sites / COORDINATOR_KEY)
            if key.public != roster.coordinator:
                raise ConfigError(f"{self.folder.sites / COORDINATOR_KEY} is not the key of the plan's coordinator")
            log = RunLog(self.folder.path / "log", log_of(self.plan, self.folder.run), key)
            for entry in self.folder.approval_entries():
                log.record(entry)
            driver = Driver(self.plan, self.folder.run, key.sign, self.report, log.record, self._loss)
            transport = EmbeddedTransport(agents, self.models.count, self.stopping)
            runner = Runner(driver, journal, transport, self.report, log, self._score_round)
            last = runner.rounds(initial_adapter(self.models.base, self.plan.lora, self.plan.seed))
            adapter = self._known(self.plan.rounds, last)
            self._score(adapter, runner)
            attested = runner.attest(last)
            self.folder.save_attestations({site: signed for site, (signed, _) in attested.items()})
            runner.close(last, attested)
        adapter.save_peft(self.folder.adapter, self.plan.model, self.plan.lora)
        self.report({"event": "finished"})
        write_certificate(self.folder, key)

    def _agent(self, name: str, stack: ExitStack) -> SiteAgent:
        held_out = load_held_out(self.sites[name], self.plan)
        data = (self.training[name], self.tests, self.validation, held_out)
        work = LocalWork(name, self.plan, self.models, *data, self.step)
        agent = open_agent(self.sites[name], self.plan, self.work(work), stack)
        agent.progress = self.progress
        return agent

    def _known(self, number: int, state: State) -> AdapterState:
        """What round ``number`` starts from: where sums are encrypted, from a site of this process that has it."""
        if isinstance(state, AdapterState):
            return state
        for agent in self._agents:
            if isinstance(agent, EncryptedAgent) and (held := agent.held(self.folder.run, number)) is not None:
                found = adapter_of(held)
                if state.digest() in (held.digest(), found.digest()):
                    return found
        raise VerificationError(f"no site of this process has the adapter that the sites attest after round {number}")

    def _loss(self, adapter: AdapterState) -> float:
        """At the coordinator, of what decrypted sums lead to, where the plan weighs groups by it."""
        with self.models.take() as base:
            return validation_loss(base, adapter, self.plan, self.validation)

    # ---- scores

    def _score(self, adapter: AdapterState, runner: Runner) -> None:
        if not self.tests:
            return
        asked = self.plan.evaluation.baselines
        self._score_once(FEDERATED, adapter)
        if "single" in asked:
            results = self.folder.results()
            for site, data in runner.baselines().items():
                results.scores[f"{SINGLE}{site}"] = parse_baseline(data, self.tests)
            self.folder.save_results(results)
        if "zero-shot" in asked:
            self._score_once(ZERO_SHOT, None, self.plan.evaluation.zero_shot_test_limit)
        if "central" in asked and CENTRAL not in self.folder.results().scores:
            self._score_once(CENTRAL, self._central())

    def _score_round(self, index: int, state: State) -> None:
        """Where the plan asks for it: the shared adapter on public tests. Everyone in the run could do the same."""
        limit = self.plan.evaluation.round_test_limit
        if limit is None or any((e["event"], e.get("round")) == ("scored", index) for e in self.folder.events()):
            return
        found = score_tests(self.models, self._known(index + 1, state), self.plan, self.tests, limit)
        f1 = {t: {k: v for k in KINDS if (v := s.f1(k, "strict")) is not None} for t, s in found.items()}
        self.report({"event": "scored", "round": index, "f1": f1})

    def _score_once(self, system: str, adapter: AdapterState | None, limit: int | None = None) -> None:
        """Score a system unless its scores are on disk."""
        results = self.folder.results()
        if system in results.scores:
            return

        def on_batch(done: int, of: int) -> None:
            self.progress({"event": "score", "site": system, "step": done, "steps": of})

        results.scores[system] = score_tests(self.models, adapter, self.plan, self.tests, limit, on_batch)
        self.folder.save_results(results)

    def _central(self) -> AdapterState:
        """All sites' notes pooled, with as many steps a round as all sites took together. A comparison that only a
        plan and every policy that name it allow.
        """
        pooled = [example for name in sorted(self.training) for example in self.training[name]]
        spec = self.plan.training
        if spec.examples_per_round is not None:
            spec = spec.model_copy(update={"examples_per_round": spec.examples_per_round * len(self.training)})
        adapter = initial_adapter(self.models.base, self.plan.lora, self.plan.seed)
        for index in range(self.plan.rounds):
            done = self.folder.path / f"central-{index}"
            if done.is_dir():
                adapter = load_peft(done)
                continue
            path = self.folder.path / f"central-{index}.checkpoint"

            def on_step(step: StepInfo, index: int = index) -> None:
                self.progress(
                    {"event": "central", "site": "pooled notes", "round": index, "step": step.step, "steps": step.steps}
                )

            adapter = train_round(
                self.models.base,
                adapter,
                pooled,
                spec,
                self.plan.lora,
                round_index=index,
                rounds=self.plan.rounds,
                seed_material=sha256(b"fedsec/central/v1\0", self.plan.digest()),
                checkpoint=path,
                on_step=on_step,
            ).adapter
            adapter = between_rounds(self.plan, adapter)
            part = done.with_name(f".{done.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            adapter.save_peft(part, self.plan.model, self.plan.lora)
            part.rename(done)  # whole or not at all: it is what a resumed run goes on from
            path.unlink(missing_ok=True)
        return adapter_of(adapter)


def parse_baseline(data: bytes, tests: Sequence[TestSet]) -> dict[str, Scores]:
    """A site's signed scores, strictly: known test sets only."""
    known = {t.spec.name for t in tests}
    try:
        raw = json.loads(data)
        return {name: Scores.model_validate(raw[name]) for name in sorted(raw) if name in known}
    except (ValueError, TypeError, ValidationError) as e:
        raise VerificationError(f"a baseline's scores do not parse: {type(e).__name__}") from None


def open_study(folder: RunFolder, progress: Progress, jobs: int | None = None) -> Study:
    """Load the base model (digest checked), the sites' notes and the public test sets of a run.

    ``jobs``: sites that work at a time; None for as many as there are cores for ``training.threads`` each, and on a
    GPU one. Results do not depend on it.
    """
    plan = folder.plan
    progress({"event": "loading", "what": f"base model {plan.model.base}"})
    base = load_base(plan.model)
    sites = load_sites(folder.sites)
    progress({"event": "loading", "what": "notes"})
    tests, validation = load_public_tests(plan, folder.sites), load_validation(plan, folder.sites)
    training = {name: load_training(sites[name], plan) for name in plan.roster.sites if name in sites}
    wanted = default_jobs(plan) if jobs is None else jobs
    models = Replicas(base, max(1, min(wanted, len(plan.roster.sites))))
    return Study(folder, models, sites, training, tests, validation, progress)


def default_jobs(plan: Plan) -> int:
    """Sites that this machine can train at a time."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, cores() // plan.training.threads)
