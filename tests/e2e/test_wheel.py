"""The wheel, built and installed into an environment of its own outside the checkout, works by itself.

Building needs no network (the build backend is installed with the tests), and the environment borrows the third-party
packages of the one that runs the tests; fedsec itself comes from the wheel alone.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "examples" / "smoke"


def call(*command: object, cwd: Path) -> str:
    """Run a command away from the checkout and return what it printed; fail with all of its output."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PYTHONNOUSERSITE": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A .pth line adds a folder to the path without running that folder's own .pth files, so the checkout's editable
    # install does not come along.
    borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    call(*pip, "--ignore-installed", wheel, cwd=folder)
    return folder


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
    assert {name.split("/")[0] for name in names} == {"fedsec", "fedsec_secure", info}
    assert {name for name in names if name.endswith("py.typed")} == {"fedsec/py.typed", "fedsec_secure/py.typed"}
    assert f"{info}/licenses/LICENSE" in names
    assert [name for name in names if any(part.startswith("test") for part in name.split("/"))] == []


def test_the_wheel_holds_all_the_code_and_only_tracked_resources(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "sdk", "secure"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout: the list of committed files is unknown")
    source = {name.split("/", 1)[1] for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == source


def test_fedsec_comes_from_the_wheel(home: Path) -> None:
    code = "import fedsec, fedsec_secure; print(fedsec.__file__); print(fedsec_secure.__file__)"
    for line in call(home / "bin" / "python", "-c", code, cwd=home).splitlines():
        assert Path(line).is_relative_to(home)


def test_the_command_shows_its_help(home: Path) -> None:
    assert "Usage" in call(home / "bin" / "fedsec", "--help", cwd=home)


def test_the_command_runs_the_smoke_study(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    study = (SMOKE / "plan.toml", "--sites", SMOKE / "sites", "--out", run, "--init", "--quiet")
    call(home / "bin" / "fedsec", "run", *study, cwd=tmp_path)
    assert (run / "plan.json").is_file()
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
