"""The target that matters: this build's own site agents, records, driver and engine, as a run has them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from fedsec.attacks.lab import Finished, KnownWork, Site, World, careless_approval
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.journal import Journal
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.runner import Runner
from fedsec.engines.embedded import EmbeddedTransport
from fedsec.plan.document import canonical, parse_canonical
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.policy_checks import check_plan
from fedsec.site.agents import agent_for
from fedsec.site.charges import LedgerCharges
from fedsec.site.identity import SiteIdentity
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec.spool import private_folder
from fedsec.training.adapter import AdapterState
from fedsec.wire import core_roster, log_of
from fedsec_secure.codec import sha256
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking import keys
from fedsec_secure.masking.keys import Mask
from fedsec_secure.secrets import SecretBytes

_MAX_RUNS = 2
_MIN_COHORT_CHANGE = 2


class AgentSite:
    """A site agent over its record on disk."""

    def __init__(self, world: World, site: SiteId, folder: Path) -> None:
        self._world, self._site, self._folder = world, site, folder
        self._work = KnownWork(world, site)
        self._start()

    def _start(self) -> None:
        key = self._world.keys[self._site]
        self._store = store = SiteStore(self._folder)
        path, plan = self._folder / "ledger.sqlite", self._world.plan
        self._ledger = Ledger(path, self._site, plan.dp.unit, expected=store.ledger_head())
        charges = LedgerCharges(self._ledger, plan, store, self._policy())
        approval = self._approval()
        identity = SiteIdentity(self._site, key, lambda: approval, self._policy(), charges)
        self._agent = agent_for(identity, self._world.plan, self._store, self._work)

    def _policy(self) -> Policy:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        bounds = {"minimum_cohort": self._world.policy_cohort, "min_cohort_change": _MIN_COHORT_CHANGE}
        drafted = draft_policy(self._world.plan, now + datetime.timedelta(days=1), _MAX_RUNS)
        return drafted.model_copy(update=bounds)

    def _approval(self) -> bytes:
        """By an officer who signs whatever plan there is: these attacks are about what happens afterwards."""
        end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=1)
        return careless_approval(self._world.plan, self._policy(), self._site, self._world.officers[self._site][0], end)

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """The agent's answer."""
        return self._agent.handle(name, body)

    def restart(self) -> None:
        """A new agent over what is on disk."""
        self.close()
        self._start()

    def hand_over(self, run: str) -> SecretBytes:
        """The encryption key of a run, from the record: what a site has that works for the coordinator."""
        return self._store.keys.key(run)

    def close(self) -> None:
        """Let go of the folder."""
        self._ledger.close()
        self._store.close()


class ThisBuild:
    """What is installed."""

    name = "this build"

    def open(self, world: World, site: SiteId, folder: Path) -> Site:
        """A site agent."""
        return AgentSite(world, site, folder)

    def read_plan(self, world: World, plan: Plan) -> Plan:
        """Strictly parsed, then checked against a policy that was drafted for the world's honest plan."""
        read = parse_canonical(canonical(plan), Plan, "the coordinator's plan")
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        violations = check_plan(draft_policy(world.plan, now + datetime.timedelta(days=1)), read, now)
        if violations:
            raise ConfigError("; ".join(map(str, violations)))
        return read

    def box_context(self, context: bytes, u1: bytes) -> bytes:
        """The round and the statements."""
        return sha256(context, u1)

    def self_mask(self, seed: SecretBytes, site: SiteId, bound: bytes) -> Mask:
        """The core's."""
        return keys.self_mask(seed, site, bound)

    def pair_mask(self, secret: SecretBytes, public: bytes, me: SiteId, peer: SiteId, bound: bytes) -> Mask:
        """The core's."""
        return keys.pair_mask(secret, public, me, peer, bound)

    def round(self, world: World, sites: Mapping[SiteId, Site], folder: Path) -> Finished:
        """One round through driver, journal and engine."""
        events: list[dict[str, object]] = []
        plan = world.plan
        journal = Journal(private_folder(folder))
        try:
            journal.bind(plan.digest(), "attack-1", core_roster(plan).digest())
            log = RunLog(folder / "log", log_of(plan, "attack-1"), world.coordinator)
            driver = Driver(plan, "attack-1", world.coordinator.sign, events.append, log.record, world.loss)
            adapter = Runner(driver, journal, EmbeddedTransport(sites), events.append, log).rounds(world.start)
        finally:
            journal.close()
        assert isinstance(adapter, AdapterState)  # nothing is encrypted in the worlds of these attacks
        named: dict[SiteId, str] = {}
        for event in events:
            if event["event"] in ("lost", "refused"):
                named |= dict(event["sites"])  # type: ignore[call-overload]
        (done,) = (e for e in events if e["event"] == "round")
        survivors = tuple(SiteId(str(s)) for s in done["survivors"])  # type: ignore[attr-defined]
        return Finished(adapter.flatten() - world.start.flatten(), survivors, named)
