"""Federations over NVFlare for the tests: coordinator and sites as processes, with real TLS, that can be killed.

Every process of a federation, whoever started it, carries a mark in its environment: so none is ever overlooked.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedsec.engines.embedded import EmbeddedTransport
from fedsec.engines.nvflare.provision import provision
from fedsec.plan.init import complete_working_set
from fedsec.plan.model import Draft, Plan
from fedsec.plan.sitefile import DataSection, SiteTemplate
from fedsec.plan.specs import LoraSpec, SecureSpec, TrainingSpec, WeightingSpec
from fedsec.plan.toml import write_toml
from fedsec.report.seal import finish_run
from fedsec.study.coordinator_key import coordinator_key
from fedsec.study.sites import open_agent
from fedsec.study.verify import verify_run
from fedsec_secure.identity.roster import SiteId
from tests.e2e.cuttable import Cuttable
from tests.e2e.federation import TASK, TINY, ArithmeticWork, site_names
from tests.e2e.light_ends import LightCoordination, run_folder, sent_by
from tests.e2e.sent import Sent
from tests.machines import Machines

ROOT = Path(__file__).resolve().parents[2]
MARK = "FEDSEC_TEST_FEDERATION"
RUN = "apart-1"
PAUSES = {"patience": 15.0, "silent": 17.0, "start": 60.0, "most": 30.0}
"""For coordinators of these tests: all processes share two cores, so that starts are not scaled down as waits are."""
ROLES = {
    "server": "nvflare.private.fed.app.server.server_train",
    "client": "nvflare.private.fed.app.client.client_train",
    "server job": "nvflare.private.fed.app.server.runner_process",
    "site job": "nvflare.private.fed.app.client.worker_process",
    "clerk": "fedsec.engines.nvflare.clerk",
}


def light_set(folder: Path, sites: int, **changes) -> Path:
    """A working set whose plan nobody can train for: keys, policies and approvals are real."""
    names = site_names(sites)
    settings = {
        "name": "apart",
        "rounds": 2,
        "seed": 7,
        "model": TINY.model_copy(update={"weights_sha256": "0" * 64}),
        "task": TASK,
        "lora": LoraSpec(rank=2, targets=("q_proj", "v_proj")),
        "training": TrainingSpec(epochs=1, examples_per_round=4, learning_rate=1e-3, threads=1),
        "secure": SecureSpec(minimum_cohort=3, threshold=2 * sites // 3 + 1),
        "weighting": WeightingSpec(rule="uniform"),
    } | changes
    for name in names:
        (folder / name).mkdir(parents=True)
        template = SiteTemplate(name=name, data=DataSection(path="notes.jsonl"))
        (folder / name / "site.toml").write_text(write_toml(template, f"Site {name}"))
    places = {name: folder / name for name in names}
    complete_working_set(Draft(**settings), places, folder / "coordinator", datetime.datetime.now(datetime.UTC))
    return folder


def undisturbed(machines: Machines, out: Path) -> bytes:
    """The adapter's file of the same light run in one process."""
    folder = run_folder(machines.plan_path, machines.coordinator, out, RUN)
    with ExitStack() as stack:
        agents = {
            SiteId(n): open_agent(machines.site(n), machines.plan, ArithmeticWork(n, machines.plan), stack)
            for n in machines.plan.roster.sites
        }
        coordination = LightCoordination(folder, coordinator_key(folder), lambda event: None)
        finish_run(folder, lambda: coordination.run(EmbeddedTransport(agents)))
    return (folder.adapter / "adapter_model.safetensors").read_bytes()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def wait_for(what: str, is_so: Callable[[], object], seconds: float = 120.0):
    """The first value that is true; AssertionError that says what did not come."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := is_so():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def gone(pid: int) -> bool:
    """Also where it is dead and nobody has waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@dataclass
class Apart:
    """One federation: a folder a machine, and a process for each that is started. Use it as a context."""

    folder: Path
    working_set: Path
    light: bool = True
    work: str = "arithmetic"
    hold: dict[str, float] = field(default_factory=dict)
    """Seconds that every site takes for an exchange, by its name."""
    serve: dict[str, object] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)
    pace: dict[str, float] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    """Sites whose way to the server can be cut."""
    run: str = RUN
    out: Path | None = None
    """The run folder; left out: in ``folder``."""

    def __enter__(self) -> Apart:
        self.mark, self.began = uuid.uuid4().hex, time.monotonic()
        self.machines = Machines(self.working_set, self.folder)
        self.plan: Plan = self.machines.plan
        self.sites = tuple(self.plan.roster.sites)
        self.port, kits = free_port(), self.folder / "kits"
        provision(self.sites, "127.0.0.1", self.port, kits)
        shutil.copytree(kits / "coordinator", self.machines.office / "engine")
        self.cuts: dict[str, Cuttable] = {}
        for name in self.sites:
            shutil.copytree(kits / name, self.home(name) / "engine")
        for name in self.networks:
            self.cuts[name] = Cuttable(f"127.0.0.1:{self.port}")
            self.reach(name, self.cuts[name].port)
        self.out = self.out or self.folder / "run"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        left = self.left()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for cut in self.cuts.values():
            cut.close()
        wait_for("every process is gone", lambda: not self.left(), 20)

    # ---- folders

    def home(self, site: str) -> Path:
        return self.folder / site / "site"

    def reach(self, site: str, port: int) -> None:
        """The site's kit calls that port."""
        path = self.home(site) / "engine" / "startup" / "fed_client.json"
        path.write_text(path.read_text().replace(f"127.0.0.1:{self.port}", f"127.0.0.1:{port}"))

    # ---- processes

    def start(self, who: str, **changes: object) -> subprocess.Popen[bytes]:
        """``coordinator`` or a site, whether for the first time or again."""
        return self._spawn(who, self._light(who, changes) if self.light else self._real(who))

    def start_all(self) -> None:
        for who in ("coordinator", *self.sites):
            self.start(who)

    def _light(self, who: str, changes: dict[str, object]) -> list[str]:
        common = {"plan": str(self.machines.plan_path), "log": str(self.log_path(who))}
        if who == "coordinator":
            role = who
            options = common | {
                "coordinator": str(self.machines.coordinator),
                "out": str(self.out),
                "run": self.run,
                "serve": {"bind": "127.0.0.1", "away": 60.0, "linger": 30.0} | self.serve,
                "pauses": PAUSES | self.pauses,
            }
        else:
            role = "site"
            options = common | {
                "site": str(self.home(who) / "site.toml"),
                "work": self.work,
                "sent": str(self.sent_path(who)),
                "hold": self.hold,
                "pace": self.pace,
            }
        path = self.folder / f"{who}.options.json"
        path.write_text(json.dumps(options | changes))
        return [sys.executable, "-m", "tests.e2e.light_ends", role, str(path)]

    def _real(self, who: str) -> list[str]:
        main = [sys.executable, "-c", "from fedsec.cli import main; main()"]
        plan, log = str(self.machines.plan_path), str(self.log_path(who))
        if who == "coordinator":
            given = {"bind": "127.0.0.1", "linger": 30} | self.serve
            options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
            place = ["--coordinator", str(self.machines.coordinator), "--out", str(self.out), "--run-id", self.run]
            return [*main, "coordinator", "serve", plan, *place, *options, "--log", log]
        return [*main, "site", "join", plan, "--site", str(self.home(who) / "site.toml"), "--log", log]

    def _spawn(self, who: str, command: list[str]) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            MARK: self.mark,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "1000",
        }
        with (self.folder / f"{who}.said").open("ab") as said:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        self.processes[who] = process
        return process

    def kill(self, who: str, number: int = signal.SIGKILL) -> None:
        """End our own process of a party by a signal, and wait for it."""
        process = self.processes[who]
        process.send_signal(number)
        process.wait(60)

    def pids(self, role: str, site: str | None = None) -> list[int]:
        """NVFlare's processes of a role; where sites have them, of one site."""
        here = None if site is None else str(self.home(site))
        lines = {pid: _command(pid) for pid in self.left()}
        return [p for p, said in lines.items() if ROLES[role] in said and (here is None or here in said)]

    def strike(self, role: str, site: str | None = None) -> int:
        """kill -9 of one of NVFlare's processes, which is there; its pid."""
        pid = min(wait_for(f"a {role} of {site}", lambda: self.pids(role, site)))
        os.kill(pid, signal.SIGKILL)
        return pid

    def left(self) -> list[int]:
        """Every process of this federation, by its mark, that has not ended."""
        mark, found = f"{MARK}={self.mark}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                marked = mark in path.read_bytes().split(b"\0")
            except OSError:
                continue
            if marked and not gone(int(path.parent.name)):
                found.append(int(path.parent.name))
        return found

    def orphans(self, seconds: float = 10.0) -> float:
        """Seconds until none is left but our own that run and those below them; AssertionError where they stay."""
        began = time.monotonic()
        wait_for(f"no orphans: {self._orphans()}", lambda: not self._orphans(), seconds)
        return time.monotonic() - began

    def _orphans(self) -> dict[int, str]:
        living = {p.pid for p in self.processes.values() if p.poll() is None}
        return {pid: _command(pid)[-80:] for pid in self.left() if not living & {pid, *_ancestors(pid)}}

    # ---- what is seen

    def log_path(self, who: str) -> Path:
        return self.folder / f"{who}.log"

    def sent_path(self, site: str) -> Path:
        return self.folder / "sent" / site

    def said(self, who: str) -> str:
        """On the terminal."""
        return (self.folder / f"{who}.said").read_text(errors="replace")

    def events(self, who: str = "coordinator") -> list[dict]:
        """The lines of its log so far."""
        try:
            lines = self.log_path(who).read_text().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # being written
        return found

    def until(self, who: str = "coordinator", seconds: float = 120.0, after: int = 0, **fields: object) -> dict:
        """The first event of a log with these fields, from its line ``after`` on."""

        def found() -> dict | None:
            same = (e for e in self.events(who)[after:] if all(e.get(k) == v for k, v in fields.items()))
            return next(same, None)

        try:
            return wait_for(f"{who} says {fields}", found, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.story()}") from None

    def folder_events(self) -> list[dict]:
        """Those of the run folder, which has reasons in full."""
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def asked(self, exchange: str, round_index: int) -> None:
        """Wait until the coordinator asks that."""
        self.until(event="asking", exchange=exchange, round=round_index)

    def status(self, who: str = "coordinator", seconds: float = 180.0) -> int:
        """How it ends."""
        try:
            return self.processes[who].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{who} does not end\n{self.story()}") from None

    def story(self) -> str:
        """The ends of all logs, for people."""
        parts = []
        for who in ("coordinator", *self.sites):
            lines = self.log_path(who).read_text().splitlines()[-12:] if self.log_path(who).exists() else []
            said = self.said(who)[-600:] if (self.folder / f"{who}.said").exists() else ""
            parts.append("\n".join([f"---- {who}", *lines, said]))
        return "\n".join(parts)

    # ---- what came of it

    def verified(self) -> None:
        """The run folder holds, to its certificate."""
        rows = verify_run(self.out)
        assert {row.outcome for row in rows} <= {"held", "not pinned"}, [r for r in rows if r.outcome == "failed"]

    def adapter(self) -> bytes:
        return (self.out / "adapter" / "adapter_model.safetensors").read_bytes()

    def survivors(self) -> list[tuple[str, ...]]:
        """By round."""
        return [tuple(e["survivors"]) for e in self.events() if e["event"] == "round"]

    def finished(self, seconds: float = 180.0) -> None:
        """The coordinator ends well, every site hears of it, and nothing is left."""
        assert self.status(seconds=seconds) == 0, self.story()
        for site in self.sites:
            if site in self.processes:
                assert self.status(site, 60) == 0, self.story()
        self.orphans()
        self.verified()
        assert self.sent().wrong() == []

    def sent(self) -> Sent:
        """Everything that the sites' agents handed to the engine, over all their lives."""
        sent = Sent()
        for site in self.sites:
            for name, question, answer in sent_by(self.sent_path(site)):
                sent.keep(site, name, question, answer)
        return sent


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid


@contextmanager
def running(folder: Path, working_set: Path, **options) -> Iterator[Apart]:
    """All ends started."""
    with Apart(folder, working_set, **options) as apart:
        apart.start_all()
        yield apart
