"""A coordinator and a site as processes of their own, with NVFlare between them: from files to the end of a run."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Protocol

from fedsec.coordinator.exchange import Transport
from fedsec.engines.link.desk import Desk, Terms
from fedsec.engines.link.station import Pace, SiteTerms, Station
from fedsec.engines.link.transport import AWAY_SECONDS, LinkTransport
from fedsec.engines.nvflare.carrier import SEGMENT, NvflareCarrier, Pauses
from fedsec.engines.nvflare.site import NvflareSite
from fedsec.ops.kit import load_kit, require_valid
from fedsec.ops.operations import Answering, Operations
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.plan.sitefile import Site
from fedsec.plan.toml import read_toml
from fedsec.site.identity import Progress
from fedsec.spool import held, private_folder
from fedsec.study.coordinator_key import coordinator_key
from fedsec.study.folder import RunFolder
from fedsec.study.manifest import MANIFEST
from fedsec.study.sites import authorise_site
from fedsec.training.adapter import AdapterState
from fedsec.wire import core_roster
from fedsec_secure.codec import PROTOCOL_VERSION
from fedsec_secure.errors import AbortError, ConfigError, ReleaseBlockedError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId

Opener = Callable[[Site, Plan, Progress, ExitStack], Answering]
"""What a site answers with, loaded; the stack closes it."""
Finish = Callable[[RunFolder, Callable[[], None]], None]

LINGER_SECONDS = 60.0
"""How long a coordinator that is done waits for every site to hear of it."""
_NOT_READY = {
    "connected": None,
    "disconnected": "cut off from the coordinator",
    "alone": "no job of the coordinator's reaches this site: `fedsec doctor --site` checks the way there",
    "undelivered": "cut off from the coordinator",
    "not-welcome": "the coordinator does not welcome this site: its log says why",
}
_BYTES_A_PARAMETER, _HEADS = 16, 1 << 20
"""Of an upload, at most: eight bytes a lane and a tag; ciphertexts are smaller."""


@dataclass(frozen=True)
class ServeOptions:
    """What an operator chooses; none of it is part of the plan, and none changes a result."""

    bind: str | None = None
    """The address that the server listens on; None for all of the machine."""
    segment: int = SEGMENT
    away: float = AWAY_SECONDS
    linger: float = LINGER_SECONDS
    pauses: Pauses = field(default_factory=Pauses)


class Coordinating(Protocol):
    """What the coordinator of one run does, once it is loaded (`study.coordinate.Coordination`)."""

    def first(self) -> AdapterState:
        """What round 0 starts from: how large an upload may be follows from its shapes."""
        ...

    def run(self, transport: Transport) -> None:
        """All that is left to do, safe to call again after a kill."""
        ...


def engine_folder(run: Path) -> Path:
    """Where a run's coordinator keeps what its engine needs, and uploads that are not whole: ``RUN-engine``."""
    return run.resolve().with_name(run.resolve().name + "-engine")


def software() -> str:
    """What each end tells the other of itself."""
    return f"fedsec {version('fedsec')}, protocol {PROTOCOL_VERSION}"


def serve(
    folder: RunFolder,
    options: ServeOptions,
    load: Callable[[], Coordinating],
    finish: Finish,
    progress: Progress,
    tick: Callable[[], None],
    ready: Callable[[str | None], None] = lambda reason: None,
) -> None:
    """Everything that is left of a run whose sites join over NVFlare, and its end told to them.

    ``load``: opens the coordinator's part, while sites connect. ``finish``: does what is left of the run, and then its
    report and signed list (`report.seal.finish_run`). ``ready`` hears why sites cannot be reached, or None.
    Raises what `Coordination.run` raises, and ConfigError for a kit that does not fit.
    """
    coordinator, plan = folder.coordinator, folder.plan
    kit, key = load_kit(coordinator.engine_path, "coordinator"), coordinator_key(folder)
    require_valid(kit)
    _require_free(options.bind, kit.port)
    place = private_folder(engine_folder(folder.path))
    terms = Terms(plan.digest(), core_roster(plan), key.sign, software())
    with ExitStack() as stack:
        stack.enter_context(held(place, f"run {folder.run} is served already; wait for it, or end it"))
        desk = Desk(terms, place / "incoming")
        carrier = NvflareCarrier(
            kit, place, desk, bind=options.bind, segment=options.segment, pauses=options.pauses, report=progress
        )
        stack.callback(carrier.close)

        def beat() -> None:
            tick()
            ready(carrier.trouble)

        if (folder.path / MANIFEST).is_file():
            desk.close("the run is finished")
        else:
            carrier.start()  # sites connect while the model is loaded
            coordinating = load()
            shapes = coordinating.first().shapes.values()
            desk.expect(_BYTES_A_PARAMETER * sum(math.prod(shape) for shape in shapes) + _HEADS)
            transport = LinkTransport(desk, carrier, options.away, progress, beat)
            try:
                finish(folder, lambda: coordinating.run(transport))
            except ReleaseBlockedError as e:
                desk.close(f"the run is over, and its adapter is withheld: {e}")
                _tell(desk, carrier, options.linger, beat)
                raise
            desk.close("the run is finished")
        _tell(desk, carrier, options.linger, beat)


def _require_free(bind: str | None, port: int) -> None:
    """ConfigError where another process listens there: NVFlare's server says nothing of it, and serves nobody."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind or "", port))
        except OSError as e:
            raise ConfigError(
                f"cannot listen on port {port} of {bind or 'this machine'}: {e.strerror}. Expected the port of the "
                "kit to be free, and an address of this machine; `ss -ltnp` names who has it"
            ) from None


def _tell(desk: Desk, carrier: NvflareCarrier, linger: float, tick: Callable[[], None]) -> None:
    """Every site hears of the end, or the time is over."""
    until = time.monotonic() + linger
    while (untold := desk.untold()) and time.monotonic() < until:
        tick()
        carrier.keep(untold, carrier.round)
        time.sleep(0.2)


def join(
    site: Site,
    plan: Plan,
    load: Opener,
    operations: Operations,
    progress: Progress,
    stopping: Event,
    pace: Pace | None = None,
) -> str:
    """Take part in the runs of a plan until the coordinator says that it is over; its words.

    ``load``: opens the site's agent (`study.one_site`). ``progress`` hears of everything; once ``stopping`` is set,
    work ends at the next step. ``pace``: how often it tries again.

    Raises:
        FedsecError: approval, key, notes or kit do not hold; the other end is not the plan's coordinator, or refuses.
    """
    kit, key = load_kit(site.engine_path, "site"), SigningKey.load(site.key_path)
    require_valid(kit)
    roster = core_roster(plan)
    if SiteId(site.name) not in roster.sites:
        names = ", ".join(roster.sites)
        raise ConfigError(f"the plan names the sites {names}; found {site.name}: ask who sent the plan")

    def step(event: dict[str, object]) -> None:
        if stopping.is_set():
            raise AbortError("this site is being stopped; the same command goes on")
        progress(event)

    def said(event: dict[str, object]) -> None:
        if (name := str(event["event"])) in _NOT_READY:
            operations.ready(_NOT_READY[name])
        progress(event)

    with ExitStack() as stack:
        place = private_folder(private_folder(site.state_path) / "engine")
        stack.enter_context(held(place, f"site {site.name} takes part already; wait for it, or end it"))
        engine = NvflareSite(kit, site.name, place, said)
        stack.callback(engine.close)
        authorise_site(site, plan, read_toml(site.policy_path, Policy))  # before anything is sent, or loaded
        engine.start()
        agent = load(site, plan, step, stack)
        terms = SiteTerms(SiteId(site.name), plan.digest(), roster, key.sign, software())
        station = Station(terms, operations.watch(agent).handle, said, pace)
        stack.callback(station.close)
        stack.callback(stopping.set)  # first: the agent's work ends at its next step, and its record is closed after it
        operations.ready("not connected to the coordinator yet")
        return engine.serve(station, operations.tick)
