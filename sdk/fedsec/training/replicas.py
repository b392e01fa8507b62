"""One set of base weights, used by several threads at once.

On short sentences much of a training step is bookkeeping between small matrix products, which a second core cannot
help with. Two sites side by side on a core each do about a third more than one after the other on both cores, and each
still gets the bits that it would have got alone.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from fedsec.training.base_model import BaseModel, LoraSlot
from fedsec_secure.errors import LocalMisuseError

T = TypeVar("T")
R = TypeVar("R")


class Replicas:
    """``count`` models with LoRA modules of their own over the same base weights, which are in memory once."""

    def __init__(self, base: BaseModel, count: int = 1) -> None:
        if count < 1:
            raise LocalMisuseError(f"replicas: expected at least 1, found {count}")
        if count > 1 and base.lora.model is not None:
            raise LocalMisuseError("replicas are made before LoRA modules are attached to the base model")
        self.base = base
        self.count = count
        self._free: queue.SimpleQueue[BaseModel] = queue.SimpleQueue()
        for number in range(count):
            self._free.put(base if number == 0 else _replica(base))

    @contextmanager
    def take(self) -> Iterator[BaseModel]:
        """A model that no other thread uses meanwhile; waits for one."""
        model = self._free.get()
        try:
            yield model
        finally:
            self._free.put(model)

    def map(self, work: Callable[[BaseModel, T], R], items: Iterable[T]) -> Iterator[R]:
        """``work`` on every item, ``count`` at a time, results in order; the machine's cores are shared out."""
        if self.count == 1:
            for item in items:
                with self.take() as model:
                    yield work(model, item)
            return
        with ThreadPoolExecutor(self.count, thread_name_prefix="replica", initializer=self._share_cores) as threads:
            yield from threads.map(lambda item: self._on_a_model(work, item), items)

    def _on_a_model(self, work: Callable[[BaseModel, T], R], item: T) -> R:
        with self.take() as model:
            return work(model, item)

    def _share_cores(self) -> None:
        import torch

        torch.set_num_threads(max(1, cores() // self.count))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _replica(base: BaseModel) -> BaseModel:
    shared = {id(tensor): tensor for tensor in (*base.model.parameters(), *base.model.buffers())}
    return dataclasses.replace(base, model=copy.deepcopy(base.model, shared), lora=LoraSlot())
