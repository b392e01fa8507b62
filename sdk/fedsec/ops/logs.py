"""Logs as JSON, one object a line, UTC: the events of a run and what libraries log.

An event passes the allow-list of :mod:`fedsec.ops.fields`. A library's message may hold anything, notes included, so
only its place, level and the class of an exception are kept; the words of transport libraries, which hold nothing but
sealed packets, stay as bounded text. Standard library only (docs/decisions/logs-from-an-allow-list.md says why).
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from fedsec.ops.fields import public_event, public_text
from fedsec_secure.errors import ConfigError

LOGGER = "fedsec.events"
_EVENT = "fedsec_event"
_TRANSPORT = ("nvflare", "grpc")
_MOST_FRAMES = 12
_WARNINGS = frozenset(
    {"lost", "refused", "attempt-aborted", "disconnected", "engine-restarted", "not-ready", "alone", "unfenced"}
)
_ERRORS = frozenset({"failed"})

MAX_BYTES = 32 << 20
"""Of one log file; it is then renamed to NAME.1 and so on."""
KEPT_FILES = 8


class JsonFormatter(logging.Formatter):
    """One JSON object a record. ``about``: fields of every line, such as the run and the site."""

    def __init__(self, about: Mapping[str, str | None]) -> None:
        super().__init__()
        self.about = {key: value for key, value in about.items() if value is not None}

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. ASCII: nothing in it can steer a terminal."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        event = getattr(record, _EVENT, None)
        said = event if isinstance(event, dict) else _of_library(record)
        line = {"time": time.replace("+00:00", "Z"), "level": record.levelname.lower(), **self.about, **said}
        return json.dumps(line)


def _of_library(record: logging.LogRecord) -> dict[str, Any]:
    said: dict[str, Any] = {
        "event": "library",
        "logger": public_text(record.name),
        "where": public_text(f"{record.module}:{record.lineno}"),
    }
    if record.name.split(".")[0] in _TRANSPORT:
        try:
            said["text"] = public_text(record.getMessage())
        except Exception:  # a library's own slip in its arguments
            said["text"] = "[a message that does not format]"
    if record.exc_info and record.exc_info[1] is not None:
        said |= error_fields(record.exc_info[1])
    return said


def error_fields(error: BaseException) -> dict[str, Any]:
    """Class and place of an exception, without its message and without any value."""
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    trace = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "trace": trace}


class _Quiet:
    """Logging prints a record that it cannot write, with all of its arguments: this counts it instead."""

    dropped = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """For instance a full disk: the run goes on, and the metrics show it."""
        self.dropped += 1


class _Stderr(_Quiet, logging.StreamHandler):  # type: ignore[type-arg]
    pass


class _File(_Quiet, RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        """Its owner's alone."""
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)  # a file that was there keeps its mode otherwise
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding="ascii", write_through=True)


class EventLog:
    """Writes events; made by :func:`open_log`."""

    def __init__(self, handler: _Stderr | _File, formatter: JsonFormatter) -> None:
        self._handler, self._formatter = handler, formatter

    def dropped(self) -> int:
        """How many lines could not be written."""
        return self._handler.dropped

    def identify(self, run: str) -> None:
        """The run of every line from here on."""
        self._formatter.about |= {"run": run}

    def write(self, event: Mapping[str, object]) -> None:
        """One line. Never raises."""
        self.write_public(public_event(event))

    def write_public(self, shown: dict[str, Any]) -> None:
        """One line of fields that are known to be harmless."""
        name = shown["event"]
        level = logging.ERROR if name in _ERRORS else logging.WARNING if name in _WARNINGS else logging.INFO
        logging.getLogger(LOGGER).log(level, "event", extra={_EVENT: shown})


@contextmanager
def open_log(path: Path | None, about: Mapping[str, str | None]) -> Iterator[EventLog]:
    """Every log record of this process as JSON to ``path``, rotated, or to standard error; undone at the end.

    ConfigError where the file cannot be written. Libraries are heard from WARNING on.
    """
    handler = _handler(path)
    formatter = JsonFormatter(about)
    handler.setFormatter(formatter)
    root, events = logging.getLogger(), logging.getLogger(LOGGER)
    before, level = root.handlers[:], events.level
    root.handlers[:] = [handler]
    events.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield EventLog(handler, formatter)
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        events.setLevel(level)
        with suppress(OSError):  # a full disk: what it still holds is lost
            handler.close()


def _handler(path: Path | None) -> _Stderr | _File:
    if path is None:
        return _Stderr(sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _File(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES)
    except OSError as e:
        raise ConfigError(f"{path}: the log cannot be written ({e.strerror}); choose another file, or none") from None
