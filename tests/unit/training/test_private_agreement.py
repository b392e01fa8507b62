"""Both engines give the gradients that autograd gives for each record alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fedsec.training.lora import lora_parameters
from fedsec.training.private.engine import ENGINES, engine_of
from fedsec.training.private.refusals import lora_layers
from fedsec.training.quantise import quantise
from fedsec_secure.errors import ConfigError
from tests.unit.training.private_models import (
    HEADS,
    KEYS,
    LENGTHS,
    MODELS,
    SEVEN,
    SHAPE,
    TOKENS,
    build,
    by_definition,
    deviation,
    losses,
    tokens,
)

needs_opacus = pytest.mark.skipif(importlib.util.find_spec("opacus") is None, reason="opacus is not installed")
engines = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs_opacus] if name == "opacus" else []) for name in ENGINES]
)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@engines
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", MODELS)
def test_agrees_with_a_batch_of_one(kind, dtype, dropout, name) -> None:
    model, batch, rows = build(kind, dtype, dropout), tokens(), range(len(LENGTHS))
    # In float64 the reference has no padding at all: on the right a record's own tokens come first. In float32 padding
    # alone moves autograd's own gradient by up to 2e-5 here, so the reference is as wide as the batch.
    exact = dtype == torch.float64
    alone = [batch.unpadded(row) if exact else batch[row : row + 1] for row in rows]
    expected = by_definition(model, alone, dropout=dropout)
    with engine_of(name)(model) as engine:
        found = engine.gradients(KEYS, lambda: losses(model, batch))
    assert deviation(found, expected, by_tensor=exact) <= TOLERANCE[dtype]


@engines
@pytest.mark.parametrize("kind", MODELS)
def test_padding_on_the_left(kind, name) -> None:
    model, batch = build(kind, torch.float64, 0.3), tokens(side="left")
    expected = by_definition(model, [batch[row : row + 1] for row in range(len(LENGTHS))], dropout=0.3)
    with engine_of(name)(model) as engine:
        found = engine.gradients(KEYS, lambda: losses(model, batch))
    assert deviation(found, expected, by_tensor=True) <= 1e-12


@engines
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_checkpointing_counts_a_recomputed_layer_once(kind, reentrant, name) -> None:
    batch = tokens()
    plain, saving = build(kind, torch.float64, 0.3), build(kind, torch.float64, 0.3)
    with engine_of("own")(plain) as engine:
        expected = engine.gradients(KEYS, lambda: losses(plain, batch))
    inner = saving.get_base_model()
    inner.activation_checkpointing_enable({"use_reentrant": reentrant})
    inner.enable_input_require_grads()
    runs = count_forwards(saving)
    with engine_of(name)(saving) as engine:
        for _ in range(2):  # nothing of the first pass is left for the second
            found = engine.gradients(KEYS, lambda: losses(saving, batch))
            assert deviation(found, expected, by_tensor=True) <= 1e-12
    assert runs[0] == 4, "every layer's forward pass ran twice in each pass, or nothing was tested"


def count_forwards(model) -> list[int]:
    norm = next(m for name, m in model.named_modules() if name.endswith(("0.input_layernorm", "0.ln_1")))
    runs = [0]

    def count(*_: object) -> None:
        runs[0] += 1

    norm.register_forward_hook(count)
    return runs


@engines
def test_only_what_is_trained_gets_gradients(name) -> None:
    model, batch = build("llama", torch.float64), tokens()
    expected = by_definition(model, [batch.unpadded(row) for row in range(len(LENGTHS))])
    for path, parameter in lora_parameters(model).items():
        parameter.requires_grad_(".lora_B." in path)
    with engine_of(name)(model) as engine:
        found = engine.gradients(KEYS, lambda: losses(model, batch))
        assert set(found) == set(engine.parameters)
    assert deviation(found, {path: value for path, value in expected.items() if ".lora_B." in path}, True) <= 1e-12


@engines
def test_a_base_in_half_precision_keeps_float32_factors(name) -> None:
    model, batch = build("llama"), tokens()
    for path, parameter in model.named_parameters():
        if ".lora_" not in path:
            parameter.data = parameter.data.bfloat16()
    with engine_of(name)(model) as engine:
        found = engine.gradients(KEYS, lambda: losses(model, batch).float())
    assert {value.dtype for value in found.values()} == {torch.float32}
    # The base rounds to 8 bits, and a batch of one rounds elsewhere; a wrong factor or a lost record is far outside.
    expected = by_definition(model, [batch[row : row + 1] for row in range(len(LENGTHS))])
    assert deviation(found, expected) <= 0.1


@engines
def test_a_base_whose_linear_layers_have_a_bias(name) -> None:
    """As those of Qwen2 and Starcoder2 have; a model that was just made has zeros there, which would tell nothing."""
    biased = LlamaConfig(**SHAPE, **HEADS, **TOKENS, attention_bias=True, mlp_bias=True)
    base, generator = LlamaForCausalLM(biased).double(), torch.Generator().manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=6, target_modules=list(SEVEN))).double().train()
    biases = [parameter for path, parameter in model.named_parameters() if path.endswith(".bias")]
    assert len(biases) == 2 * len(SEVEN)
    for parameter in (*biases, *lora_parameters(model).values()):
        parameter.data.normal_(std=0.2, generator=generator)
    batch = tokens()
    expected = by_definition(model, [batch.unpadded(row) for row in range(len(LENGTHS))])
    with engine_of(name)(model) as engine:
        found = engine.gradients(KEYS, lambda: losses(model, batch))
    assert deviation(found, expected, by_tensor=True) <= 1e-12


@engines
@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_a_frozen_base_of_4_bits(checkpointing, name) -> None:
    base = LlamaForCausalLM(LlamaConfig(**(SHAPE | {"hidden_size": 64, "intermediate_size": 64}), **HEADS, **TOKENS))
    try:
        base = quantise(base, "nf4", "tiny")
    except ConfigError as error:
        pytest.skip(f"4-bit weights do not work here: {error}")
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=6, target_modules=list(SEVEN)))
    assert any(type(layer).__name__ == "Linear4bit" for _, layer in lora_layers(model))
    generator = torch.Generator().manual_seed(0)
    for parameter in lora_parameters(model).values():
        parameter.data.normal_(std=0.2, generator=generator)
    model.train()
    batch = tokens()
    expected = by_definition(model, [batch[row : row + 1] for row in range(len(LENGTHS))])
    if checkpointing is not None:
        base.activation_checkpointing_enable({"use_reentrant": checkpointing})
        base.enable_input_require_grads()
    with engine_of(name)(model) as engine:
        found = engine.gradients(KEYS, lambda: losses(model, batch))
    assert deviation(found, expected) <= 1e-6
