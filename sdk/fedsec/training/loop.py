"""Local training of one round at one site: AdamW on the shared LoRA factors, exactly repeatable.

Decisions that a run depends on:
* The learning-rate schedule runs over all rounds of the plan; AdamW's moments start at zero in every round, because the
  round starts from an average that no site's moments belong to, and so that a site keeps no hidden
  state between rounds.
* Dropout is seeded for each step from (seed material, round, step), never from torch's global generator, so a resumed
  round draws what the undisturbed one would have drawn. `seed_material` is a site's own, the same in every round.
* Same inputs, thread count and processor kind give the same bits; a kill at any point changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedsec.data.schema import Example
from fedsec.plan.model import LoraSpec, TrainingSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.batches import Batch, Encoded, batch_plan, collate, derive, encode, round_indices
from fedsec.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsec.training.lora import attach_lora, get_adapter_state, lora_parameters, set_adapter_state
from fedsec.training.objective import record_losses
from fedsec.training.strategies import shared_names
from fedsec_secure.errors import AbortError, LocalMisuseError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from fedsec.training.base_model import BaseModel


@dataclass(frozen=True)
class StepInfo:
    """Progress after one optimiser step; ``step`` counts from 1 to ``steps`` within the round, ``loss`` is in nats."""

    step: int
    steps: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class TrainResult:
    """What a round of local training gave."""

    adapter: AdapterState
    steps: int
    examples: int
    """Examples of the round, each counted once however many epochs."""
    tokens: int
    """Answer tokens trained on, over all epochs."""
    truncated: int
    """Examples whose text was shortened to fit ``max_tokens``."""
    mean_loss: float
    """Nats per answer token, over all steps of the round."""
    seconds: float


def train_round(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    spec: TrainingSpec,
    lora: LoraSpec,
    *,
    round_index: int,
    rounds: int,
    seed_material: bytes,
    checkpoint: Path | None = None,
    checkpoint_every: int = 25,
    gradient_checkpointing: bool = False,
    on_step: Callable[[StepInfo], None] | None = None,
) -> TrainResult:
    """Train round ``round_index`` (from 0) of ``rounds`` from ``adapter``.

    With ``checkpoint``, state is saved there every ``checkpoint_every`` steps and after the last, and a later call with
    the same inputs goes on from it; whoever stores the result deletes the file. A single-site baseline is the same call
    with its own round-0 adapter. Raises ConfigError for examples that do not fit, AbortError where loss or gradient is
    not finite.
    """
    import torch

    if not 0 <= round_index < rounds:
        raise LocalMisuseError(f"round_index {round_index}: expected 0 to {rounds - 1}")
    chosen = round_indices(len(examples), spec.examples_per_round, round_index, seed_material)
    encoded = [encode(base.tokenizer, examples[i], spec.max_tokens) for i in chosen]
    seed = derive(seed_material, "round", round_index)
    plan = batch_plan([len(record) for record in encoded], spec.batch_size, spec.epochs, seed)
    run = _Round(base, attach_lora(base, lora), adapter, spec, lora, encoded, plan, seed, round_index, rounds)
    fingerprint = run.fingerprint()
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        with run.mode(gradient_checkpointing):
            stored = load_checkpoint(checkpoint, fingerprint) if checkpoint is not None else None
            run.start(stored)
            while run.step < len(plan):
                info = run.advance()
                if checkpoint is not None and (run.step % checkpoint_every == 0 or run.step == len(plan)):
                    save_checkpoint(checkpoint, fingerprint, run.snapshot())
                if on_step is not None:
                    on_step(info)
            return run.result()
    finally:
        torch.set_num_threads(threads)


@dataclass
class _Round:
    """The mutable state of one round; `train_round` drives it."""

    base: BaseModel
    model: PeftModel
    adapter: AdapterState
    spec: TrainingSpec
    lora: LoraSpec
    encoded: list[Encoded]
    plan: list[list[int]]
    seed: bytes
    round_index: int
    rounds: int
    step: int = 0
    loss_sum: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    trained: dict[str, torch.nn.Parameter] = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)

    def fingerprint(self) -> str:
        """Digest of everything that the result depends on, but the machine."""
        h = hashlib.sha256(b"fedsec/round-fingerprint/v1\0")
        h.update(bytes.fromhex(self.base.weights_sha256) + self.adapter.digest() + self.seed)
        settings = [
            self.spec.model_dump(mode="json"),
            self.lora.model_dump(mode="json"),
            self.base.quantisation,
            self.round_index,
            self.rounds,
            [[list(record.ids), record.answer_start] for record in self.encoded],
        ]
        h.update(json.dumps(settings, sort_keys=True).encode("utf-8"))
        return h.hexdigest()

    def mode(self, gradient_checkpointing: bool) -> _TrainingMode:
        return _TrainingMode(
            self.base, self.model, set(shared_names(self.lora.strategy, self.adapter)), gradient_checkpointing
        )

    def start(self, stored: Checkpoint | None) -> None:
        """Load the adapter and a fresh optimiser, or both from a checkpoint."""
        import torch

        set_adapter_state(self.model, self.adapter)
        self.trained = {n: p for n, p in lora_parameters(self.model).items() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.trained.values(), lr=self.spec.learning_rate, weight_decay=self.spec.weight_decay, foreach=True
        )
        if stored is None:
            return
        self.step, self.loss_sum = stored.step, stored.loss_sum
        self.tokens, self.seconds = stored.tokens, stored.seconds
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(stored.tensors[f"adapter/{name}"])
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(stored.step)),
                    "exp_avg": stored.tensors[f"exp_avg/{name}"].to(parameter.device),
                    "exp_avg_sq": stored.tensors[f"exp_avg_sq/{name}"].to(parameter.device),
                }

    def advance(self) -> StepInfo:
        """One optimiser step."""
        began = time.perf_counter()
        batch = collate([self.encoded[i] for i in self.plan[self.step]], self.base.pad_token)
        rate = self.spec.learning_rate * schedule_factor(
            self.round_index * len(self.plan) + self.step, self.rounds * len(self.plan), self.spec
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._backward(batch)
        self.optimiser.step()
        self.step += 1
        self.loss_sum += loss * batch.answer_tokens
        self.tokens += batch.answer_tokens
        self.seconds += time.perf_counter() - began
        return StepInfo(self.step, len(self.plan), loss, rate)

    def snapshot(self) -> Checkpoint:
        """A copy of the state after the last step."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.trained.items():
            tensors[f"adapter/{name}"] = parameter.detach().cpu()
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = self.optimiser.state[parameter][moment].cpu()
        return Checkpoint(self.step, self.loss_sum, self.tokens, self.seconds, tensors)

    def result(self) -> TrainResult:
        return TrainResult(
            adapter=get_adapter_state(self.model),
            steps=self.step,
            examples=len(self.encoded),
            tokens=self.tokens,
            truncated=sum(record.truncated for record in self.encoded),
            mean_loss=self.loss_sum / self.tokens,
            seconds=self.seconds,
        )

    def _backward(self, batch: Batch) -> float:
        """Gradients of the batch's mean answer-token loss, clipped; gives that loss."""
        import torch

        self.optimiser.zero_grad(set_to_none=True)
        self.base.lora.dropout.value = derive(self.seed, "dropout", self.step)
        loss = record_losses(self.base, batch).token_mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise AbortError(self._diverged("loss"))
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.spec.gradient_clip)
        if not math.isfinite(float(norm)):
            raise AbortError(self._diverged("gradient"))
        return value

    def _diverged(self, what: str) -> str:
        return (
            f"training diverged: {what} is not finite at step {self.step + 1} of {len(self.plan)}, round "
            f"{self.round_index}; lower training.learning_rate, or use model.dtype float32"
        )


class _TrainingMode:
    """While it is entered, the model trains exactly the shared factors; afterwards it is as before."""

    def __init__(self, base: BaseModel, model: PeftModel, trained: set[str], gradient_checkpointing: bool) -> None:
        self.base, self.model, self.trained, self.gradient_checkpointing = base, model, trained, gradient_checkpointing

    def __enter__(self) -> None:
        for name, parameter in lora_parameters(self.model).items():
            parameter.requires_grad_(name in self.trained)
        if self.gradient_checkpointing:
            self.base.model.activation_checkpointing_enable({"use_reentrant": False})
        self.model.train()

    def __exit__(self, *_: object) -> None:
        self.model.eval()
        if self.gradient_checkpointing:
            self.base.model.activation_checkpointing_disable()
        for parameter in lora_parameters(self.model).values():
            parameter.requires_grad_(False)
            parameter.grad = None


def schedule_factor(step: int, total: int, spec: TrainingSpec) -> float:
    """Share of the learning rate at optimiser step ``step`` (from 0) of the ``total`` of all rounds.

    Linear warm-up over ceil(warmup_fraction * total) steps, then half a cosine down to zero after the last step, or
    constant.
    """
    warmup = math.ceil(spec.warmup_fraction * total)
    if step < warmup:
        return (step + 1) / warmup
    if spec.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
