"""The price of a private step: beside a plain one and beside Opacus' hooks, CPU time and peak memory.

``python -m benchmarks.dp --json``. A step is one whole optimiser step over one physical batch on one thread: forward,
backward, clipping, the noise of a private one, AdamW. Time: plain and private steps take turns in one process, and the
ratio is the median over the pairs. Memory: the peak of resident memory, each engine in a process of its own. Noise by
itself has a row of its own. Steps as a site runs them, on notes of many lengths, are `dp_rounds`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from benchmarks.dp_rounds import round_rows
from benchmarks.rows import Row
from fedsec.plan.specs import LoraSpec, ModelSpec
from fedsec.training.adapter import AdapterState, initial_adapter
from fedsec.training.base_model import BaseModel, load_base
from fedsec.training.batches import Batch, Encoded
from fedsec.training.lora import attach_lora, linear_names, lora_parameters, set_adapter_state
from fedsec.training.objective import record_losses
from fedsec.training.private.buckets import collate_bucket
from fedsec.training.private.engine import engine_of
from fedsec.training.private.mechanism import NoisySum

TIME_GOAL, MEMORY_GOAL = 1.05, 1.03
BOUND = 0.1
Step = Callable[[], None]


class Workload:
    """A model with LoRA (rank 8) on every linear layer, and one batch of random words."""

    def __init__(self, base_name: str, records: int, tokens: int) -> None:
        self.base: BaseModel = load_base(ModelSpec(base=base_name, dtype="float32"))
        lora = LoraSpec(rank=8, alpha=16.0, dropout=0.0, targets=tuple(linear_names(self.base)))
        self.model = attach_lora(self.base, lora)
        state = initial_adapter(self.base, lora, 0)
        moved = {name: tensor + 0.01 if ".lora_B." in name else tensor for name, tensor in state.items()}
        set_adapter_state(self.model, AdapterState(moved))
        for parameter in lora_parameters(self.model).values():
            parameter.requires_grad_(True)
        self.model.train()
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(2, 250, (records, tokens - 1), generator=generator).tolist()
        self.batch: Batch = collate_bucket([Encoded(tuple(row), tokens * 3 // 4, False) for row in words], 0)
        self.keys = [b"%d" % i for i in range(records)]
        self.parameters = lora_parameters(self.model)
        self.optimiser = torch.optim.AdamW(self.parameters.values(), lr=1e-6, foreach=True)
        self.mechanism = NoisySum(BOUND, 1.0, sum(p.numel() for p in self.parameters.values()))

    def losses(self) -> torch.Tensor:
        return record_losses(self.base, self.batch).per_record()

    def plain(self) -> None:
        self.losses().mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), BOUND)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def private(self, engine: str) -> Step:
        """One step of this engine, attached before each and taken off after it, as other steps take turns with it."""

        def step() -> None:
            with engine_of(engine)(self.model) as attached:
                total = attached.clipped_sum(self.keys, self.losses, BOUND).total
            for name, noisy in self.mechanism.release(total).items():
                self.parameters[name].grad = (noisy / len(self.keys)).to(torch.float32)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)

        return step

    def noise(self) -> None:
        self.mechanism.release({n: torch.zeros(p.shape, dtype=torch.float64) for n, p in self.parameters.items()})


def engines() -> list[str]:
    return ["own", "opacus"] if importlib.util.find_spec("opacus") else ["own"]


def cpu(step: Step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def times(work: Workload, repeats: int) -> list[Row]:
    steps = {"plain": work.plain} | {name: work.private(name) for name in engines()}
    for step in steps.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats):
        names = list(steps) if turn % 2 == 0 else list(steps)[::-1]  # none always goes first
        for name in names:
            taken[name].append(cpu(steps[name]))
    rows = [Row("plain step", min(taken["plain"]), "CPU s")]
    rows.append(Row("noise alone, in each private step", min(cpu(work.noise) for _ in range(3)), "CPU s"))
    for name in engines():
        pairs = [a / b for a, b in zip(taken[name], taken["plain"], strict=True)]
        ratio = statistics.median(pairs)
        goal = (f"<= {TIME_GOAL}", ratio <= TIME_GOAL) if name == "own" else (None, None)
        rows.append(Row(f"private step, {name}, over plain", round(ratio, 4), "x CPU time", *goal))
        rows.append(Row(f"  lowest of {repeats} pairs", round(min(pairs), 4), "x CPU time"))
        rows.append(Row("  highest", round(max(pairs), 4), "x CPU time"))
    return rows


def memory(given: argparse.Namespace) -> list[Row]:
    def peak(engine: str) -> float:
        options = ["--base", given.base, "--records", str(given.records), "--tokens", str(given.tokens)]
        command = [sys.executable, "-m", "benchmarks.dp", "--memory-of", engine, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(json.loads(done.stdout))

    plain = peak("plain")
    rows = [Row("plain step, peak memory", round(plain), "MB")]
    for name in engines():
        ratio = peak(name) / plain
        goal = (f"<= {MEMORY_GOAL}", ratio <= MEMORY_GOAL) if name == "own" else (None, None)
        rows.append(Row(f"private step, {name}, peak memory over plain", round(ratio, 4), "x", *goal))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="a record, padding included: a multiple of 32")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of steps: one pair alone may be off by 5 %")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=["plain", "own", "opacus"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory_of:
        work = Workload(given.base, given.records, given.tokens)
        step = work.plain if given.memory_of == "plain" else work.private(given.memory_of)
        for _ in range(2):
            step()
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return
    work = Workload(given.base, given.records, given.tokens)
    rows = [*memory(given), *times(work, given.repeats)]
    del work  # its factors are on the model
    rows += round_rows(load_base(ModelSpec(base=given.base, dtype="float32")), given.repeats)
    if given.json:
        size = {"base": given.base, "records": given.records, "tokens": given.tokens}
        print(json.dumps(size | {"rows": [asdict(row) for row in rows]}, indent=1))
        return
    for row in rows:
        goal = "" if row.goal is None else f"   goal {row.goal}: {'met' if row.met else 'missed'}"
        print(f"{row.name:<50} {row.value:10.3f} {row.unit}{goal}")


if __name__ == "__main__":
    main()
