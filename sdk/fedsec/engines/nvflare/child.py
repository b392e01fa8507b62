"""Runs NVFlare's server or client, and ends it, with all that it started, when the process that wanted it is gone.

``python -m fedsec.engines.nvflare.child MODULE ARGUMENT...``: standard input is a pipe from that process; its end is
the signal. That also works where a process was killed and could not say goodbye.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from threading import Thread


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """This process leads a group of its own: whoever started it sees to that."""
    pipe = os.dup(0)
    os.set_inheritable(pipe, False)
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
