"""Runs NVFlare's server or client, and ends it, with all that it started, when the process that wanted it is gone.

``python -m fedsec.engines.nvflare.child MODULE ARGUMENT...``: standard input is a pipe from that process; its end is
the signal. That also works where a process was killed and could not say goodbye.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

from fedsec.engines.nvflare.fence import VARIABLE, fence

ENGINE = "FEDSEC_ENGINE"
"""The environment variable by which job processes know their parent, see `end_without_parent`."""
_SECONDS = 0.5


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    me = psutil.Process()
    me_and_below = [*me.children(recursive=True), me]  # NVFlare puts jobs into sessions of their own
    for process in me_and_below:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def end_without_parent() -> None:
    """To be called in a job's process: it ends at once when NVFlare's server or client, which started it, is gone."""
    Thread(target=_watch_parent, args=(int(os.environ[ENGINE]),), name="parent", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def nobody_is_super() -> None:
    """NVFlare lets a role of that name do everything ("for testing"), code of a job's own included; and the server, or
    whoever has the root, says which role a job comes from.
    """
    from nvflare.fuel.sec.authz import Authorizer, AuthzContext

    by_the_rules = Authorizer.authorize

    def authorize(judge: Authorizer, context: AuthzContext) -> tuple[bool, str]:
        if context is not None and context.user.role == "super":
            return False, "nobody is super here"
        answer: tuple[bool, str] = by_the_rules(judge, context)
        return answer

    Authorizer.authorize = authorize


def main() -> None:
    """This process leads a group of its own: whoever started it sees to that."""
    fence(Path(os.environ[VARIABLE]))  # before the first thread: later ones inherit it
    os.environ[ENGINE] = str(os.getpid())
    pipe = os.dup(0)
    os.set_inheritable(pipe, False)
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    nobody_is_super()
    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
