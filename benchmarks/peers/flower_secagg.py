"""Flower's own SecAgg+ functions on the work that a site and a coordinator have in a round; CPU seconds as JSON.

Runs in an environment that has `flwr` and not fedsec: ``PYTHON flower_secagg.py client|server PARAMS SITES DROPPED``.
The calls and their order are those of `_collect_masked_vectors` (client) and of the collect and unmask stages of
`SecAggPlusWorkflow` (server), with the workflow's default ranges; messages, key agreement and training are left out.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

CLIP, TARGET, MODULUS, MAX_WEIGHT = 8.0, 1 << 22, 1 << 32, 1000


def seed(one: int, two: int) -> bytes:
    return one.to_bytes(16, "little") + two.to_bytes(16, "little")


def timed(work: Callable[[], object]) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    work()
    seconds = time.process_time() - began
    return {"cpu": seconds, "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024}


def client(params: int, sites: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    update = [rng.standard_normal(params, dtype=np.float32) * np.float32(0.01)]
    sent: list[np.ndarray] = []

    def work() -> None:
        ratio = round(1 / MAX_WEIGHT * TARGET)
        vector = factor_combine(ratio, quantize(parameters_multiply(update, ratio / TARGET), CLIP, TARGET))
        shapes = [a.shape for a in vector]
        vector = parameters_addition(vector, pseudo_rand_gen(seed(0, 0), MODULUS, shapes))
        for peer in range(1, sites):
            vector = parameters_subtraction(vector, pseudo_rand_gen(seed(0, peer), MODULUS, shapes))
        sent.extend(parameters_mod(vector, MODULUS))

    return timed(work) | {"bytes": sum(a.nbytes for a in sent) / params}


def server(params: int, sites: int, dropped: int) -> dict[str, float]:
    alive = sites - dropped
    rng = np.random.default_rng(0)
    upload = [np.array([1], dtype=np.int64), rng.integers(0, MODULUS, params, dtype=np.int64)]
    shapes = [a.shape for a in upload]

    def work() -> None:
        total = [a.copy() for a in upload]
        for _ in range(alive - 1):
            total = parameters_addition(total, upload)
        total = parameters_mod(total, MODULUS)
        for site in range(alive):
            total = parameters_subtraction(total, pseudo_rand_gen(seed(site, site), MODULUS, shapes))
        for gone in range(dropped):
            for site in range(alive):
                total = parameters_addition(total, pseudo_rand_gen(seed(gone, site), MODULUS, shapes))
        ratio, quantized = factor_extract(parameters_mod(total, MODULUS))
        mean = dequantize(quantized, CLIP, TARGET)
        for vector in mean:
            np.subtract(vector, (alive - 1) * CLIP, out=vector)
        parameters_multiply(mean, TARGET / max(1, int(ratio)))

    return timed(work)


if __name__ == "__main__":
    task, *numbers = sys.argv[1:]
    size, parties, gone = map(int, numbers)
    print(json.dumps(client(size, parties) if task == "client" else server(size, parties, gone)))
