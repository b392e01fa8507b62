"""The site's half of a job, run by NVFlare: carries frames from the site's own process to the server, and back.

Nothing here reads them. The only class that a site's engine will build for a job, see `workspace.py`.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Client

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from fedsec.engines.nvflare.child import end_without_parent
from fedsec.engines.nvflare.gate import CARRIED, UNDELIVERED, VARIABLE, receive

TOPIC, FRAME = "fedsec.link", "frame"
_SECONDS = 60.0
"""For one frame there and back; a question for something to do takes up to 20 of them."""


class RelayExecutor(Executor):
    """One task, as long as the job."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Carry frames until either side ends. NVFlare calls it."""
        end_without_parent()
        try:
            with Client(os.environ[VARIABLE], "AF_UNIX") as gate:
                while not abort_signal.triggered:
                    if gate.poll(0.5):
                        gate.send_bytes(self._carry(receive(gate), fl_ctx))
        except (EOFError, OSError) as e:
            self.log_info(fl_ctx, f"the site's process is gone: {type(e).__name__}")
        return make_reply(ReturnCode.OK)

    def _carry(self, frame: bytes, fl_ctx: FLContext) -> bytes:
        request = Shareable()
        request[FRAME] = frame
        replies = fl_ctx.get_engine().send_aux_request(
            targets=["server"], topic=TOPIC, request=request, timeout=_SECONDS, fl_ctx=fl_ctx, optional=True
        )
        reply = replies.get("server")
        answer = reply.get(FRAME) if isinstance(reply, Shareable) else None
        if isinstance(answer, bytes):
            return CARRIED + answer
        code = reply.get_return_code() if isinstance(reply, Shareable) else "no answer"
        return UNDELIVERED + str(code).encode()
