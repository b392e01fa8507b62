"""Tiny random models of five architectures with LoRA on them, ragged records, and gradients by the definition."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import peft
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from fedsec.training.lora import lora_parameters
from fedsec.training.private.refusals import lora_layers

VOCABULARY, PAD = 61, 1
LENGTHS = (7, 12, 3, 9)
KEYS = tuple(b"record %d" % i for i in range(len(LENGTHS)))
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
TOKENS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": PAD}
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MODELS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[str, ...]]] = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, **TOKENS)), SEVEN),
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=16,
                n_layer=2,
                n_head=2,
                n_positions=64,
                **TOKENS,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        ),
        ("c_attn", "c_proj", "c_fc"),
    ),
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **HEADS, **TOKENS, head_dim=8)), SEVEN),
    "gemma3": (
        lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **HEADS, **TOKENS, head_dim=8, sliding_window=6)),
        SEVEN,
    ),
    "phi3": (
        lambda: Phi3ForCausalLM(Phi3Config(**SHAPE, **HEADS, **TOKENS)),
        ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ),
}


def build(kind: str, dtype: torch.dtype = torch.float32, dropout: float = 0.0, rank: int = 3) -> peft.PeftModel:
    """A model in training mode whose factors are all random and trained."""
    make, targets = MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        base = make().to(dtype)
        config = peft.LoraConfig(
            r=rank, lora_alpha=2.0 * rank, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM",
            fan_in_fan_out=kind == "gpt2",
        )  # fmt: skip
        model = peft.get_peft_model(base, config)
        for parameter in lora_parameters(model).values():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.train().to(dtype)


@dataclass(frozen=True)
class Tokens:
    """Padded records; ``answers``: which positions of ``ids`` are answer tokens, bool[n, t]."""

    ids: torch.Tensor
    mask: torch.Tensor
    answers: torch.Tensor

    def __getitem__(self, rows: slice) -> Tokens:
        return Tokens(self.ids[rows], self.mask[rows], self.answers[rows])

    def unpadded(self, row: int) -> Tokens:
        kept = self.mask[row].bool()
        return Tokens(self.ids[row : row + 1, kept], self.mask[row : row + 1, kept], self.answers[row : row + 1, kept])


def tokens(lengths: tuple[int, ...] = LENGTHS, width: int = 14, side: str = "right", seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), width), PAD)
    mask, answers = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else width - length
        ids[row, start : start + length] = torch.randint(2, VOCABULARY, (length,), generator=generator)
        mask[row, start : start + length] = 1
        answers[row, start + length // 2 + 1 : start + length] = True
    return Tokens(ids, mask, answers)


def losses(model: peft.PeftModel, batch: Tokens) -> torch.Tensor:
    """Each record's mean cross entropy over its own answer tokens, [n]."""
    answers = batch.answers[:, 1:]
    return token_losses(model, batch).sum(1) / answers.sum(1)


def token_losses(model: peft.PeftModel, batch: Tokens) -> torch.Tensor:
    """Cross entropy of each answer token, zero elsewhere, [n, t - 1]."""
    positions = (batch.mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions, use_cache=False).logits
    picked = logits[:, :-1].log_softmax(-1).gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
    return -picked * batch.answers[:, 1:]


class DefinedMask(torch.nn.Module):
    """Dropout of one record as it is specified, written down a second time."""

    def __init__(self, probability: float, path: str) -> None:
        super().__init__()
        self.threshold, self.path, self.key = round(probability * 65536), path.encode(), b""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        digest = hashlib.sha256(
            b"fedsec/record-dropout/v1\0" + len(self.key).to_bytes(4, "big") + self.key + self.path
        ).digest()
        raw = np.random.PCG64(np.random.SeedSequence(list(np.frombuffer(digest, "<u4")))).random_raw(x.numel())
        levels = [int(word) >> shift & 0xFFFF for word in raw for shift in (0, 16, 32, 48)][: x.numel()]
        kept = torch.tensor(levels).view(x.shape) >= self.threshold
        return x * kept.to(x.dtype) * (65536 / (65536 - self.threshold))


@contextmanager
def defined_masks(model: peft.PeftModel, probability: float) -> Iterator[list[DefinedMask]]:
    layers = dict(lora_layers(model)) if probability else {}
    before = {path: layer.lora_dropout["default"] for path, layer in layers.items()}
    masks = {path: DefinedMask(probability, path) for path in layers}
    for path, layer in layers.items():
        layer.lora_dropout["default"] = masks[path]
    try:
        yield list(masks.values())
    finally:
        for path, layer in layers.items():
            layer.lora_dropout["default"] = before[path]


def by_definition(
    model: peft.PeftModel, batches: list[Tokens], keys: tuple[bytes, ...] = KEYS, dropout: float = 0.0
) -> dict[str, torch.Tensor]:
    """Per-sample gradients by autograd on one record after the other, through peft's own forward pass."""
    parameters = lora_parameters(model)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in parameters}
    with defined_masks(model, dropout) as masks:
        for batch, key in zip(batches, keys, strict=True):
            for mask in masks:
                mask.key = key
            values = torch.autograd.grad(losses(model, batch).sum(), list(parameters.values()))
            for name, value in zip(parameters, values, strict=True):
                found[name].append(value)
    return {name: torch.stack(values) for name, values in found.items()}


def deviation(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], by_tensor: bool = False) -> float:
    """Largest ||found - expected|| / ||expected|| of a record: over its whole gradient, or tensor by tensor.

    In float32 the whole is what counts, and what clipping sees: a tensor whose gradient nearly cancels has few digits.
    """
    assert found.keys() == expected.keys()
    assert all(found[name].shape == v.shape and found[name].dtype == v.dtype for name, v in expected.items())
    off = [(found[name] - v).double().flatten(1).square().sum(1) for name, v in expected.items()]
    of = [v.double().flatten(1).square().sum(1) for v in expected.values()]
    assert all(bool((scale > 0).all()) for scale in of), "a gradient of zero compares with nothing"
    ratios = torch.stack(off) / torch.stack(of) if by_tensor else sum(off) / sum(of)
    return float(ratios.max()) ** 0.5
