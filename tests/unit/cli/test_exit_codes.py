"""How a command ends, for people, scripts and service managers."""

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
        (KeyboardInterrupt(), 1),
        (ConfigError("no such file"), 2),
        (AbortError("too few. A resumed run asks again"), 3),
        (TransportError("no way through"), 3),
        (StorageError("no room"), 3),
        (OSError(28, "No space left on device"), 3),
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
