"""A whole study in one process: the sites of a working set, and the coordinator who asks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event

from fedsec.coordinator.state import State
from fedsec.data.schema import Example
from fedsec.engines.embedded import EmbeddedTransport, Handler
from fedsec.plan.model import Plan
from fedsec.plan.sitefile import Site, load_sites
from fedsec.site.agent import SiteAgent
from fedsec.site.encrypted import EncryptedAgent
from fedsec.site.identity import Progress, SiteWork
from fedsec.site.work import LocalWork
from fedsec.study.coordinate import Coordination, load_models
from fedsec.study.coordinator_key import coordinator_key
from fedsec.study.corpora import PublicSets, load_public, load_training
from fedsec.study.folder import RunFolder
from fedsec.study.one_site import local_work
from fedsec.study.pooled import pooled_adapter
from fedsec.study.sites import open_agent, require_approved
from fedsec.training.adapter import AdapterState
from fedsec.training.private.mates import require_alone
from fedsec.training.public_step import adapter_of
from fedsec.training.replicas import Replicas
from fedsec_secure.errors import AbortError, VerificationError
from fedsec_secure.identity.roster import SiteId


@dataclass
class Study:
    """One run folder with everything that acts in it. Use :func:`open_study`."""

    folder: RunFolder
    models: Replicas
    sites: dict[str, Site]
    training: dict[str, list[Example]] = field(repr=False)
    public: PublicSets
    stopped: Mapping[str, VerificationError] = field(default_factory=dict)
    """Sites whose officers' word does not hold (any more), and why: their notes are not read."""
    progress: Progress = lambda event: None
    stopping: Event = field(default_factory=Event)
    work: Callable[[LocalWork], SiteWork] = lambda local: local
    """What a site does with its notes; an experiment on public corpora may keep what its sites make of them."""
    _agents: tuple[SiteAgent, ...] = field(init=False, repr=False, default=())

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.folder.plan

    def step(self, event: dict[str, object]) -> None:
        """What a site at work reports after each step: to whoever watches, and the place where it can be stopped."""
        if self.stopping.is_set():
            raise AbortError("this run is being stopped; `fedsec resume` goes on with it")
        self.progress(event)

    def run(self) -> None:
        """All that is left to do: rounds, adapter, baselines, scores. Safe to call again after a kill."""
        with ExitStack() as stack:
            here = [name for name in self.plan.roster.sites if name in self.sites]
            agents = {SiteId(n): self._agent(n, stack) for n in here if n not in self.stopped}
            self._agents = tuple(agents.values())
            handlers: dict[SiteId, Handler] = {**agents, **{SiteId(n): _Stopped(e) for n, e in self.stopped.items()}}
            key = coordinator_key(self.folder)
            coordination = Coordination(self.folder, key, self.models, self.public, self.progress, self._pooled)
            coordination.run(EmbeddedTransport(handlers, self.models.count, self.stopping), self._known)

    def _agent(self, name: str, stack: ExitStack) -> SiteAgent:
        site = self.sites[name]
        work = local_work(site, self.plan, self.models, self.training[name], self.public, self.step)
        agent = open_agent(site, self.plan, self.work(work), stack)
        agent.progress = self.progress
        return agent

    def _known(self, number: int, state: State) -> AdapterState:
        """What round ``number`` starts from, from a site of this process that has it."""
        for agent in self._agents:
            if isinstance(agent, EncryptedAgent) and (held := agent.held(self.folder.run, number)) is not None:
                found = adapter_of(held)
                if state.digest() in (held.digest(), found.digest()):
                    return found
        raise VerificationError(f"no site of this process has the adapter that the sites attest after round {number}")

    def _pooled(self) -> AdapterState:
        return pooled_adapter(self.folder, self.models, self.training, self.progress)


@dataclass(frozen=True)
class _Stopped:
    """A site that answers nothing, as one on a machine of its own would not be started: the others go on."""

    reason: VerificationError

    def handle(self, name: str, body: bytes) -> bytes:
        """Refuse, whatever is asked."""
        raise VerificationError(f"{name}: {self.reason}")


def open_study(folder: RunFolder, progress: Progress, jobs: int | None = None) -> Study:
    """Load the base model (digest checked), the sites' notes and the public test sets of a run.

    ``jobs``: sites that work at a time; None for as many as there are cores for ``training.threads`` each, and on a
    GPU one. Results do not depend on it.
    """
    plan = folder.plan
    sites = load_sites(folder.sites)
    stopped = _stopped(plan, sites)
    models = load_models(plan, progress, jobs)
    require_alone(models.base, plan)
    progress({"event": "loading", "what": "notes"})
    public = load_public(plan, folder.coordinator.public_path)
    here = {name: sites[name] for name in plan.roster.sites if name in sites}
    training = {name: load_training(site, plan) for name, site in here.items() if name not in stopped}
    return Study(folder, models, sites, training, public, stopped, progress)


def _stopped(plan: Plan, sites: Mapping[str, Site]) -> dict[str, VerificationError]:
    """Sites of the plan that its officers allowed once and do not allow now: a run may be resumed after a withdrawal.

    Raises what the first of them says where the others cannot do without them: too few are left for a sum, or a model
    of all sites' pooled notes is asked for.
    """
    found: dict[str, VerificationError] = {}
    for name in plan.roster.sites:
        try:
            require_approved(plan, {name: sites[name]} if name in sites else {})
        except VerificationError as e:
            found[name] = e
            left = len(plan.roster.sites) - len(found)
            if left < plan.secure.quorum or "central" in plan.evaluation.baselines:
                raise found[min(found)] from None
    return found
