"""A hostile operator of the engine: NVFlare's server with the real root, and jobs of its own. What a site runs then."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="the distributed engine is not installed")

from nvflare.fuel.sec.authz import Authorizer, AuthzContext, Person
from nvflare.lighter.spec import Project
from nvflare.security.security import FLAuthorizer

from fedsec.engines.nvflare.child import nobody_is_super
from fedsec.engines.nvflare.gate import Gate, receive
from fedsec.engines.nvflare.job import write_job
from fedsec.engines.nvflare.processes import Child, environment
from fedsec.engines.nvflare.provision import ADMIN, provision
from fedsec.engines.nvflare.workspace import USER, client_workspace, server_workspace
from fedsec.ops.kit import load_kit

STRICT, LAX = "strict", "lax"
"""A site as fedsec starts its engine, and one whose engine takes what comes: on it the same attacks succeed."""
_SUBMIT = """
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session(sys.argv[2], sys.argv[1], timeout=20.0)
if sys.argv[3] == "clients":
    print('ANSWER', len(session.get_system_info().client_info))
else:
    print('ANSWER', session.submit_job(sys.argv[3]))
session.close()
"""
_NAIVE = "from fedsec.engines.nvflare import child; child.nobody_is_super = lambda: None; child.main()"
EVIL = "from pathlib import Path\nPath({mark!r}).touch()\n\n\nclass Evil:\n    pass\n"


def idle(connection) -> None:
    while receive(connection):
        pass


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def all_allowed(workspace: Path) -> None:
    """What whoever starts the engine may write there, and a site of fedsec does not."""
    change(workspace / "local" / "resources.json", class_allow_list=["*"])
    rights = dict.fromkeys(("submit_job", "manage_job", "view", "byoc"), "any")
    change(workspace / "local" / "authorization.json", permissions={"project_admin": rights})


class Operator:
    """The server, its console and two sites' engines, all real, on loopback."""

    def __init__(self, folder: Path, role: str, stack: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.folder, self.kits = folder, folder / "kits"
        with pytest.MonkeyPatch.context() as patch:  # whoever has the root signs any role
            add, props = Project.add_admin, {"role": role}
            patch.setattr(Project, "add_admin", lambda project, name, org, _: add(project, name, org, props))
            provision((STRICT, LAX), "127.0.0.1", port, self.kits)
        gate = Gate(idle)
        stack.callback(gate.close)
        workspace = folder / "server"
        arguments = server_workspace(load_kit(self.kits / "coordinator", "coordinator"), workspace, "127.0.0.1")
        all_allowed(workspace)
        self._start(arguments, "server", gate, stack)
        for site in (STRICT, LAX):
            arguments = client_workspace(load_kit(self.kits / site, "site"), site, folder / site)
            if site == LAX:
                all_allowed(folder / site)
            self._start(arguments, site, gate, stack)

    def _start(self, arguments: list[str], name: str, gate: Gate, stack: ExitStack) -> None:
        child = Child(arguments, self.folder / name, self.folder / f"{name}.out", gate.environment())
        if name != STRICT:
            child._command[2:4] = ["-c", _NAIVE]
        stack.callback(child.close)
        child.keep()

    def console(self, word: str) -> str:
        command = [sys.executable, "-c", _SUBMIT, str(self.kits / "coordinator" / ADMIN), USER, word]
        run = subprocess.run(command, capture_output=True, text=True, env=environment({}), check=False, timeout=120)
        found = re.findall(r"^ANSWER (.*)$", run.stdout, re.MULTILINE)
        self.heard = run.stdout + run.stderr
        return found[0] if found else ""

    def wait_for_clients(self) -> None:
        until = time.monotonic() + 120
        while self.console("clients") != "2":
            assert time.monotonic() < until, self.heard

    def submit(self, name: str, component: dict[str, object], code: dict[str, str]) -> None:
        """One job with an app for each site, in which MARK is a file that stands for the harm done there."""
        job = self.folder / name
        job.mkdir()
        for site in (STRICT, LAX):
            part = self.folder / f"{name}-{site}"
            write_job(part, [site])
            app = job / site
            (part / "app").rename(app)
            mark = str(self.mark(name, site))
            config = app / "config" / "config_fed_client.json"
            change(config, components=[json.loads(json.dumps(component).replace("MARK", mark))])
            for file, text in code.items():
                (app / "custom").mkdir(exist_ok=True)
                (app / "custom" / file).write_text(text.format(mark=mark))
        write_job(self.folder / f"{name}-server", [])
        (self.folder / f"{name}-server" / "app").rename(job / "server")
        deploy = {"server": ["server"], STRICT: [STRICT], LAX: [LAX]}
        meta = {"name": name, "resource_spec": {}, "min_clients": 1, "deploy_map": deploy}
        (job / "meta.json").write_text(json.dumps(meta))
        assert self.console(str(job)), self.heard

    def mark(self, name: str, site: str) -> Path:
        """Where the site's engine may write: how far what runs there reaches is `test_fence.py`'s matter."""
        return self.folder / site / f"mark-{name}"

    def said(self, site: str) -> str:
        """In its own logs, and in what the server wrote down of its answers to deployments."""
        logs = [*(self.folder / site).rglob("*.txt"), self.folder / f"{site}.out"]
        own = "\n".join(log.read_text(errors="replace") for log in logs if log.is_file())
        records = "".join(path.read_text() for path in (self.folder / "server" / "jobs").rglob("meta"))
        return "\n".join([own, *re.findall(rf'"({site}: [^"]*)"', records)])


@pytest.fixture(scope="module", params=["project_admin", "super"])
def operator(request, tmp_path_factory):
    """With a console of that role."""
    with ExitStack() as stack:
        operator = Operator(tmp_path_factory.mktemp("operator"), request.param, stack)
        operator.wait_for_clients()
        yield operator


@pytest.mark.parametrize(
    ("operator", "name", "component", "code", "refusal"),
    [
        (
            "project_admin",
            "class",
            {"id": "evil", "path": "logging.FileHandler", "args": {"filename": "MARK"}},
            {},
            "Component 'logging.FileHandler' at config path 'components.#1' is not in allow_list",
        ),
        pytest.param(
            "project_admin",
            "code",
            {"id": "evil", "path": "evil.Evil", "args": {}},
            {"evil.py": EVIL},
            "BYOC not permitted",
            marks=pytest.mark.slow,
        ),
        ("super", "code", {"id": "evil", "path": "evil.Evil", "args": {}}, {"evil.py": EVIL}, "nobody is super here"),
    ],
    indirect=["operator"],
    ids=["a class of its choice", "code of its own", "code of its own, as super"],
)
def test_a_hostile_server_runs_nothing_at_a_site(operator, name, component, code, refusal):
    operator.submit(name, component, code)
    until = time.monotonic() + 180
    while not (operator.mark(name, LAX).exists() and refusal in operator.said(STRICT)):
        assert time.monotonic() < until, operator.said(STRICT)[-3000:]
        time.sleep(0.2)
    assert not operator.mark(name, STRICT).exists()
    assert refusal not in operator.said(LAX)


@pytest.mark.parametrize("role", ["project_admin", "org_admin", "lead", "", "super", "Super"])
@pytest.mark.parametrize("right", ["byoc", "shell_commands", "operate", "download_job", "anything-new"])
def test_no_role_that_a_server_makes_up_has_rights_at_a_site(tmp_path, monkeypatch, role, right):
    provision((STRICT,), "127.0.0.1", 8002, tmp_path / "kits")
    client_workspace(load_kit(tmp_path / "kits" / STRICT, "site"), STRICT, tmp_path / STRICT)
    judge = FLAuthorizer("fedsec", json.loads((tmp_path / STRICT / "local" / "authorization.json").read_text()))
    someone = Person(USER, "fedsec", role)
    asked = AuthzContext(right=right, user=someone, submitter=someone)
    assert judge.authorize(asked)[0] is (someone.role == "super"), "a mend that NVFlare does not need any more"
    monkeypatch.setattr(Authorizer, "authorize", Authorizer.authorize)  # put back at the end
    nobody_is_super()
    assert judge.authorize(asked)[0] is False
    known = Person(USER, "fedsec", "project_admin")
    assert judge.authorize(AuthzContext(right="view", user=known, submitter=known))[0] is True
