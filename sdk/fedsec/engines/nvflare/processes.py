"""NVFlare's processes as children: started again where they end, and gone when the process that wanted them is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any, Final

from fedsec.engines.nvflare.fence import own_settings
from fedsec.ops.proxy import for_grpc
from fedsec_secure.errors import TransportError

MOST_LOG: Final = 1 << 24
"""Bytes of what NVFlare's processes print."""
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY = 1.0, 60.0, 120.0


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """For children: idle threads of theirs are not to take the cores from training."""
    own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "4"}
    return {**for_grpc(os.environ), **own, **more}


class Child:
    """One process of NVFlare, kept running. Not safe for threads."""

    def __init__(self, arguments: Sequence[str], folder: Path, log: Path, more: Mapping[str, str]) -> None:
        """``folder``: the only one that it may write in, see `fence.py`. ``log``: takes what it prints."""
        self._command = [sys.executable, "-u", "-m", "fedsec.engines.nvflare.child", *arguments]
        self._folder, self._log = folder, log
        self._environment = environment({**own_settings(folder), **more})
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._not_before = 0.0
        self._pause = _FIRST_PAUSE
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def keep(self) -> bool:
        """Start it where it does not run, after a pause that grows; whether it was started now."""
        self._bound_log()
        if self.pid is not None:
            return False
        now = time.monotonic()
        if self._process is not None:
            self._end()
            if now - self._started > _STEADY:
                self._pause = _FIRST_PAUSE
            self._not_before, self._pause = now + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        if now < self._not_before:
            return False
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                cwd=self._folder,
            )
        self._started = now
        self.starts += 1
        return True

    def _bound_log(self) -> None:
        """What it prints, kept twice at the most: it says a line at each try to connect, for weeks if it must."""
        with suppress(OSError):  # no log yet, or no room to keep the older part
            if self._log.stat().st_size > MOST_LOG:
                shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
                os.truncate(self._log, 0)  # its writers append

    def started(self, what: str) -> dict[str, object]:
        """The event that it was started, the first time or again."""
        if self.starts == 1:
            return {"event": "engine", "what": f"{what} started"}
        return {"event": "engine-restarted", "what": f"{what} started again", "restarts": self.starts - 1}

    def _end(self) -> None:
        """The end of its standard input ends it and all that it started."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it."""
        self._end()


class Clerk:
    """NVFlare's console, in a process that is started when it is needed. TransportError where it does not work now."""

    SECONDS: Final = 20.0

    def __init__(self, kit: Path, user: str, log: Path) -> None:
        self._command = [sys.executable, "-u", "-m", "fedsec.engines.nvflare.clerk", str(kit), user]
        self._kit, self._log = kit, log
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, do: str, **said: object) -> dict[str, Any]:
        """One command and its answer."""
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment(own_settings(self._kit)),
                    cwd=self._kit,
                    start_new_session=True,
                )
        try:
            answer = json.loads(self._line(json.dumps({"do": do} | said).encode() + b"\n"))
        except (OSError, ValueError) as e:
            self.close()
            raise TransportError(f"NVFlare's console does not answer ({type(e).__name__})") from None
        if "ok" not in answer:
            raise TransportError(f"NVFlare's console: {answer['failed']}")
        found: dict[str, Any] = answer["ok"]
        return found

    def _line(self, question: bytes) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        ready, _, _ = select([self._process.stdout], [], [], self.SECONDS)
        if not ready:
            raise TimeoutError
        return self._process.stdout.readline()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.kill()
            self._process.wait()
            self._process = None
