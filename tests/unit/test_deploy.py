"""deploy/: the services as systemd judges them, and what the container recipe copies, installs and runs as."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("fedsec-site.service", "fedsec-coordinator.service")
systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def analyze(*arguments):
    command = ["systemd-analyze", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, run.stdout + run.stderr


def settings(unit):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(DEPLOY / unit)
    return parser["Service"]


def here(unit, folder, change=lambda text: text):
    """The unit with a command and a user that this machine has."""
    text = (DEPLOY / unit).read_text()
    text = text.replace("/opt/fedsec/bin/fedsec", sys.executable).replace(
        "=fedsec\nGroup=fedsec", "=daemon\nGroup=daemon"
    )
    path = folder / unit
    path.write_text(change(text))
    return path


@systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line(unit, tmp_path):
    assert analyze("verify", here(unit, tmp_path)) == (0, "")
    wrong = here(unit, tmp_path, lambda text: text.replace("ProtectHome=yes", "ProtectHomes=yes"))
    assert "'ProtectHomes' in section" in analyze("verify", wrong)[1]


@systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_service_has_little_to_lose(unit, tmp_path):
    def exposure(path):
        said = analyze("security", "--offline=true", path)[1]
        return float(re.search(r"exposure level for \S+: ([0-9.]+)", said)[1])

    bare = here(
        unit, tmp_path, lambda text: re.sub(r"(?m)^(Protect|Private|Restrict|SystemCall|Capab|NoNew).*\n", "", text)
    )
    assert exposure(DEPLOY / unit) <= 2.0 < 6.0 < exposure(bare)


@systemd
@pytest.mark.parametrize("unit", UNITS)
def test_the_fence_around_the_engine_is_not_filtered_away(unit):
    """systemd's sets, expanded as it does: what is in none of them, and not named, is refused."""
    sets: dict[str, set[str]] = {}
    for line in analyze("syscall-filter", "--no-pager")[1].splitlines():
        if line.startswith("@"):
            found = sets.setdefault(line.strip(), set())
        elif line.startswith("    ") and not line.strip().startswith("#"):
            found.add(line.strip())

    def expanded(name):
        return set().union(*(expanded(n) if n.startswith("@") else {n} for n in sets[name]))

    known = expanded("@system-service")
    assert "openat" in known
    calls = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}
    assert not calls & known, "a set has them now: the line in the units may go"
    filters = re.findall(r"(?m)^SystemCallFilter=(.*)$", (DEPLOY / unit).read_text())
    assert calls <= set(" ".join(f for f in filters if not f.startswith("~")).split())


@pytest.mark.parametrize("unit", UNITS)
def test_it_is_started_again_unless_that_changes_nothing(unit):
    service = settings(unit)
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", "0 1 2")
    assert service["SuccessExitStatus"] == "130"
    assert (service["UMask"], service["LimitCORE"]) == ("0077", "0")
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert "MemoryDenyWriteExecute" not in service


def instructions():
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / "Containerfile").read_text()).replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def test_what_the_container_copies_is_there_and_sent():
    sent = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    for name, rest in instructions():
        if name != "COPY" or rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(line.startswith(f"!{source.rstrip('/')}") for line in sent), source


def test_what_the_container_installs_is_pinned_and_nothing_else_is_fetched():
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    for command in "&&".join(installs).split("&&"):
        if "pip install" in command:
            assert "--no-deps" in command
            assert "--require-hashes" in command or "--no-index" in command
    text = (DEPLOY / "Containerfile").read_text()
    assert not re.search(r"(?m)^ADD|apt-get|\bcurl\b|\bwget\b|git clone", text)
    named = set(re.findall(r"[a-z-]+\.txt", text))
    made = {path.name for path in (ROOT / "requirements").glob("*.txt")}
    assert named <= made


def test_the_container_runs_without_rights():
    names = [name for name, _ in instructions()]
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["10001:10001"]
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
