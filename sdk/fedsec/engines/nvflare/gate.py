"""A Unix socket in a private folder, where the engine's job processes meet the process that owns keys and data."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from threading import Event, Thread
from typing import Final

from fedsec_secure.errors import ConfigError, TransportError

VARIABLE: Final = "FEDSEC_GATE"
"""The environment variable by which an engine's processes find the socket."""
MAX_FRAME: Final = (1 << 23) + (1 << 16)
CARRY, CONTROL, END = b"carry", b"control ", b"end"
"""The first message of a connection: frames follow, or (with the job's id) only its end is of interest."""
_PREFIX: Final = "fedsec-gate-"
_LONGEST_FOLDER: Final = 80
_GRACE: Final = 60.0
"""Seconds that a gate has to begin to listen."""
CARRIED, UNDELIVERED = b"\x00", b"\x01"
"""Before a frame's answer; before the reason why there is none."""


class Gate:
    """Listens until it is closed; ``meet`` is called on a thread of its own for every connection, and closes it."""

    def __init__(self, meet: Callable[[Connection], None]) -> None:
        # A short path: the operating system allows about a hundred characters.
        if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_FOLDER:
            raise ConfigError(
                f"the temporary folder {tempfile.gettempdir()} has too long a path for a socket in it: set TMPDIR to "
                f"one of at most {_LONGEST_FOLDER} characters"
            )
        _sweep(Path(tempfile.gettempdir()))
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.path = self._folder / "gate"
        self._listener = Listener(str(self.path), "AF_UNIX", backlog=64)
        self._meet = meet
        self._closed = Event()
        self._thread = Thread(target=self._accept, name="gate", daemon=True)
        self._thread.start()

    def environment(self) -> dict[str, str]:
        """For the engine's processes."""
        return {VARIABLE: str(self.path)}

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection = self._listener.accept()
            except OSError:  # closed, or a peer that was gone before it was greeted
                continue
            Thread(target=self._met, args=(connection,), name="gate", daemon=True).start()

    def _met(self, connection: Connection) -> None:
        with connection, suppress(EOFError, OSError):  # the engine's process ended
            self._meet(connection)

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        self._closed.set()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove the sockets of processes that were killed: of this account, and nobody listens at them."""
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another account's, or gone meanwhile
            status = left.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _GRACE:
                continue
            if not _listens(left / "gate"):
                shutil.rmtree(left)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # too busy to answer
            return True
        return True


def receive(connection: Connection) -> bytes:
    """One bounded message. EOFError where the other end is gone, TransportError for one that is too long."""
    try:
        return connection.recv_bytes(MAX_FRAME)
    except OSError as e:
        if connection.closed or "bad message length" in str(e):
            raise TransportError("a frame at the gate is too long") from None
        raise EOFError from None
