"""The Typer application, and how errors end it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import typer

from fedsec.cli.output import show_error
from fedsec.storage import explained
from fedsec_secure.errors import (
    AbortError,
    ConfigError,
    FedsecError,
    ReleaseBlockedError,
    StorageError,
    TransportError,
)

REFUSED, USAGE, NOT_NOW, OWN_ERROR = 1, 2, 3, 70
"""Exit codes. After the last two the same command may well go on, and a service manager gives it again."""
STOPPED = 130
"""What Typer ends with after Ctrl-C."""

app = typer.Typer(
    name="fedsec",
    help="Federated fine-tuning of clinical language models: no site's notes, update or counts leave it readable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = ("demo", "run", "resume", "status", "verify", "report", "evaluate", "predict")
_GROUPS = ("keys", "plan", "policy", "site", "coordinator", "budget", "log", "attack", "audit")


@cache
def _register() -> None:
    """Once: Typer would list a command again for each time."""
    for name in _COMMANDS:
        module = importlib.import_module(f"fedsec.cli.{name}")
        app.command(name)(getattr(module, name))
    for name in _GROUPS:
        module = importlib.import_module(f"fedsec.cli.{name}")
        app.add_typer(module.app, name=name)
    doctor = importlib.import_module("fedsec.cli.doctor")
    app.command("doctor")(doctor.doctor)


def quieten_libraries() -> None:
    """Model libraries talk on standard error by default; what matters of it reaches the user as our own errors."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Idle OpenMP threads would spin and take the cores from whoever works (several times slower on shared machines).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for library in ("transformers", "bitsandbytes", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")


def run(arguments: list[str] | None = None) -> None:
    """Parse, run and exit."""
    quieten_libraries()
    _register()
    with exit_codes():
        app(arguments, standalone_mode=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """An error of the block in words for people, and as the exit code that docs/cli.md has for it."""
    try:
        with explained("this machine's disk", "Make room, then give the same command again"):
            yield
    except FedsecError as e:
        show_error(e)
        sys.exit(_code(e))
    except SystemExit as e:
        if e.code == STOPPED:
            show_error(KeyboardInterrupt("stopped; go on with `fedsec resume RUN`, or with the same command again"))
        raise
    except OSError as e:
        if e.filename is None:
            traceback.print_exc()
            sys.exit(OWN_ERROR)
        show_error(ConfigError(f"{e.filename}: {e.strerror}; expected a file or folder that this account can use so"))
        sys.exit(USAGE)
    except Exception:
        traceback.print_exc()
        sys.exit(OWN_ERROR)


def _code(error: FedsecError) -> int:
    if isinstance(error, ConfigError):
        return USAGE
    not_now = isinstance(error, AbortError | StorageError | TransportError) and not isinstance(
        error, ReleaseBlockedError
    )
    return NOT_NOW if not_now else REFUSED
