"""One site in a process of its own that is killed with SIGKILL at a chosen moment, and lied to when it comes back.

Its training never gives the same update twice, so a second plaintext would show.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedsec.attacks.build import AgentSite
from fedsec.attacks.lab import VICTIM, World, make_world
from fedsec.plan.model import Plan
from fedsec_secure.errors import FedsecError, TransportError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from tests.e2e.crash import Moments, watch_files, watch_site

Lie = Callable[[str, bytes], tuple[str, bytes] | None]
"""(exchange, honest request) -> what the coordinator tries first after a crash, if anything."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.e2e.killed_site"])


def never_the_same(site, usual, adapter, times):
    """Training on a machine that never repeats itself."""
    return (usual + np.random.default_rng().uniform(-0.05, 0.05, usual.size)).astype(np.float32)


def serve(pipe, folder: str, plan: str, kill_at: int | None) -> None:
    """The child: answer requests until it is told to end, or dies."""
    given = Plan.model_validate_json(plan)
    world = make_world(rule=given.weighting.rule, sites=tuple(map(SiteId, given.roster.sites)))
    key = SigningKey.load(Path(folder) / "site.key")
    officers = {VICTIM: (SigningKey.load(Path(folder) / "officer.key"),)}
    world = replace(world, plan=given, keys={VICTIM: key}, officers=officers)
    world = replace(world, learn=never_the_same)
    moments = Moments(kill_at)
    site = AgentSite(world, VICTIM, Path(folder) / "state")
    watch_site(site._store, site._ledger, "site", moments)
    watch_files(moments)
    while (request := pipe.recv()) is not None:
        name, body = request
        moments.pass_by(f"before {name}")
        try:
            reply = site.handle(name, body)
        except FedsecError as e:
            pipe.send(("refused", str(e)))
        else:
            moments.pass_by(f"after {name}")
            pipe.send(("reply", reply if isinstance(reply, bytes) else reply.read_bytes()))
    pipe.send(("moments", moments.labels))
    site.close()


@dataclass
class KilledSite:
    """The parent's end. ``got`` is all that ever left the site, in order."""

    world: World
    folder: Path
    kill_at: int | None
    lie: Lie
    got: list[tuple[str, bytes]] = field(default_factory=list)
    deaths: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.world.keys[VICTIM].save(self.folder / "site.key")
        self.world.officers[VICTIM][0].save(self.folder / "officer.key")
        self._spawn(self.kill_at)

    def _spawn(self, kill_at: int | None) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        plan = self.world.plan.model_dump_json()
        self._process = _CONTEXT.Process(target=serve, args=(theirs, str(self.folder), plan, kill_at))
        self._process.start()
        theirs.close()

    def _call(self, name: str, body: bytes) -> bytes:
        self._pipe.send((name, body))
        kind, what = self._pipe.recv()
        if kind == "refused":
            raise TransportError(what)
        self.got.append((name, what))
        return what

    def handle(self, name: str, body: bytes) -> bytes:
        """Ask; where the site dies of it, start it again, lie to it, and ask the same again."""
        try:
            return self._call(name, body)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.deaths += 1
            self._process.join()
            self._spawn(None)
        other = self.lie(name, body)
        if other is not None:
            with suppress(TransportError):
                self._call(*other)
        return self._call(name, body)

    def close(self) -> None:
        """End the process; ``moments`` are those of its last life."""
        self._pipe.send(None)
        self.moments = self._pipe.recv()[1]
        self._process.join()
