"""A coordinator's side of a run, from the first exchange to the certificate, over whatever delivers its messages.

It holds no notes and knows no site by anything but the plan's roster.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Transport
from fedsec.coordinator.journal import Journal
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.runner import Runner
from fedsec.coordinator.state import State
from fedsec.plan.model import Plan
from fedsec.site.identity import Progress
from fedsec.site.work import validation_loss
from fedsec.study.certify import write_certificate
from fedsec.study.coordinator_key import coordinator_key
from fedsec.study.corpora import PublicSets, load_public
from fedsec.study.folder import RunFolder
from fedsec.study.system_scores import Pooled, SystemScores
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import load_base
from fedsec.training.batches import require_room
from fedsec.training.replicas import Replicas, cores
from fedsec.wire import core_roster, is_encrypted, log_of
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey

Known = Callable[[int, State], AdapterState]
_PAUSE = 15.0
"""What the round of that number starts from, in a run whose sums are encrypted, from a site that is at hand."""


@dataclass
class Coordination:
    """One run folder with the coordinator that acts in it. :func:`open_coordination` loads one."""

    folder: RunFolder
    key: SigningKey = field(repr=False)
    models: Replicas
    public: PublicSets
    progress: Progress = lambda event: None
    pooled: Pooled | None = field(repr=False, default=None)
    """Trains on all sites' notes together, where this process has them: the baseline `central`."""

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.folder.plan

    def report(self, event: dict[str, object]) -> None:
        """To the run's metrics and to whoever watches."""
        if event["event"] != "asking":
            self.folder.note(event)
        self.progress(event)

    def first(self) -> AdapterState:
        """What round 0 starts from."""
        return initial_adapter(self.models.base, self.plan.lora, self.plan.seed)

    def run(self, transport: Transport, known: Known | None = None) -> None:
        """All that is left to do: rounds, adapter, baselines, scores, certificate. Safe to call again after a kill.

        Args:
            transport: delivers to the sites.
            known: where sums are encrypted, the adapter from a site of this process; without one the run folder gets
                none, and the shared adapter no scores here.

        Raises:
            ConfigError: the plan asks for what this coordinator cannot do; no site was asked anything.
            AbortError: a round cannot be had. ReleaseBlockedError: a site withholds the adapter.
        """
        self._require_possible(known)
        with ExitStack() as stack:
            journal = Journal(self.folder.path)
            stack.callback(journal.close)
            roster = core_roster(self.plan)
            journal.bind(self.plan.digest(), self.folder.run, roster.digest())
            log = RunLog(self.folder.path / "log", log_of(self.plan, self.folder.run), self.key)
            for entry in self.folder.approval_entries():
                log.record(entry)
            driver = Driver(self.plan, self.folder.run, self.key.sign, self.report, log.record, self._loss)
            scores = SystemScores(self.folder, self.models, self.public.tests, self.progress, self.pooled)

            def adapter_at(number: int, state: State) -> AdapterState | None:
                if isinstance(state, AdapterState):
                    return state
                return None if known is None else known(number, state)

            def after_round(index: int, state: State) -> None:
                scores.after_round(index, lambda: adapter_at(index + 1, state), self.report)

            runner = Runner(driver, journal, transport, self.report, log, after_round, _PAUSE)
            last = runner.rounds(self.first())
            adapter = adapter_at(self.plan.rounds, last)
            scores.at_the_end(adapter, runner.baselines)
            attested = runner.attest(last)
            self.folder.save_attestations({site: signed for site, (signed, _) in attested.items()})
            runner.close(last, attested)
        if adapter is not None:
            adapter.save_peft(self.folder.adapter, self.plan.model, self.plan.lora)
        self.report({"event": "finished"})
        write_certificate(self.folder, self.key)

    def _require_possible(self, known: Known | None) -> None:
        if self.pooled is None:
            require_without_notes(self.plan)
        if known is None:
            require_without_adapter(self.plan)
        if self.public.validation:  # what groups' sums are scored on when they are open, and no other attempt is left
            most = self.plan.training.max_tokens
            require_room(self.models.base, self.public.validation, most, "the validation set")

    def _loss(self, adapter: AdapterState) -> float:
        """Of what decrypted sums lead to, where the plan weighs groups by it."""
        with self.models.take() as base:
            return validation_loss(base, adapter, self.plan, self.public.validation)


def require_without_notes(plan: Plan) -> None:
    """ConfigError for a plan that asks of the coordinator what takes the sites' notes."""
    if "central" in plan.evaluation.baselines:
        raise ConfigError(
            "the plan asks for the baseline central, which trains on all sites' notes in one place; expected a plan "
            "without it, for a coordinator that has none of them: take central out of evaluation.baselines and have "
            "the plan approved anew, or compare in `fedsec run` on notes that may be pooled"
        )


def require_without_adapter(plan: Plan) -> None:
    """ConfigError for a plan that asks of the coordinator what takes an adapter that only the sites have."""
    if is_encrypted(plan) and plan.evaluation.round_test_limit is not None:
        raise ConfigError(
            f'the plan asks for scores after each round, and with secure.mode = "{plan.secure.mode}" the coordinator '
            "has no adapter to score; expected no evaluation.round_test_limit: take it out and have the plan approved "
            "anew"
        )


def open_coordination(folder: RunFolder, progress: Progress, jobs: int | None = None) -> Coordination:
    """Load what a coordinator needs, each part checked against the plan: key, base model, public test sets.

    ``jobs``: replicas of the model that answer test sets at a time; None for what this machine has cores for.
    """
    key = coordinator_key(folder)
    models = load_models(folder.plan, progress, jobs)
    progress({"event": "loading", "what": "public test sets"})
    return Coordination(folder, key, models, load_public(folder.plan, folder.coordinator.public_path), progress)


def load_models(plan: Plan, progress: Progress, jobs: int | None) -> Replicas:
    """The plan's base model (digest checked), in as many replicas as work at a time."""
    progress({"event": "loading", "what": f"base model {plan.model.base}"})
    base = load_base(plan.model)
    wanted = default_jobs(plan) if jobs is None else jobs
    return Replicas(base, max(1, min(wanted, len(plan.roster.sites))))


def default_jobs(plan: Plan) -> int:
    """Sites that this machine can train at a time."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, cores() // plan.training.threads)
