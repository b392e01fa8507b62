"""NVFlare's console in a process of its own: submits and ends jobs for the coordinator, one line of JSON each way.

``python -m fedsec.engines.nvflare.clerk KIT USER``. What NVFlare prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from fedsec.engines.nvflare.fence import VARIABLE, fence
from fedsec.engines.nvflare.job import write_job


def _info(session: Session, said: dict[str, Any]) -> object:
    """Which clients the server knows, and how many seconds ago it heard of each."""
    now, found = time.time(), session.get_system_info()
    clients = {c.name: max(0.0, now - float(c.last_connect_time or 0)) for c in found.client_info}
    return {"clients": clients}


def _submit(session: Session, said: dict[str, Any]) -> object:
    with TemporaryDirectory(prefix="fedsec-job-") as folder:
        write_job(Path(folder), list(said["sites"]))
        return {"job": session.submit_job(folder)}


def _abort(session: Session, said: dict[str, Any]) -> object:
    return {"aborted": str(session.abort_job(said["job"]))}


def _status(session: Session, said: dict[str, Any]) -> object:
    return {"status": str(session.get_job_meta(said["job"]).get("status"))}


_DO: dict[str, Callable[[Session, dict[str, Any]], object]] = {
    "info": _info,
    "submit": _submit,
    "abort": _abort,
    "status": _status,
}


def _listen(questions: SimpleQueue[str]) -> None:
    """The end of standard input is the coordinator's: nothing that NVFlare still waits for keeps this process."""
    for line in sys.stdin:
        questions.put(line)
    os._exit(0)


def main() -> None:
    """Until standard input ends."""
    fence(Path(os.environ[VARIABLE]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session: Session | None = None
    questions: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(questions,), daemon=True).start()
    while True:
        said = json.loads(questions.get())
        try:
            if session is None:
                session = new_secure_session(sys.argv[2], sys.argv[1], timeout=5.0, auto_login_max_tries=1)
            answer = {"ok": _DO[said["do"]](session, said)}
        except Exception as e:  # whatever NVFlare raises: the coordinator decides what to do about it
            answer, session = {"failed": f"{type(e).__name__}: {e}"[:500]}, None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
