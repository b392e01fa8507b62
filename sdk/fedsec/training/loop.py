"""Local training of one round at one site, without differential privacy: exactly repeatable.

Dropout is seeded for each step from (seed material, round, step), never from torch's global generator, so a resumed
round draws what the undisturbed one would have drawn. `seed_material` is a site's own, the same in every round. Same
inputs, thread count and processor kind give the same bits; a kill at any point changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsec.data.schema import Example
from fedsec.plan.specs import LoraSpec, TrainingSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.batches import batch_plan, collate, derive, encode, round_indices
from fedsec.training.objective import record_losses
from fedsec.training.round import Measured, Position, Round, StepInfo, TrainResult
from fedsec_secure.errors import AbortError

if TYPE_CHECKING:
    from fedsec.training.base_model import BaseModel


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
    run = _PlainRound(base, adapter, examples, spec, lora, Position(round_index, rounds), seed_material)
    return run.run(checkpoint, checkpoint_every, gradient_checkpointing, on_step)


class _PlainRound(Round):
    """Mini-batches of the mean answer-token loss, in a shuffled order."""

    def __init__(
        self,
        base: BaseModel,
        adapter: AdapterState,
        examples: Sequence[Example],
        spec: TrainingSpec,
        lora: LoraSpec,
        position: Position,
        seed_material: bytes,
    ) -> None:
        chosen = round_indices(len(examples), spec.examples_per_round, position.index, seed_material)
        encoded = [encode(base.tokenizer, examples[i], spec.max_tokens) for i in chosen]
        super().__init__(base, adapter, encoded, spec, lora, position)
        self.seed = derive(seed_material, "round", position.index)
        self.plan = batch_plan([len(record) for record in encoded], spec.batch_size, spec.epochs, self.seed)

    @property
    def steps(self) -> int:
        return len(self.plan)

    @property
    def threads(self) -> int:
        return self.spec.threads

    def settings(self) -> object:
        return self.seed.hex()

    def backward(self) -> Measured:
        """Gradients of the batch's mean answer-token loss, clipped."""
        import torch

        batch = collate([self.encoded[i] for i in self.plan[self.step]], self.base.pad_token)
        self.base.lora.dropout.value = derive(self.seed, "dropout", self.step)
        loss = record_losses(self.base, batch).token_mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise AbortError(self._diverged("loss"))
        torch.autograd.backward(loss)
        self.factors.collect()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.spec.gradient_clip)
        if not math.isfinite(float(norm)):
            raise AbortError(self._diverged("gradient"))
        return Measured(value, batch.answer_tokens)

    def _diverged(self, what: str) -> str:
        return (
            f"training diverged: {what} is not finite at step {self.step + 1} of {self.steps}, round "
            f"{self.position.index}; lower training.learning_rate, or use model.dtype float32"
        )
