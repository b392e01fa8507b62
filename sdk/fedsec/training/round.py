"""A round of local training, whatever its gradients: AdamW on the shared LoRA factors, checkpoints, schedule.

* The learning-rate schedule runs over all rounds of the plan; AdamW's moments start at zero in every round, because the
  round starts from an average that no site's moments belong to, and so that a site keeps no hidden
  state between rounds.
* A kill at any point loses at most the steps since the last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsec.plan.specs import LoraSpec, TrainingSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.batches import Encoded
from fedsec.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsec.training.lora import attach_lora, lora_parameters
from fedsec.training.strategies import trained_names
from fedsec_secure.errors import LocalMisuseError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from fedsec.training.base_model import BaseModel
    from fedsec.training.factors import Factors


@dataclass(frozen=True)
class StepInfo:
    """Progress after one optimiser step; ``step`` counts from 1 to ``steps`` within the round, ``loss`` is in nats.

    The loss is about notes: it stays at the site.
    """

    step: int
    steps: int
    loss: float
    """Not a number where a private step drew nobody."""
    learning_rate: float


@dataclass(frozen=True)
class TrainResult:
    """What a round of local training gave. Only the adapter may leave, and that as plan and policy say."""

    adapter: AdapterState
    steps: int
    examples: int
    """Examples of the round, each counted once however often it was used."""
    tokens: int
    """Answer tokens trained on, over all steps."""
    truncated: int
    """Examples whose text was shortened to fit ``max_tokens``."""
    mean_loss: float
    """Nats per answer token, over all steps of the round."""
    seconds: float


@dataclass(frozen=True)
class Position:
    """Round ``index`` (from 0) of ``of``."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise LocalMisuseError(f"round_index {self.index}: expected 0 to {self.of - 1}")


@dataclass(frozen=True)
class Measured:
    """What one step saw: the mean loss in nats over so many answer tokens."""

    loss: float
    tokens: int


class Round(ABC):
    """The mutable state of one round; :meth:`run` drives it. A subclass says where gradients come from."""

    def __init__(
        self,
        base: BaseModel,
        adapter: AdapterState,
        encoded: Sequence[Encoded],
        spec: TrainingSpec,
        lora: LoraSpec,
        position: Position,
    ) -> None:
        self.base, self.adapter, self.encoded = base, adapter, encoded
        self.spec, self.lora, self.position = spec, lora, position
        self.model: PeftModel = attach_lora(base, lora)
        self.factors: Factors = _factors(self.model, adapter, lora, position)
        self.trained: dict[str, torch.nn.Parameter] = {}
        self.optimiser: torch.optim.AdamW
        self._start_values: dict[str, torch.Tensor] = {}
        self.step, self.tokens, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimiser steps of the round."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many threads a step takes."""

    @abstractmethod
    def settings(self) -> object:
        """What the result depends on besides base, adapter, examples and specifications, for `fingerprint` (JSON)."""

    @abstractmethod
    def backward(self) -> Measured:
        """Leave the step's gradients in ``.grad`` of the trained factors."""

    def attached(self) -> AbstractContextManager[object]:
        """Entered while the model is in training mode, around all steps."""
        return nullcontext()

    def run(
        self,
        checkpoint: Path | None = None,
        checkpoint_every: int = 25,
        gradient_checkpointing: bool = False,
        on_step: Callable[[StepInfo], None] | None = None,
    ) -> TrainResult:
        """All steps that are left."""
        fingerprint = self.fingerprint()
        stored = load_checkpoint(checkpoint, fingerprint) if checkpoint is not None else None
        with self.started(stored, gradient_checkpointing):
            while self.step < self.steps:
                info = self._advance()
                if checkpoint is not None and (self.step % checkpoint_every == 0 or self.step == self.steps):
                    save_checkpoint(checkpoint, fingerprint, self._snapshot())
                if on_step is not None:
                    on_step(info)
            return self._result()

    @contextmanager
    def started(self, stored: Checkpoint | None = None, gradient_checkpointing: bool = False) -> Iterator[None]:
        """The model in training mode with the round's adapter, or a checkpoint's, and everything attached."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with self._training(gradient_checkpointing):
                self._start(stored)
                with self.attached():
                    yield
        finally:
            torch.set_num_threads(threads)

    def fingerprint(self) -> str:
        """Digest of everything that the result depends on, but the machine and the operating system's randomness."""
        h = hashlib.sha256(b"fedsec/round-fingerprint/v2\0")
        h.update(bytes.fromhex(self.base.weights_sha256) + self.adapter.digest())
        settings = [
            self.spec.model_dump(mode="json"),
            self.lora.model_dump(mode="json"),
            self.base.quantisation,
            self.position.index,
            self.position.of,
            [[list(record.ids), record.answer_start] for record in self.encoded],
            self.settings(),
        ]
        h.update(json.dumps(settings, sort_keys=True).encode("utf-8"))
        return h.hexdigest()

    @contextmanager
    def _training(self, gradient_checkpointing: bool) -> Iterator[None]:
        """The model trains exactly the strategy's factors; afterwards it is as before."""
        try:
            for name, parameter in lora_parameters(self.model).items():
                parameter.requires_grad_(name in self.factors.modules)
            if gradient_checkpointing:
                self.base.model.activation_checkpointing_enable({"use_reentrant": False})
            self.model.train()
            yield
        finally:
            self.model.eval()
            if gradient_checkpointing:
                self.base.model.activation_checkpointing_disable()
            for parameter in lora_parameters(self.model).values():
                parameter.requires_grad_(False)
                parameter.grad = None

    def _start(self, stored: Checkpoint | None) -> None:
        """Load the adapter and a fresh optimiser, or both from a checkpoint."""
        import torch

        self.trained = self.factors.load()
        if self.spec.proximal_mu:
            self._start_values = {name: p.detach().clone() for name, p in self.trained.items()}
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
        self.factors.write()

    def _advance(self) -> StepInfo:
        """One optimiser step."""
        began = time.perf_counter()
        steps = self.steps
        rate = self.spec.learning_rate * schedule_factor(
            self.position.index * steps + self.step, self.position.of * steps, self.spec
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        seen = self.backward()
        self._pull()
        self.optimiser.step()
        self.factors.write()
        self.step += 1
        self.loss_sum += seen.loss * seen.tokens if seen.tokens else 0.0
        self.tokens += seen.tokens
        self.seconds += time.perf_counter() - began
        return StepInfo(self.step, steps, seen.loss, rate)

    def _pull(self) -> None:
        """The gradient of mu / 2 ||w - w_0||^2, w_0 what the round started from (FedProx, Li et al. 2020,
        arXiv 1812.06127, section 3.2). It reads no note: it is neither clipped nor hidden by noise.
        """
        import torch

        for name, start in self._start_values.items():
            parameter = self.trained[name]
            assert parameter.grad is not None
            with torch.no_grad():
                parameter.grad.add_(parameter - start, alpha=self.spec.proximal_mu)

    def _snapshot(self) -> Checkpoint:
        """A copy of the state after the last step."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.trained.items():
            tensors[f"adapter/{name}"] = parameter.detach().cpu()
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = self.optimiser.state[parameter][moment].cpu()
        return Checkpoint(self.step, self.loss_sum, self.tokens, self.seconds, tensors)

    def _result(self) -> TrainResult:
        trained = {name: p.detach().float().cpu().numpy() for name, p in self.trained.items()}
        return TrainResult(
            adapter=AdapterState({**self.adapter, **trained}),
            steps=self.step,
            examples=len(self.encoded),
            tokens=self.tokens,
            truncated=sum(record.truncated for record in self.encoded),
            mean_loss=self.loss_sum / self.tokens if self.tokens else math.nan,
            seconds=self.seconds,
        )


def _factors(model: PeftModel, state: AdapterState, lora: LoraSpec, position: Position) -> Factors:
    from fedsec.training.factors import Factors, SquareFactors

    names = trained_names(lora.strategy, state, position.index)
    return (SquareFactors if lora.strategy == "fed-sb" else Factors)(model, state, names)


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
