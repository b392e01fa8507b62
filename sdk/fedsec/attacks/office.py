"""Sites as their officers left them: site file, policy and approval on disk, and an agent that starts from those."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedsec.attacks.build import ThisBuild
from fedsec.attacks.lab import SITES, KnownWork, World, careless_approval
from fedsec.plan.approval import approve
from fedsec.plan.attestation import Privacy
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.sitefile import DataSection, SiteFile, load_site
from fedsec.plan.toml import write_toml
from fedsec.site.agent import SiteAgent
from fedsec.site.agents import agent_for
from fedsec.site.identity import SiteIdentity
from fedsec.site.store import SiteStore
from fedsec.spool import private_folder
from fedsec.study.sites import open_agent
from fedsec.wire import TrainRequest, WitnessReply, WitnessRequest, core_roster, witness_context
from fedsec_secure.codec import head_length, seal
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.parameters import RoundContext
from fedsec_secure.record.checkpoint import Checkpoint, cosign
from fedsec_secure.record.note import SignedNote

RUN = "attack-1"


def now() -> datetime.datetime:
    """To the second, as approvals have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def in_days(days: int) -> datetime.datetime:
    """From now."""
    return now() + datetime.timedelta(days=days)


@dataclass
class Office:
    """One hospital: its folder, its officers' keys, and the agent that runs there. ``careless`` starts another agent
    that asks nobody.
    """

    world: World
    site: SiteId
    folder: Path
    careless: bool
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        self.plan = self.world.plan
        private_folder(self.folder)
        self.world.keys[self.site].save(self.folder / "site.key")
        first, *others = (key.public.hex for key in self.officers)
        about = SiteFile(
            name=self.site, officer=first, co_officers=tuple(sorted(others)), data=DataSection(path="notes.jsonl")
        )
        (self.folder / "site.toml").write_text(write_toml(about, "A hospital under attack."))
        self.allow(draft_policy(self.plan, in_days(2)))
        self._start()

    @property
    def officers(self) -> tuple[SigningKey, ...]:
        """The site's own."""
        return self.world.officers[self.site]

    def allow(self, policy: Policy, approval: bytes | None = None) -> bytes:
        """Put a policy in force, with an approval of the plan under it by the first officer unless one is given."""
        signed = approval or approve(self.plan, policy, self.site, self.officers[0], in_days(1), now())
        (self.folder / "policy.toml").write_text(write_toml(policy, "What the officer allows."))
        (self.folder / "approval.json").write_bytes(signed)
        return signed

    def notice(self, name: str, data: bytes) -> None:
        """Drop a withdrawal or a revocation into the site's folder for them."""
        (private_folder(self.folder / "revocations") / name).write_bytes(data)

    def start(self, plan: Plan) -> None:
        """The coordinator hands over a plan, and the site starts anew. FedsecError where it refuses."""
        self.close()
        self.plan = plan
        self._start()

    def _start(self) -> None:
        self._stack = ExitStack()
        work = KnownWork(self.world, self.site)
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            if self.careless:
                self.agent = _careless_agent(self, work, self._stack)
            else:
                self.agent = open_agent(load_site(self.folder / "site.toml"), self.plan, work, self._stack)
            undo.pop_all()

    def handle(self, name: str, body: bytes) -> bytes | Path:
        """The agent's answer; a careless site cosigns whatever it is shown."""
        if self.careless and name == "witness":
            return self._cosign_anything(body)
        return self.agent.handle(name, body)

    def restart(self) -> None:
        """A new agent over what is on disk."""
        self.start(self.plan)

    def close(self) -> None:
        """Let go of the folder."""
        self._stack.close()

    def _cosign_anything(self, body: bytes) -> bytes:
        request, key = WitnessRequest.decode(body[head_length(body) :]), self.world.keys[self.site]
        checkpoint = Checkpoint.parse(SignedNote.parse(request.note).text)
        reply = WitnessReply(cosign(checkpoint, self.site, key, int(time.time())), bytes(32))
        context = witness_context(self.plan.digest(), RUN, core_roster(self.plan).digest())
        return seal("witness", self.site, context, reply.encode(), key.sign)


class _Uncounted:
    """No ledger."""

    def reserve(self, run: str, round_index: int, purpose: str) -> None:
        """Nothing."""

    def spend(self, run: str, round_index: int, purpose: str, released: bytes) -> None:
        """Nothing."""

    def pin(self) -> None:
        """Nothing."""

    def head(self) -> bytes:
        """Zeros."""
        return bytes(32)

    def passed(self, digest: bytes) -> bool:
        """Always."""
        return True

    def privacy(self, run: str) -> Privacy:
        """Whatever sounds good."""
        epsilons = ("epsilon_run", "epsilon_run_replace_one", "epsilon_before", "epsilon_after")
        fields = {"unit": "patient", "releases": 0, "delta": 1e-6} | dict.fromkeys(epsilons, 0.0)
        return Privacy.model_validate({**fields, "ledger_head_sha256": "0" * 64})


def _careless_agent(office: Office, work: KnownWork, stack: ExitStack) -> SiteAgent:
    """The same agent with nobody to ask: any plan has been approved, under a policy that fits it."""
    store = SiteStore(office.folder / "state")
    stack.callback(store.close)
    policy = draft_policy(office.plan, in_days(1), max_runs=9).model_copy(update={"min_cohort_change": 1})
    key = office.world.keys[office.site]
    approval = careless_approval(office.plan, policy, office.site, office.officers[0], in_days(1))
    own = office.plan.roster.sites[office.site].officer == office.officers[0].public.hex
    approval = approval if own else (office.folder / "approval.json").read_bytes()
    identity = SiteIdentity(office.site, key, lambda: approval, policy, _Uncounted())
    return agent_for(identity, office.plan, store, work)


class Governed(ThisBuild):
    """This build with officers. ``careless``: the same protocol at sites that ask nobody and keep no books."""

    def __init__(self, *, careless: bool = False) -> None:
        self.careless = careless

    @property
    def name(self) -> str:  # type: ignore[override]
        """Shown in reports."""
        return "sites that ask nobody" if self.careless else "this build"

    @contextmanager
    def offices(self, world: World, folder: Path, sites: Iterable[SiteId] = SITES) -> Iterator[Mapping[SiteId, Office]]:
        """Those of ``sites``, opened."""
        with ExitStack() as stack:
            made = {site: Office(world, site, folder / site, self.careless) for site in sites}
            for office in made.values():
                stack.callback(office.close)
            yield made


def train_request(world: World, plan: Plan, run: str = RUN, attempt: int = 0) -> bytes:
    """The first message of an attempt at the first round, properly signed by the coordinator."""
    context = RoundContext(plan.digest(), run, 0, attempt, core_roster(plan).digest(), world.start.digest()).digest()
    body = TrainRequest(run, 0, attempt, world.start.to_bytes(), {}).encode()
    return seal("train-request", COORDINATOR, context, body, world.coordinator.sign)
