"""Tiny federated runs for the tests: real keys, journal, stores, agents and driver; only the learning is small.

``ArithmeticWork`` stands in for training with seeded arithmetic and needs no torch, so that a process of its own starts
in a second. ``tiny_work`` trains the two-layer ``tiny-random`` model on a few short sentences.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from fedsec.attacks.lab import careless_approval
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Transport
from fedsec.coordinator.journal import Journal
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.runner import Runner
from fedsec.data.canaries import Canary
from fedsec.engines.embedded import EmbeddedTransport, Handler
from fedsec.plan.document import compile_plan
from fedsec.plan.model import Draft, Plan, Roster, RosterSite
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.specs import (
    CanarySpec,
    DpSpec,
    EvaluationSpec,
    LoraSpec,
    ModelSpec,
    SecureSpec,
    ServerSpec,
    TaskSpec,
    TrainingSpec,
    ValidationSet,
    WeightingSpec,
)
from fedsec.privacy.distributed import DistributedStep
from fedsec.site.agent import SiteAgent
from fedsec.site.agents import agent_for
from fedsec.site.charges import LedgerCharges
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec.training.adapter import AdapterState
from fedsec.training.square import fixed_factors
from fedsec.training.strategies import trained_names
from fedsec.wire import core_roster, log_of
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.numeric.lanes import Ints

TINY = ModelSpec(base="tiny-random", dtype="float32")
TASK = TaskSpec(kind="entities", entity_types=("Drug", "Problem"))
VALIDATION = ValidationSet(name="shared", sha256="0" * 64, examples=5, entity_types=("Drug",))
RUN = "run-1"


def site_names(count: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"site-{letters[i]}" if count <= len(letters) else f"site-{i:03d}" for i in range(count)]


@dataclass(frozen=True)
class Keys:
    """Everyone's signing keys. Officers approve nothing here: their keys only complete the roster."""

    coordinator: SigningKey
    sites: Mapping[str, SigningKey]
    officers: Mapping[str, SigningKey]

    @classmethod
    def generate(cls, count: int) -> Keys:
        names = site_names(count)
        make = SigningKey.generate
        return cls(make(), {n: make() for n in names}, {n: make() for n in names})

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.coordinator.save(folder / "coordinator")
        for name in self.sites:
            self.sites[name].save(folder / name)
            self.officers[name].save(folder / f"{name}.officer")

    @classmethod
    def load(cls, folder: Path) -> Keys:
        names = sorted(p.stem for p in folder.glob("*.officer"))
        load = SigningKey.load
        return cls(
            load(folder / "coordinator"),
            {n: load(folder / n) for n in names},
            {n: load(folder / f"{n}.officer") for n in names},
        )

    def roster(self) -> Roster:
        sites = {n: RosterSite(key=self.sites[n].public.hex, officer=self.officers[n].public.hex) for n in self.sites}
        return Roster(coordinator=self.coordinator.public.hex, sites=sites)


def make_plan(
    keys: Keys,
    *,
    rounds: int = 2,
    mode: str = "mask",
    rule: str = "uniform",
    strategy: str = "fedit",
    ring: str = "3x21",
    rank: int = 2,
    change: int = 1,
    weights_sha256: str = "0" * 64,
    training: TrainingSpec | None = None,
    evaluation: EvaluationSpec | None = None,
    dp: DpSpec | None = None,
    canaries: CanarySpec | None = None,
    weighting: dict[str, object] | None = None,
    server: ServerSpec | None = None,
    site_ranks: Mapping[str, int] | None = None,
) -> Plan:
    """A plan over these keys with the smallest threshold that masks allow. Counts within 10 to 40."""
    n = len(keys.sites)
    bounds = {"count_min": 10, "count_max": 40, "cap": 0.75} if rule == "size" else {}
    if rule == "influence":
        bounds = {"validation": VALIDATION}
    if rule == "group-influence":
        bounds = {"validation": VALIDATION, "groups": 2}
    bounds |= weighting or {}
    draft = Draft(
        name="tiny",
        rounds=rounds,
        seed=7,
        model=TINY.model_copy(update={"weights_sha256": weights_sha256}),
        task=TASK,
        lora=LoraSpec(
            strategy=strategy, rank=rank, dropout=0.05, targets=("q_proj", "v_proj"), site_ranks=dict(site_ranks or {})
        ),
        training=training or TrainingSpec(epochs=1, examples_per_round=4, learning_rate=1e-3, threads=1),
        secure=SecureSpec(mode=mode, minimum_cohort=3, threshold=2 * n // 3 + 1, ring=ring, min_cohort_change=change),
        weighting=WeightingSpec(rule=rule, **bounds),
        evaluation=evaluation or EvaluationSpec(),
        dp=dp or DpSpec(),
        canaries=canaries or CanarySpec(),
        server=server or ServerSpec(),
    )
    return compile_plan(draft, keys.roster())


def _generator(*parts: bytes) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(b"\0".join(parts)).digest()))


@dataclass
class ArithmeticWork:
    """A SiteWork whose update is a function of site, round and adapter. ``taste`` stands for the site's notes."""

    name: str
    plan: Plan
    count: int = 20
    taste: bytes = b""
    spread: float = 0.05
    trained: list[int] = field(default_factory=list)
    hidden: int = 12
    sums: list[np.ndarray] = field(default_factory=list)
    """What `noisy_sum` gave, round by round."""
    bits: float = 1.0
    """How exposed canaries are said to be."""
    level: int = 10
    """Its score, where the plan weighs by scores."""
    scored: list[bytes] = field(default_factory=list)
    """The adapters that were scored."""
    measured: list[bytes] = field(default_factory=list)
    """The adapters that were asked about."""

    def initial_adapter(self) -> AdapterState:
        rank, rng = self.plan.lora.rank, _generator(b"initial")
        layers = [f"base_model.model.model.layers.{i}.self_attn.{t}" for i in range(2) for t in self.plan.lora.targets]
        a = {f"{n}.lora_A.weight": rng.normal(0, 0.1, (rank, self.hidden)).astype(np.float32) for n in layers}
        first = AdapterState(a | {f"{n}.lora_B.weight": np.zeros((self.hidden, rank), np.float32) for n in layers})
        return fixed_factors(first.shapes, 0) if self.plan.lora.strategy == "fed-sb" else first

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        self.trained.append(round_index)
        rng = _generator(self.name.encode(), run.encode(), self.taste, round_index.to_bytes(4, "big"), adapter.digest())
        moved = trained_names(self.plan.lora.strategy, adapter, round_index)
        noise = {n: rng.normal(0, self.spread, adapter[n].shape).astype(np.float32) for n in adapter}
        return AdapterState({n: adapter[n] + noise[n] if n in moved else adapter[n] for n in adapter})

    def noisy_sum(self, adapter: AdapterState, step: DistributedStep) -> Ints:
        """Real noise on integers that are a function of the site and the adapter, all of one unit."""
        self.trained.append(len(self.trained))
        values = _generator(self.name.encode(), adapter.digest()).normal(0, 1, step.dimension)
        values *= 0.9 * step.clip_in_steps / np.linalg.norm(values)
        drawn = step.rounding.round(values) + step.noise.sample(step.dimension)
        self.sums.append(drawn)
        return drawn.astype(np.int32)

    def plant(self, canaries: Sequence[Canary]) -> None:
        self.canaries = canaries

    def exposure(self, adapter: AdapterState, canaries: Sequence[Canary]) -> tuple[float, ...]:
        assert canaries == self.canaries
        self.measured.append(adapter.digest())
        return tuple(self.bits for _ in canaries)

    def score(self, adapter: AdapterState) -> int | None:
        if self.plan.weighting.rule != "influence":
            return None
        self.scored.append(adapter.digest())
        return self.level

    def weight(self) -> int:
        return self.count if self.plan.weighting.rule == "size" else 1

    def single_scores(self, first: AdapterState, run: str, checkpoint: Callable[[int], Path]) -> bytes:
        return b'{"digest": "' + first.digest().hex().encode() + b'"}'


def loss_of(adapter: AdapterState) -> float:
    """Differs by tenths between groups: by the sign of what moved."""
    moved = adapter.flatten().astype(np.float64)
    return 1.0 + 8 * float(abs(moved[:7].sum() - 0.05)) + float((moved**2).sum()) / 10


class Steady(ArithmeticWork):
    """Its step does not depend on last digits of where it starts, so that runs stay comparable over rounds."""

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint) -> AdapterState:
        rng = _generator(self.name.encode(), round_index.to_bytes(4, "big"))
        tensors = dict(adapter)
        for name in trained_names(self.plan.lora.strategy, adapter, round_index):
            tensors[name] = adapter[name] + rng.normal(0, 0.05, adapter[name].shape).astype(np.float32)
        return AdapterState(tensors)


@cache
def tiny_base():
    """The tiny-random model, loaded once a process."""
    from fedsec.training.base_model import load_base

    return load_base(TINY)


def tiny_examples(name: str, count: int):
    from fedsec.data.schema import Document, Entity
    from fedsec.data.templates import make_examples

    documents = []
    for i in range(count):
        text, drug = f"{name} {i}: took drug{i} for pain.", f"drug{i}"
        at = text.index(drug)
        entity = Entity(id="T1", type="Drug", start=at, end=at + len(drug), text=drug)
        documents.append(Document(document_id=f"{name}{i}", patient_id=f"{name}{i}", text=text, entities=(entity,)))
    return make_examples(documents, TASK, ("Drug", "Problem"), None)


def tiny_work(name: str, plan: Plan, count: int = 6, progress=lambda event: None) -> SiteWork:
    from fedsec.site.work import LocalWork
    from fedsec.training.replicas import Replicas

    return LocalWork(name, plan, Replicas(tiny_base()), tiny_examples(name, count), progress=progress)


@dataclass
class Federation:
    """One run folder with its sites. Opening it again over the same folder resumes.

    ``work`` makes a site's SiteWork; ``wrap`` may put something between the engine and the agents, ``carry`` between
    the driver and the engine.
    """

    folder: Path
    keys: Keys
    plan: Plan
    work: Callable[[str, Plan], SiteWork] = ArithmeticWork
    wrap: Callable[[SiteId, SiteAgent], Handler] = lambda site, agent: agent
    carry: Callable[[Transport], Transport] = lambda transport: transport
    events: list[dict[str, object]] = field(default_factory=list)
    authorise: Callable[[], None] = lambda: None
    max_runs: int = 2
    change: int = 1
    """The sites' own least difference of two survivor sets."""
    allow_non_private: bool = True
    """Whether the sites' policies let a plan run without differential privacy."""
    max_exposure: float | None = None
    """Bits, in every site's policy."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Keyed hashes (hex) of lists of patients, by site."""
    loss: Callable[[AdapterState], float] | None = None
    """At the coordinator, of what decrypted sums of groups lead to."""

    def __enter__(self) -> Federation:
        with ExitStack() as stack:  # what is open is closed again where the rest cannot be opened
            self._stack = stack
            self._open()
            self._stack = stack.pop_all()
        return self

    def _open(self) -> None:
        self._approvals: dict[str, bytes] = {}
        self.works = {n: self.work(n, self.plan) for n in self.keys.sites}
        self.stores: dict[str, SiteStore] = {}
        for name in self.keys.sites:
            store = self.stores[name] = SiteStore(self.folder / "state" / name)
            self._stack.callback(store.close)
        self.ledgers: dict[str, Ledger] = {}
        self.agents = {SiteId(n): self._agent(n) for n in self.keys.sites}
        run = self.folder / "run"
        run.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(run)
        self._stack.callback(self.journal.close)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _agent(self, name: str) -> SiteAgent:
        key = self.keys.sites[name]
        store = self.stores[name]
        path, unit = self.folder / "state" / name / "ledger.sqlite", self.plan.dp.unit
        ledger = self.ledgers[name] = Ledger(path, name, unit, expected=store.ledger_head())
        self._stack.callback(ledger.close)
        charges = LedgerCharges(ledger, self.plan, store, self._policy())
        excluded = self.excluded.get(name)
        identity = SiteIdentity(SiteId(name), key, lambda: self.approval(name), self._policy(), charges, excluded)
        return agent_for(identity, self.plan, store, self.works[name])

    def approval(self, name: str) -> bytes:
        """The officer's, of this plan, the same each time, though the policy may ask for more than the plan."""
        self.authorise()
        if name not in self._approvals:
            end, officer = datetime.datetime(2098, 1, 1, tzinfo=datetime.UTC), self.keys.officers[name]
            self._approvals[name] = careless_approval(self.plan, self._policy(), name, officer, end)
        return self._approvals[name]

    def _policy(self) -> Policy:
        """The plan's own bounds, but for the floor of 3 sites and what this federation says."""
        policy = draft_policy(self.plan, datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC))
        bounds = {"minimum_cohort": 3, "max_runs": self.max_runs, "min_cohort_change": self.change}
        bounds |= {"max_exposure": self.max_exposure}
        private = {} if self.allow_non_private else {"dp_modes": ("local",)}
        return policy.model_copy(update=bounds | private)

    def runner(self, run: str = RUN) -> Runner:
        self.journal.bind(self.plan.digest(), run, core_roster(self.plan).digest())
        transport = EmbeddedTransport({s: self.wrap(s, a) for s, a in self.agents.items()})
        log = RunLog(self.folder / "run" / "log", log_of(self.plan, run), self.keys.coordinator)
        driver = Driver(self.plan, run, self.keys.coordinator.sign, self.events.append, log.record, self.loss)
        return Runner(driver, self.journal, self.carry(transport), self.events.append, log)

    def initial(self) -> AdapterState:
        return next(iter(self.works.values())).initial_adapter()

    def run(self, run: str = RUN) -> AdapterState:
        runner = self.runner(run)
        adapter = runner.rounds(self.initial())
        attested = runner.attest(adapter)
        self.attestations = {site: signed for site, (signed, _) in attested.items()}
        runner.close(adapter, attested)
        return adapter


def run_once(folder: Path, keys: Keys, plan: Plan, **options) -> AdapterState:
    """A whole undisturbed (or resumed) run."""
    with Federation(folder, keys, plan, **options) as federation:
        return federation.run()
