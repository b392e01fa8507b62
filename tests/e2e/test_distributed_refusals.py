"""Who and what is not let in where sites and coordinator are machines apart, and what people see of it."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from fedsec.engines.nvflare.job import CONTROLLER, EXECUTOR, write_job
from fedsec.engines.nvflare.provision import ADMIN, provision
from fedsec.engines.nvflare.workspace import USER
from fedsec.plan.approval import approve
from fedsec.plan.policy import draft_policy
from fedsec.plan.sitefile import load_site
from fedsec.plan.toml import write_toml
from fedsec.study.serving import engine_folder
from fedsec_secure.identity.keys import SigningKey
from tests.e2e.distributed import ROOT, Apart, light_set, running, wait_for

FOREIGN = "nvflare.app_common.executors.exec_command.ExecCommandExecutor"
"""A class of NVFlare's own that a job could name."""
CONSOLE = """
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session

session = new_secure_session(sys.argv[2], sys.argv[1], timeout=10.0)
try:
    for command in sys.argv[4:]:
        print(command, "->", session.api.do_command(command))
    if sys.argv[3]:
        print("job", session.submit_job(sys.argv[3]))
finally:
    session.close()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return light_set(tmp_path_factory.mktemp("refusals") / "set", 3)


def console(apart: Apart, job: Path | None, *commands: str) -> str:
    """What NVFlare's own console says to the coordinator's user, with the kit's own certificate."""
    kit = apart.machines.office / "engine" / ADMIN
    command = [sys.executable, "-c", CONSOLE, str(kit), USER, str(job or ""), *commands]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    return done.stdout + done.stderr


def job_of(folder: Path, sites: tuple[str, ...], controller=CONTROLLER, executor=EXECUTOR, code: str = "") -> Path:
    folder.mkdir()
    write_job(folder, list(sites), controller, executor)
    if code:
        custom = folder / "app" / "custom"
        custom.mkdir()
        (custom / "shipped.py").write_text(code)
    return folder


SHIPPED = """
from pathlib import Path
from nvflare.apis.executor import Executor

Path({marker!r}).write_text("imported")

class Shipped(Executor):
    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return shareable
"""


@pytest.fixture
def at_work(made, tmp_path):
    """A run in which every site trains for a minute, with its engine's job at hand."""
    with running(tmp_path / "apart", made, hold={"train": 60.0}) as apart:
        apart.asked("train", 0)
        wait_for("every site is at work", lambda: all(apart.pids("site job", s) for s in apart.sites))
        yield apart


@pytest.mark.slow
def test_a_job_of_another_class_is_refused_at_the_site_and_no_console_reaches_a_shell(at_work, tmp_path):
    """The coordinator's own certificate asks for it, in the middle of a run, and the run ends as if nobody had."""
    commands = ["pwd site-a", "ls site-a -al", "cat site-a log.txt", "tail site-a log.txt", "grep site-a x log.txt"]
    said = console(at_work, None, *commands)
    assert said.count("is not authorized for") == len(commands), said
    assert "job" in console(at_work, job_of(tmp_path / "class", at_work.sites, executor=FOREIGN))
    for site in at_work.sites:
        assert wait_for(f"{site} refuses the class", lambda s=site: refusals(at_work, s, "ComponentNotAuthorized"), 60)
    at_work.finished(240)
    assert set(at_work.survivors()) == {at_work.sites}


@pytest.mark.slow
@pytest.mark.parametrize("lax", [False, True])
def test_code_in_a_job_is_not_run(at_work, tmp_path, lax):
    """Refused by the server; and where that one is told to let everything through, by each site."""
    if lax:
        let_everything_through(at_work)
    marker = tmp_path / "executed-code"
    text = SHIPPED.format(marker=str(marker))
    job = job_of(tmp_path / "code", at_work.sites, executor="shipped.Shipped", code=text)
    assert "job" in console(at_work, job)
    if lax:
        for site in at_work.sites:
            refusal = f"{site}: NVFLARE_ERROR: BYOC not permitted"
            wait_for(f"{site} refuses the code", lambda r=refusal: r in server_log(at_work), 60)
            assert not list(at_work.home(site).rglob("shipped.py")), "it never lay on the site's disk"
    else:
        wait_for("the server refuses the code", lambda: "BYOC not permitted" in server_log(at_work), 60)
    assert not marker.exists()
    at_work.finished(240)
    assert not marker.exists()
    assert set(at_work.survivors()) == {at_work.sites}


def let_everything_through(apart: Apart) -> None:
    """The server is its operator's: its own rules bind nobody but itself."""
    local = engine_folder(apart.out) / "server" / "local"
    rights = json.loads((local / "authorization.json").read_text())
    for role in rights["permissions"].values():
        role.update(dict.fromkeys(role, "any"))
    (local / "authorization.json").write_text(json.dumps(rights))
    resources = json.loads((local / "resources.json").read_text())
    resources["class_list_enforcement_mode"] = "warn"
    (local / "resources.json").write_text(json.dumps(resources))
    before = len(apart.events())
    apart.strike("server")
    apart.until(event="engine-restarted", what="server started again", after=before)
    apart.until(event="engine", what="job runs", after=before)


def refusals(apart: Apart, site: str, what: str) -> list[str]:
    """Lines of the logs of a site's engine that name it."""
    found = []
    for path in (apart.home(site) / "state" / "engine").rglob("*log*"):
        with suppress(OSError):
            if path.is_file():
                found += [line for line in path.read_text(errors="replace").splitlines() if what in line]
    return found


def engine_log(apart: Apart, site: str) -> str:
    """What NVFlare's client says in its own log, and on its terminal."""
    place = apart.home(site) / "state" / "engine"
    texts = (path.read_text(errors="replace") for path in (place / "nvflare.log", place / "client" / "log.txt"))
    return "\n".join(texts)


def server_log(apart: Apart) -> str:
    """What NVFlare's server says in its own log."""
    return (engine_folder(apart.out) / "server" / "log.txt").read_text(errors="replace")


# ---- certificates


def never_served(apart: Apart, site: str, seconds: float = 25.0) -> None:
    """The others are asked; it is not."""
    others = [s for s in apart.sites if s != site]
    for other in others:
        apart.until(other, event="connected")
    with pytest.raises(AssertionError):
        apart.until(site, event="connected", seconds=seconds)


@pytest.mark.slow
def test_a_certificate_of_another_root_does_not_connect(made, tmp_path):
    with Apart(tmp_path / "apart", made) as apart:
        provision(apart.sites, "127.0.0.1", apart.port, tmp_path / "others")
        kit = apart.home("site-b") / "engine"
        shutil.rmtree(kit)
        shutil.copytree(tmp_path / "others" / "site-b", kit)
        apart.start_all()
        never_served(apart, "site-b", 20)
        assert apart.until(what="job submitted for site-a, site-c")
        assert "CERTIFICATE_VERIFY_FAILED" in engine_log(apart, "site-b")


@pytest.mark.slow
def test_a_certificate_with_another_sites_name_is_that_site_or_nobody(made, tmp_path):
    """NVFlare's server holds the name against the certificate; the site's client gives up, and is started again."""
    with Apart(tmp_path / "apart", made) as apart:
        stolen = apart.home("site-b") / "engine"
        shutil.rmtree(stolen)
        shutil.copytree(apart.folder / "kits" / "site-c", stolen)
        apart.start("coordinator")
        apart.start("site-a")
        apart.start("site-b")
        apart.until("site-b", event="engine-restarted", what="client started again")
        assert "authenticated as 'site-c' but claimed endpoint 'site-b'" in server_log(apart)
        apart.until(what="job submitted for site-a")
        assert not [e for e in apart.events("site-b") if e["event"] == "connected"]


def test_a_site_that_is_not_on_the_roster_is_told_so(made, tmp_path):
    with Apart(tmp_path / "apart", made) as apart:
        stranger = light_set(tmp_path / "other", 4) / "site-d"
        home = tmp_path / "apart" / "site-d" / "site"
        shutil.copytree(stranger, home)
        provision(("site-d",), "127.0.0.1", apart.port, tmp_path / "kits-d")
        shutil.copytree(tmp_path / "kits-d" / "site-d", home / "engine")
        command = [sys.executable, "-c", "from fedsec.cli import main; main()", "site", "join"]
        command += [str(apart.machines.plan_path), "--site", str(home / "site.toml")]
        done = joined(command)
        assert done.returncode == 2
        assert "the plan names the sites site-a, site-b, site-c; found site-d" in done.stderr


def joined(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "1000"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


# ---- keys and plans


def test_a_coordinator_with_another_signing_key_does_not_start(made, tmp_path):
    with Apart(tmp_path / "apart", made, light=False) as apart:
        (apart.machines.office / "coordinator.key").unlink()
        SigningKey.generate().save(apart.machines.office / "coordinator.key")
        apart.start("coordinator")
        assert apart.status("coordinator") == 2
        assert "is not the key of the plan's coordinator" in apart.said("coordinator")
        assert not apart.out.exists()


@pytest.mark.slow
def test_a_site_with_another_plan_is_not_welcome(made, tmp_path):
    """Approved there, by the same officers for the same keys; the coordinator serves another one."""
    with Apart(tmp_path / "apart", made, pace={"again": 0.02}) as apart:
        other = another_plan(apart, rounds=3)
        for who in ("coordinator", "site-a", "site-c"):
            apart.start(who)
        apart.start("site-b", plan=str(other))
        assert apart.status("site-b", 240) == 3  # with the coordinator put right, the same command goes on
        words = "belongs to another plan"
        assert words in apart.said("site-b")
        heard = [e for e in apart.events("site-b") if e["event"] == "not-welcome"]
        assert len(heard) > 20
        assert all(words in e["reason"] for e in heard)


def another_plan(apart: Apart, **changes: object) -> Path:
    """The same draft with changes, approved at site-b by its officer."""
    plan = apart.plan.model_copy(update=changes)
    path = apart.folder / "other.json"
    path.write_bytes(plan.canonical())
    site, now = (
        load_site(apart.home("site-b") / "site.toml"),
        datetime.datetime.now(datetime.UTC).replace(microsecond=0),
    )
    ends, officer = now + datetime.timedelta(days=9), SigningKey.load(apart.working_set / "site-b" / "officer.key")
    policy = draft_policy(plan, ends, 1)
    site.policy_path.write_text(write_toml(policy, "Another policy"))
    site.approval_path.write_bytes(approve(plan, policy, "site-b", officer, ends, now))
    return path


def test_a_plan_that_no_officer_approved_is_not_joined(made, tmp_path):
    with Apart(tmp_path / "apart", made, light=False) as apart:
        other = light_set(tmp_path / "other", 3) / "coordinator" / "plan.json"
        shutil.copy(other, apart.machines.plan_path)
        apart.start("site-a")
        assert apart.status("site-a") == 1
        assert "VerificationError" in apart.said("site-a")
        assert apart.left() == []
