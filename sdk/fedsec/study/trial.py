"""What a round of training costs on this machine: a few real steps on the site's own notes, thrown away afterwards."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from fedsec.data.schema import Example
from fedsec.data.sitedata import Lengths
from fedsec.plan.model import Draft
from fedsec.training.adapter import initial_adapter
from fedsec.training.base_model import BaseModel, load_base
from fedsec.training.batches import encode, require_room
from fedsec.training.loop import train_round
from fedsec.training.private.buckets import records_together
from fedsec.training.private.mates import require_alone
from fedsec.training.private.refusals import require_base

_STEPS = 3


@dataclass(frozen=True)
class Trial:
    """Measured on this machine; another site's will differ."""

    tokens: Lengths
    """Of an example: prompt, answer and end-of-sequence."""
    shortened: int
    """Examples whose text does not fit ``training.max_tokens`` whole."""
    seconds_a_step: float
    """Of a private step on as many examples as it is expected to draw, without its noise."""
    seconds_a_round: float
    """Training alone, without the exchanges and without scoring."""
    peak_bytes: int
    """Of this process while it trained on the longest examples; on a GPU, of its memory there."""


def try_training(draft: Draft, examples: Sequence[Example], taken: int, steps: int) -> Trial:
    """Train on the longest examples (memory), then on some of all lengths (time). A round takes so many examples and
    optimiser steps.

    Raises ConfigError where the model is missing or an example does not fit, VerificationError where its weights are
    not those that the plan names.
    """
    base = load_base(draft.model)
    require_room(base, examples, draft.training.max_tokens, "the notes")
    encoded = [encode(base.tokenizer, example, draft.training.max_tokens) for example in examples]
    by_length = [examples[i] for i in sorted(range(len(examples)), key=lambda i: -len(encoded[i]))]
    size = 1 if draft.dp.mode == "distributed" else draft.training.batch_size
    if draft.dp.mode != "none":
        size = records_together(size)
        require_base(base.model, size, draft.training.max_tokens)
        require_alone(base, draft)
    _seconds_a_batch(draft, base, by_length[:size], size)
    every = max(1, len(by_length) // (_STEPS * size))
    seconds = _seconds_a_batch(draft, base, by_length[::every][: _STEPS * size], size)
    seconds *= steps if draft.dp.mode == "none" else taken / size
    return Trial(
        tokens=Lengths.of([len(record) for record in encoded]),
        shortened=sum(record.truncated for record in encoded),
        seconds_a_step=seconds / steps,
        seconds_a_round=seconds,
        peak_bytes=_peak_bytes(),
    )


def _seconds_a_batch(draft: Draft, base: BaseModel, examples: Sequence[Example], size: int) -> float:
    spec = draft.training.model_copy(update={"examples_per_round": None, "epochs": 1, "batch_size": size})
    adapter = initial_adapter(base, draft.lora, draft.seed)
    done = train_round(base, adapter, examples, spec, draft.lora, round_index=0, rounds=1, seed_material=b"trial")
    return done.seconds / done.steps


def _peak_bytes() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
