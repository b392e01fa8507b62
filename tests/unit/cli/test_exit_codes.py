"""How a command ends, for people, scripts and service managers."""

import signal
import subprocess
import sys

import pytest

from fedsec.cli import app
from fedsec_secure.errors import (
    AbortError,
    ConfigError,
    PeerViolationError,
    ReleaseBlockedError,
    StorageError,
    TransportError,
    VerificationError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerificationError("no approval"), 1),
        (PeerViolationError("check 7"), 1),
        (ReleaseBlockedError("withheld"), 1),
        (ConfigError("no such file"), 2),
        (AbortError("too few. A resumed run asks again"), 3),
        (TransportError("no way through"), 3),
        (StorageError("no room"), 3),
        (OSError(28, "No space left on device"), 3),
        (PermissionError(13, "Permission denied", "/var/lib/fedsec/state"), 2),
        (OSError("AF_UNIX path too long"), 70),
        (RuntimeError("CUDA out of memory"), 70),
    ],
)
def test_the_exit_code_says_whether_the_same_command_may_go_on(monkeypatch, capsys, error, code):
    def fails(*given, **options):
        raise error

    monkeypatch.setattr(app, "app", fails)
    monkeypatch.setattr(app, "_register", lambda: None)
    with pytest.raises(SystemExit) as ended:
        app.run([])
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert ("Traceback" in said) == (code == 70)
    assert said


COMMAND = """
import sys, time
from fedsec.cli import app
from fedsec.cli.serving import stoppable

app._register = lambda: None

@app.app.command("first")
def first(): ...

@app.app.command("wait")
def wait():
    with stoppable():
        print("waiting", flush=True)
        time.sleep(60)

app.run(["wait"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_command_with_130_and_words(number):
    with subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "with the same command again" in said
    assert "Traceback" not in said
