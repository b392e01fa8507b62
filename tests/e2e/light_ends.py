"""A coordinator and a site as processes that train nothing: what `fedsec coordinator serve` and `fedsec site join` do,
but for the model. Agents, records, ledgers, keys, log, journal, certificate, link and NVFlare are the real ones.

``python -m tests.e2e.light_ends site|coordinator FILE`` reads its options as JSON. No torch: it starts in seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedsec.cli.app import STOPPED, exit_codes
from fedsec.cli.serving import operated
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Transport
from fedsec.coordinator.journal import Journal
from fedsec.coordinator.run_log import RunLog
from fedsec.coordinator.runner import Runner
from fedsec.engines.link.station import Pace
from fedsec.engines.nvflare.carrier import Pauses
from fedsec.plan.document import load_plan
from fedsec.plan.model import Plan
from fedsec.plan.sitefile import Site, load_site
from fedsec.study.certify import write_certificate
from fedsec.study.coordinator_key import coordinator_key, key_of_plan
from fedsec.study.evidence import read_approval
from fedsec.study.folder import RunFolder
from fedsec.study.serving import ServeOptions, engine_folder, join, serve
from fedsec.study.sites import open_agent
from fedsec.training.adapter import AdapterState
from fedsec.wire import core_roster, log_of
from fedsec_secure.identity.keys import SigningKey
from tests.e2e.federation import ArithmeticWork
from tests.e2e.sent import NeverTheSame

WORKS = {"arithmetic": ArithmeticWork, "never-the-same": NeverTheSame}


def keep_sent(folder: Path, name: str, body: bytes, reply: bytes | Path) -> None:
    """What is handed to the engine is on disk before: a site that is killed later has sent no more than that."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.answer")))
    data = reply if isinstance(reply, bytes) else reply.read_bytes()
    for kind, part in (("question", body), ("answer", data)):
        with (folder / f"{number:05d} {name}.{kind}").open("wb") as out:
            out.write(part)
            out.flush()
            os.fsync(out.fileno())


def sent_by(folder: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """(exchange, question, answer), in order, over all lives of a site."""
    for path in sorted(folder.glob("*.answer")):
        yield path.stem.split(" ", 1)[1], path.with_suffix(".question").read_bytes(), path.read_bytes()


@dataclass
class Recorded:
    """An agent whose answers are kept; each exchange may take a while (seconds, by its name)."""

    agent: object
    folder: Path
    hold: dict[str, float]

    def handle(self, name: str, body: bytes) -> bytes | Path:
        time.sleep(self.hold.get(name, 0.0))
        reply = self.agent.handle(name, body)
        keep_sent(self.folder, name, body, reply)
        return reply


@dataclass
class LightCoordination:
    """`study.coordinate.Coordination` without a model: no test set is scored."""

    folder: RunFolder
    key: SigningKey = field(repr=False)
    progress: Callable[[dict[str, object]], None]

    def first(self) -> AdapterState:
        return ArithmeticWork("coordinator", self.folder.plan).initial_adapter()

    def report(self, event: dict[str, object]) -> None:
        if event["event"] != "asking":
            self.folder.note(event)
        self.progress(event)

    def run(self, transport: Transport) -> None:
        plan, run = self.folder.plan, self.folder.run
        with ExitStack() as stack:
            journal = Journal(self.folder.path)
            stack.callback(journal.close)
            journal.bind(plan.digest(), run, core_roster(plan).digest())
            log = RunLog(self.folder.path / "log", log_of(plan, run), self.key)
            for entry in self.folder.approval_entries():
                log.record(entry)
            runner = Runner(
                Driver(plan, run, self.key.sign, self.report, log.record), journal, transport, self.report, log
            )
            adapter = runner.rounds(self.first())
            attested = runner.attest(adapter)
            self.folder.save_attestations({site: signed for site, (signed, _) in attested.items()})
            runner.close(adapter, attested)
        assert isinstance(adapter, AdapterState)
        adapter.save_peft(self.folder.adapter, plan.model, plan.lora)
        self.report({"event": "finished"})
        write_certificate(self.folder, self.key)


def run_folder(plan_path: Path, coordinator: Path, out: Path, run: str) -> RunFolder:
    """As `study.coordinated` makes or finds it; that module loads torch."""
    if RunFolder.is_at(out):
        return RunFolder.open(out)
    plan, filed = load_plan(plan_path), coordinator.parent / "approvals"
    approvals = {site: read_approval(filed / f"{site}.json", site, plan).raw for site in plan.roster.sites}
    key_of_plan(plan, coordinator.parent / "coordinator.key")
    return RunFolder.create(out, run, coordinator, plan, approvals, distributed=True)


def coordinator(options: dict) -> None:
    from fedsec.report.seal import finish_run

    out = Path(options["out"])
    folder = run_folder(Path(options["plan"]), Path(options["coordinator"]), out, options["run"])
    operation = operated(
        "coordinator",
        log=Path(options["log"]),
        port=None,
        quiet=True,
        rounds=folder.plan.rounds,
        run=folder.run,
        sites=tuple(folder.plan.roster.sites),
        folders={"run": out, "engine": engine_folder(out)},
    )
    with operation as (operations, progress, _):
        settings = ServeOptions(pauses=Pauses(**options["pauses"]), **options["serve"])

        def load() -> LightCoordination:
            return LightCoordination(folder, coordinator_key(folder), progress)

        serve(folder, settings, load, finish_run, progress, operations.tick)


def site(options: dict) -> None:
    here, plan, work = load_site(Path(options["site"])), load_plan(Path(options["plan"])), WORKS[options["work"]]

    def load(site: Site, plan: Plan, progress, stack: ExitStack) -> Recorded:
        agent = open_agent(site, plan, work(site.name, plan), stack)
        agent.progress = progress
        return Recorded(agent, Path(options["sent"]), options["hold"])

    operation = operated(
        "site",
        log=Path(options["log"]),
        port=None,
        quiet=True,
        rounds=plan.rounds,
        site=here.name,
        folders={"state": here.state_path},
    )
    with operation as (operations, progress, stopping):
        words = join(here, plan, load, operations, progress, stopping, Pace(**options["pace"]))
        sys.stdout.write(f"the coordinator says: {words}\n")


def main() -> None:
    """Ends as the command line does: with its exit codes, and words on standard error."""
    options = json.loads(Path(sys.argv[2]).read_bytes())
    with exit_codes():
        try:
            {"site": site, "coordinator": coordinator}[sys.argv[1]](options)
        except KeyboardInterrupt:
            sys.exit(STOPPED)  # as Typer does


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
