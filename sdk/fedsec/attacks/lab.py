"""What every attack works with: sites whose updates are known to the judge, and a coordinator who says what it likes.

The attacker sees requests and replies only. ``World.updates`` is for judging whether it got what it was after.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from fedsec.data.canaries import Canary
from fedsec.plan.approval import APPROVAL_TYPE, Approval
from fedsec.plan.document import canonical
from fedsec.plan.model import Plan, Roster, RosterSite
from fedsec.plan.policy import Policy
from fedsec.plan.specs import LoraSpec, ModelSpec, SecureSpec, TaskSpec, ValidationSet, WeightingSpec
from fedsec.privacy.distributed import DistributedStep
from fedsec.training.adapter import AdapterState
from fedsec.wire import core_roster, sum_parameters
from fedsec_secure.errors import FedsecError, LocalMisuseError
from fedsec_secure.identity.envelope import sign_envelope
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.keys import Mask
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.numeric.lanes import Floats, Ints
from fedsec_secure.numeric.score_levels import WORST_LEVEL
from fedsec_secure.secrets import SecretBytes

SITES = tuple(SiteId(f"site-{letter}") for letter in "abcde")
GROUP_SITES = tuple(SiteId(f"site-{letter}") for letter in "abcdefgh")
"""Of attacks on groups: two of four."""
VICTIM = SITES[1]
THRESHOLD = 4
COUNT_MIN, COUNT_MAX = 30_000, 40_000
CAP, LEAST_EFFECTIVE = 0.4, 3.2
"""Of weights by scores."""
GROUP_CAP = 0.17
"""Of one of eight sites in groups."""
_VALIDATION = ValidationSet(name="shared", sha256="0" * 64, examples=5, entity_types=("Drug",))
_LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
Learn = Callable[[SiteId, Floats, AdapterState, int], Floats]
"""(site, its usual update, the adapter that it was shown, how often it trained before) -> its update, float32[d]."""

Level = Callable[[SiteId, int], int]
"""(site, how often it trained before) -> its score's level, where the plan weighs by scores."""


@dataclass(frozen=True)
class World:
    """Five sites, their plan and keys, and what each would contribute."""

    plan: Plan
    coordinator: SigningKey
    keys: Mapping[SiteId, SigningKey]
    officers: Mapping[SiteId, tuple[SigningKey, ...]]
    """Two at each site."""
    start: AdapterState
    updates: Mapping[SiteId, Floats]
    counts: Mapping[SiteId, int]
    level: Level
    learn: Learn = lambda site, usual, adapter, times: usual
    loss: Callable[[AdapterState], float] = lambda adapter: 1.0
    """What the coordinator says of an adapter on the validation set, where it weighs groups."""
    policy_cohort: int = 3
    """The officers' own minimum cohort."""

    @property
    def parameters(self) -> SumParameters:
        """Bounds of the world's sums."""
        return sum_parameters(self.plan, self.start.size)

    @property
    def step(self) -> float:
        """One step of the encoding."""
        return self.parameters.fixed.step

    def mean(self, sites: Iterable[SiteId]) -> Floats:
        """What an honest sum over ``sites`` decodes to, but for rounding."""
        mean: Floats = np.mean([self.updates[s] for s in sites], axis=0, dtype=np.float32)
        return mean


def make_world(
    *,
    rounds: int = 2,
    rule: Literal["uniform", "size", "influence", "group-influence"] = "uniform",
    sites: tuple[SiteId, ...] = SITES,
    hidden: int = 60,
    mode: Literal["mask", "he-mask", "he"] = "mask",
    levels: Mapping[SiteId, int] = MappingProxyType({}),
) -> World:
    """Fresh keys; an adapter of one layer with 4 * ``hidden`` coordinates; updates that differ from site to site.

    ``levels``: scores under rule influence; of who is not named `WORST_LEVEL`.
    """
    coordinator, keys = SigningKey.generate(), {s: SigningKey.generate() for s in sites}
    officers = {s: (SigningKey.generate(), SigningKey.generate()) for s in sites}
    members = {
        str(s): RosterSite(key=k.public.hex, officer=first.public.hex, co_officers=(second.public.hex,))
        for (s, k), (first, second) in zip(keys.items(), officers.values(), strict=True)
    }
    weighting = {
        "uniform": WeightingSpec(),
        "size": WeightingSpec(rule="size", count_min=COUNT_MIN, count_max=COUNT_MAX),
        "influence": WeightingSpec(rule="influence", validation=_VALIDATION, cap=CAP, effective_cohort=LEAST_EFFECTIVE),
        "group-influence": WeightingSpec(rule="group-influence", validation=_VALIDATION, cap=GROUP_CAP, groups=2),
    }
    least = THRESHOLD if mode == "he" else 3  # where masks have a threshold of their own
    plan = Plan(
        name="attack",
        rounds=rounds,
        model=ModelSpec(base="tiny-random", dtype="float32", weights_sha256="0" * 64),
        task=TaskSpec(kind="entities", entity_types=("Drug",)),
        lora=LoraSpec(strategy="fedit", rank=2, dropout=0.0, targets=("q_proj",)),
        secure=SecureSpec(mode=mode, minimum_cohort=least, threshold=2 * len(sites) // 3 + 1),
        weighting=weighting[rule],
        roster=Roster(coordinator=coordinator.public.hex, sites=members),
    )
    shapes = {f"{_LAYER}.lora_A.weight": (2, hidden), f"{_LAYER}.lora_B.weight": (hidden, 2)}
    start = AdapterState({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    drawn = np.random.default_rng(20221)
    updates = {s: drawn.uniform(-0.4, 0.4, start.size).astype(np.float32) for s in sites}
    counts = dict(zip(sites, drawn.integers(COUNT_MIN, COUNT_MAX, len(sites)).tolist(), strict=True))
    return World(
        plan, coordinator, keys, officers, start, updates, counts, lambda site, _: levels.get(site, WORST_LEVEL)
    )


@dataclass
class KnownWork:
    """A site's work with a known outcome: what protects an update does not depend on how it was learnt."""

    world: World
    site: SiteId
    times: int = 0

    def initial_adapter(self) -> AdapterState:
        """All zeros."""
        return self.world.start

    def train(self, adapter: AdapterState, run: str, round_index: int, checkpoint: Path) -> AdapterState:
        """The adapter plus what ``learn`` says."""
        return adapter.unflatten(adapter.flatten() + self.learn(adapter))

    def learn(self, adapter: AdapterState) -> Floats:
        """The update alone."""
        self.times += 1
        return self.world.learn(self.site, self.world.updates[self.site], adapter, self.times - 1)

    def noisy_sum(self, adapter: AdapterState, step: DistributedStep) -> Ints:
        """No attack asks for it: the attacks' plans have no noise."""
        raise LocalMisuseError(f"{self.site} has no notes to draw from: expected a plan without noise")

    def plant(self, canaries: Sequence[Canary]) -> None:
        """The attacks' plans plant none."""

    def exposure(self, adapter: AdapterState, canaries: Sequence[Canary]) -> tuple[float, ...]:
        """No attack asks for it: the attacks' plans plant no canaries."""
        raise LocalMisuseError(f"{self.site} trained on no canaries: expected a plan that plants none")

    def weight(self) -> int:
        """The count where the plan weights by size."""
        return self.world.counts[self.site] if self.world.plan.weighting.rule == "size" else 1

    def score(self, adapter: AdapterState) -> int | None:
        """What the world says."""
        if self.world.plan.weighting.rule != "influence":
            return None
        return self.world.level(self.site, self.times - 1)

    def single_scores(self, first: AdapterState, run: str, checkpoint: Callable[[int], Path]) -> bytes:
        """No attack asks for it: the attacks' plans name no baseline."""
        raise LocalMisuseError(f"{self.site} has no notes to score a baseline with: expected a plan that names none")


class Site(Protocol):
    """One site under attack."""

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """Answer an exchange, or raise FedsecError."""
        ...

    def restart(self) -> None:
        """Lose everything that is only in memory, as a crash does."""
        ...

    def close(self) -> None:
        """End."""
        ...


@dataclass(frozen=True)
class Finished:
    """An honest coordinator's round: the mean update that the sites accepted, and what it said of single sites."""

    mean: Floats
    survivors: tuple[SiteId, ...]
    named: Mapping[SiteId, str]


class Target(Protocol):
    """An aggregator under attack. Its derivations are public (Kerckhoffs), so attacks may use them."""

    @property
    def name(self) -> str:
        """Shown in reports."""
        ...

    def open(self, world: World, site: SiteId, folder: Path) -> Site:
        """A site with its state in ``folder``."""
        ...

    def read_plan(self, world: World, plan: Plan) -> Plan:
        """The plan as a site takes it from a coordinator. FedsecError where its officer's policy refuses it."""
        ...

    def box_context(self, context: bytes, u1: bytes) -> bytes:
        """What sealed shares are bound to."""
        ...

    def self_mask(self, seed: SecretBytes, site: SiteId, bound: bytes) -> Mask:
        """The mask that a self-mask seed stands for."""
        ...

    def pair_mask(self, secret: SecretBytes, public: bytes, me: SiteId, peer: SiteId, bound: bytes) -> Mask:
        """The mask that two sites' mask keys stand for."""
        ...

    def round(self, world: World, sites: Mapping[SiteId, Site], folder: Path) -> Finished:
        """One round with an honest coordinator. FedsecError where it ends without a sum."""
        ...


@dataclass
class Lab:
    """The sites of one attack, opened; ``said`` keeps why they refused."""

    target: Target
    world: World
    folder: Path
    sites: dict[SiteId, Site] = field(init=False)
    said: list[str] = field(default_factory=list)

    def __enter__(self) -> Lab:
        self.sites = {s: self.target.open(self.world, s, self.folder / s) for s in self.world.keys}
        return self

    def __exit__(self, *_: object) -> None:
        for site in self.sites.values():
            site.close()

    def ask(self, name: str, site: SiteId, body: bytes) -> bytes | None:
        """The reply; None where the site refuses."""
        try:
            reply = self.sites[site].handle(name, body)
        except FedsecError as e:
            self.said.append(f"{site} refuses `{name}`: {e}")
            return None
        return reply if isinstance(reply, bytes) else reply.read_bytes()

    def honest_round(self, sites: Mapping[SiteId, Site] | None = None) -> Finished | None:
        """A round under an honest coordinator; None where it ends without a sum."""
        try:
            return self.target.round(self.world, sites or self.sites, self.folder / "run")
        except FedsecError as e:
            self.said.append(f"the round ends: {e}")
            return None

    @property
    def why(self) -> str:
        """The first refusal: what follows from it is of no interest."""
        return self.said[0] if self.said else "no answer was refused"


def careless_approval(plan: Plan, policy: Policy, site: str, key: SigningKey, expires: datetime.datetime) -> bytes:
    """An approval by a tool that looks at nothing: whatever the plan, the policy, the key and the moment."""
    approval = Approval(
        plan_sha256=plan.digest().hex(),
        policy_sha256=policy.digest().hex(),
        site=site,
        expires=expires,
        nonce=secrets.token_hex(16),
    )
    return sign_envelope(APPROVAL_TYPE, canonical(approval), key)


def roster_of(world: World) -> bytes:
    """The roster's digest."""
    return core_roster(world.plan).digest()
