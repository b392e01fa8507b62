"""The coordinator's half of a job, run by NVFlare: carries frames from sites to the coordinator's process, and back."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from queue import Empty, SimpleQueue

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller, Task
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from fedsec.engines.nvflare.child import end_without_parent
from fedsec.engines.nvflare.gate import CARRY, CONTROL, VARIABLE, receive
from fedsec.engines.nvflare.relay_site import FRAME, TOPIC

TASK = "relay"


class RelayController(Controller):
    """One job: as long as the coordinator's process wants it."""

    def __init__(self) -> None:
        super().__init__()
        self._idle: SimpleQueue[Connection] = SimpleQueue()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """NVFlare calls it first."""
        fl_ctx.get_engine().register_aux_message_handler(TOPIC, self._on_frame)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Have every site's relay start, and wait for the end."""
        end_without_parent()
        with Client(os.environ[VARIABLE], "AF_UNIX") as gate:
            gate.send_bytes(CONTROL + str(fl_ctx.get_job_id()).encode())
            self.broadcast(Task(name=TASK, data=Shareable()), fl_ctx, min_responses=0)
            with suppress(EOFError, OSError):
                while not abort_signal.triggered and not gate.poll(0.2):
                    pass

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """NVFlare calls it last."""
        self.cancel_all_tasks()

    def _on_frame(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """On a thread of NVFlare's: one connection a thread that is busy at the same time."""
        frame = request.get(FRAME)
        if not isinstance(frame, bytes):
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        try:
            gate = self._idle.get_nowait()
        except Empty:
            gate = Client(os.environ[VARIABLE], "AF_UNIX")
            gate.send_bytes(CARRY)
        gate.send_bytes(frame)
        reply = make_reply(ReturnCode.OK)
        reply[FRAME] = receive(gate)
        self._idle.put(gate)
        return reply
