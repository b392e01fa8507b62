"""Each kind that cannot be made private is refused by its name, one by one."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from types import SimpleNamespace

import peft
import pytest
import torch
from transformers import (
    DogeConfig,
    DogeForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from fedsec.training.lora import lora_parameters
from fedsec.training.private.buckets import bucket_width
from fedsec.training.private.engine import engine_of
from fedsec.training.private.refusals import (
    require_base,
    require_supported,
    require_supported_config,
    require_unpacked,
)
from fedsec_secure.errors import ConfigError
from tests.unit.training.private_models import HEADS, KEYS, MODELS, SHAPE, TOKENS, build, losses, tokens
from tests.unit.training.test_private_agreement import engines


def llama(**changes: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, **TOKENS, **changes))


def lora(**changes: object) -> peft.LoraConfig:
    return peft.LoraConfig(**({"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | changes))


class Expert(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(4, 4)


class Routed(torch.nn.Module):
    """Token routing as older mixtures do it: a list of linear experts; and as newer ones do: one stacked tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList([Expert(), Expert()])
        self.stacked = Stacked()


class Stacked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 4, 4))


class Normed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)


def build_gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=32, **TOKENS, **drops))


def stretching() -> LlamaForCausalLM:
    """Positions are scaled for the longest record so far, once one is longer than 8 tokens."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    return llama(max_position_embeddings=8, rope_parameters=rope)


def two_adapters() -> peft.PeftModel:
    model = peft.get_peft_model(llama(), lora())
    model.add_adapter("second", lora())
    return model


class Convolved(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv1d(4, 4, 3)


MADE = {
    "DoRA": lambda: peft.get_peft_model(llama(), lora(use_dora=True)),
    "LoRA on embeddings": lambda: peft.get_peft_model(llama(), lora(target_modules=["q_proj", "embed_tokens"])),
    "LoRA bias": lambda: peft.get_peft_model(build_gpt2(), lora(lora_bias=True, target_modules=["c_attn"])),
    "VeRA": lambda: peft.get_peft_model(llama(), peft.VeraConfig(r=2, target_modules=["q_proj"])),
    "mixture-of-experts adapters": lambda: peft.get_peft_model(Routed(), peft.LoraConfig(r=2, target_modules=["up"])),
    "tensors trained besides": lambda: peft.get_peft_model(llama(), lora(modules_to_save=["lm_head"])),
    "batch normalisation": lambda: peft.get_peft_model(Normed(), peft.LoraConfig(r=2, target_modules=["q_proj"])),
    "dynamic rotary positions": lambda: peft.get_peft_model(stretching(), lora()),
    "adapter kind IA3": lambda: peft.get_peft_model(
        llama(), peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    ),
    "several adapters": two_adapters,
    "an adapter layer": lambda: peft.get_peft_model(Convolved(), peft.LoraConfig(r=2, target_modules=["mix"])),
    "dropout in the base model": lambda: peft.get_peft_model(build_gpt2(0.1), lora(target_modules=["c_attn"])),
    "half precision": lambda: peft.get_peft_model(llama(), lora()).bfloat16(),
    "a model without adapters": llama,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MADE)
def test_a_model_of_this_kind_is_refused_by_its_name(kind) -> None:
    model = MADE[kind]()
    with pytest.raises(ConfigError, match=f"private training refuses [^:]*{kind}.*: expected .*, found .*; "):
        require_supported(model)


@engines
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MADE)
def test_no_engine_is_made_for_such_a_model(kind, name) -> None:
    """It is the engine that asks, so nothing that trains by one can forget to."""
    with pytest.raises(ConfigError, match=f"private training refuses [^:]*{kind}"):
        engine_of(name)(MADE[kind]())


STILL = {"residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0}
RANDOM = {
    "residual_dropout=0.1": lambda: Starcoder2ForCausalLM(
        Starcoder2Config(**SHAPE, **HEADS, **TOKENS, **(STILL | {"residual_dropout": 0.1}))
    ),
    "router_jitter_noise=0.1": lambda: MixtralForCausalLM(
        MixtralConfig(**SHAPE, **HEADS, **TOKENS, num_local_experts=2, router_jitter_noise=0.1)
    ),
    "layerdrop=0.1": lambda: OPTForCausalLM(
        OPTConfig(vocab_size=61, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=64, word_embed_proj_dim=16, dropout=0.0, layerdrop=0.1, **TOKENS)
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", RANDOM)
def test_whatever_a_base_calls_its_dropout_it_is_refused(found) -> None:
    model = peft.get_peft_model(RANDOM[found](), lora())
    with pytest.raises(ConfigError, match=rf"refuses dropout in the base model: expected none, found {found};"):
        require_supported(model)


def test_records_are_routed_to_experts_one_at_a_time() -> None:
    """Rounding that depends on batch-mates may send a token to another expert."""
    experts = MixtralForCausalLM(MixtralConfig(**SHAPE, **HEADS, **TOKENS, num_local_experts=2))
    require_supported(peft.get_peft_model(experts, lora()))
    require_base(experts, 1, 40)
    require_base(llama(), 2, 40)
    found = r"found training\.batch_size 2 and experts at model\.layers\.0\.mlp\.experts; set training\.batch_size = 1"
    with pytest.raises(ConfigError, match=rf"refuses records routed together: expected one record at a time, {found}"):
        require_base(experts, 2, 40)


def test_experts_that_are_rows_of_an_embedding_count_too() -> None:
    """Nothing in such a model is called an expert: its router is."""
    routed = DogeForCausalLM(DogeConfig(**SHAPE, **HEADS, **TOKENS, is_moe=True, num_experts=16, num_experts_per_tok=2))
    require_base(DogeForCausalLM(DogeConfig(**SHAPE, **HEADS, **TOKENS)), 2, 40)
    require_base(routed, 1, 40)
    with pytest.raises(ConfigError, match=r"refuses records routed together: .* model\.layers\.0\.mlp\.router_gate"):
        require_base(routed, 2, 40)


def test_attention_that_picks_tokens_sees_one_record_at_a_time() -> None:
    """It picks only among more than it may keep: records of 40 tokens are padded to 64."""
    picking = DogeForCausalLM(DogeConfig(**SHAPE, **HEADS, **TOKENS, keep_window_size=63))
    require_base(picking, 1, 40)
    require_base(picking, 2, 31)
    require_base(DogeForCausalLM(DogeConfig(**SHAPE, **HEADS, **TOKENS, keep_window_size=64)), 2, 40)
    found = r"found training\.batch_size 2 and keep_window_size=63"
    with pytest.raises(ConfigError, match=rf"refuses records whose tokens are picked together: .* {found}; set train"):
        require_base(picking, 2, 40)


def test_a_module_s_own_dropout_counts_where_no_configuration_speaks_of_it() -> None:
    base = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.2))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"], lora_dropout=0.1))
    with pytest.raises(
        ConfigError, match=r"refuses dropout in the base model: .* found p=0\.2 at base_model\.model\.1;"
    ):
        require_supported(model)
    base[1].p = 0.0
    require_supported(model)


@pytest.mark.parametrize("refused", [False, True])
def test_one_kind_of_layer_with_dynamic_positions_is_enough(refused) -> None:
    """Where a base has positions of several kinds, its rotary module has the kind of each in a mapping."""
    plain = {"rope_type": "default", "rope_theta": 1e4}
    rope = {"sliding_attention": plain, "full_attention": plain}
    if refused:
        rope = rope | {"full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    config = Gemma3TextConfig(
        **SHAPE,
        **HEADS,
        **TOKENS,
        head_dim=8,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=rope,
    )
    model = peft.get_peft_model(Gemma3ForCausalLM(config), lora())
    with pytest.raises(ConfigError, match="refuses dynamic rotary positions") if refused else nullcontext():
        require_supported(model)


def test_a_table_of_positions_is_as_long_as_records_are_padded() -> None:
    """Else a step fails where it draws a long record, and nowhere else."""
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=94, **TOKENS, **drops))
    require_base(base, 1, 63)
    base(input_ids=torch.ones((1, bucket_width(63)), dtype=torch.int64))
    found = r"expected 96 for training\.max_tokens 94, found 94 at transformer\.wpe; set training\.max_tokens = 63"
    with pytest.raises(ConfigError, match=rf"refuses a base with fewer positions than records are padded to: {found}"):
        require_base(base, 1, 94)
    with pytest.raises(IndexError):  # the fact behind the refusal
        base(input_ids=torch.ones((1, bucket_width(94)), dtype=torch.int64))


def test_a_part_of_a_configuration_counts_and_heads_that_are_not_there_do_not() -> None:
    model = peft.get_peft_model(llama(), lora())
    model.config.classifier_dropout = model.config.summary_first_dropout = 0.1
    model.config.id2label = {0: "dropped"}
    require_supported(model)
    model.config.attn_config = {"attn_pdrop": 0.2}
    with pytest.raises(ConfigError, match=r"refuses dropout in the base .* found attn_pdrop=0\.2"):
        require_supported(model)


@pytest.mark.parametrize("found", ["residual_dropout=0.1", "router_jitter_noise=0.1"])
def test_such_a_base_s_gradients_are_a_seed_s(found, monkeypatch) -> None:
    """The fact behind the refusal: draws of torch's generator, on which batches before decide."""
    monkeypatch.setattr("fedsec.training.private.base.require_supported", lambda model: None)
    torch.manual_seed(5)
    model = peft.get_peft_model(RANDOM[found](), lora(init_lora_weights=False)).train()
    batch = tokens()
    with engine_of("own")(model) as engine:
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(
                torch.cat([g.flatten() for g in engine.gradients(KEYS, lambda: losses(model, batch)).values()])
            )
    assert torch.equal(drawn[0], drawn[1])
    assert float((drawn[2] - drawn[0]).norm() / drawn[0].norm()) > 1e-3


def alone_in_the_configuration(model: peft.PeftModel) -> None:
    model.add_adapter("second", lora())
    del model.peft_config["second"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda model: model.peft_config.update(second=lora()), "default, second"),
        (alone_in_the_configuration, "base_model.model.model.layers.0.self_attn.q_proj"),
        (lambda model: model.merge_adapter(), "base_model.model.model.layers.0.self_attn.q_proj"),
        (lambda model: model.base_model.set_adapter([]), "base_model.model.model.layers.0.self_attn.q_proj"),
    ],
    ids=["configured", "in the layers", "merged", "not active"],
)
def test_one_adapter_computes_and_no_other(change, found) -> None:
    model = peft.get_peft_model(llama(), lora())
    require_supported(model)
    change(model)
    with pytest.raises(ConfigError, match=rf"refuses several adapters: expected .*, found {re.escape(found)}; delete"):
        require_supported(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["DoRA", "LoRA bias", "a LoRA variant"])
def test_the_modules_count_where_the_configuration_is_silent(kind) -> None:
    variant = {"a LoRA variant": lambda: peft.get_peft_model(llama(), lora(alora_invocation_tokens=[3]))}
    model = (MADE | variant)[kind]()
    model.peft_config["default"].use_dora = model.peft_config["default"].lora_bias = False
    model.peft_config["default"].alora_invocation_tokens = None
    with pytest.raises(ConfigError, match=f"refuses {kind}: .* at base_model"):
        require_supported(model)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (lora(use_dora=True), "DoRA"),
        (lora(lora_bias=True), "LoRA bias"),
        (lora(bias="lora_only"), "LoRA bias"),
        (lora(bias="all"), "LoRA bias"),
        (peft.VeraConfig(target_modules=["q_proj"]), "VeRA"),
        (lora(target_parameters=["experts.gate_up_proj"]), "mixture-of-experts adapters"),
        (lora(trainable_token_indices=[3]), "tensors trained besides LoRA factors"),
        (lora(modules_to_save=["lm_head"]), "tensors trained besides LoRA factors"),
        (lora(arrow_config=peft.ArrowConfig()), "mixture-of-experts adapters"),
        (lora(alora_invocation_tokens=[3]), "a LoRA variant"),
        (lora(use_qalora=True), "a LoRA variant: expected plain LoRA, found use_qalora;"),
        (lora(ensure_weight_tying=True), "a LoRA variant: expected plain LoRA, found ensure_weight_tying;"),
        (lora(init_lora_weights="mica"), "a LoRA variant: expected plain LoRA, found mica;"),
        (SimpleNamespace(peft_type="XLORA"), "mixture-of-experts adapters"),
        (peft.LoHaConfig(target_modules=["q_proj"]), "adapter kind LOHA"),
    ],
)
def test_a_configuration_of_this_kind_is_refused_by_its_name(config, kind) -> None:
    with pytest.raises(ConfigError, match=f"private training refuses {kind}"):
        require_supported_config(config)


def test_experts_in_one_stacked_tensor_are_refused() -> None:
    model = peft.get_peft_model(Routed(), peft.LoraConfig(r=2, target_modules=[], target_parameters=["stacked.weight"]))
    with pytest.raises(ConfigError, match="refuses mixture-of-experts adapters"):
        require_supported(model)
    model.peft_config["default"].target_parameters = None
    with pytest.raises(ConfigError, match="refuses mixture-of-experts adapters"):
        require_supported(model)


def test_dynamic_rotary_positions_do_remember_a_longer_record() -> None:
    """The fact behind the refusal; a record computed alone is not enough there."""
    torch.manual_seed(0)
    model, short, long = stretching(), torch.arange(12)[None], torch.arange(40)[None]
    with torch.no_grad():
        before = model(short).logits
        model(long)
        after = model(short).logits
    assert float((after - before).abs().max()) > 1e-6


def test_a_trained_base_tensor_is_refused() -> None:
    model = peft.get_peft_model(llama(), lora())
    require_supported(model)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"found base_model\.model\.model\.norm\.weight"):
        require_supported(model)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_supported_passes(kind) -> None:
    model = build(kind, dropout=0.3)
    require_supported(model)
    assert lora_parameters(model)


ROW = torch.arange(6)
PACKED = {
    "rows": {"input_ids": torch.zeros(1, 12, dtype=torch.int64)},
    "kernel arguments": {"cu_seq_lens_q": torch.tensor([0, 3, 6])},
    "a kernel's keys": {"cu_seq_lens_k": torch.tensor([0, 3, 6])},
    "an older kernel's": {"cu_seqlens": torch.tensor([0, 3, 6])},
    "a state space's": {"seq_idx": torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)},
    "block mask": {"attention_mask": torch.ones(2, 1, 6, 6)},
    "segment numbers": {"attention_mask": torch.tensor([[1, 1, 2, 2, 2, 0]] * 2)},
    "positions": {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)},
}


@pytest.mark.parametrize("how", PACKED)
def test_packed_sequences_are_refused(how) -> None:
    inputs = {
        "input_ids": torch.zeros(2, 6, dtype=torch.int64),
        "attention_mask": torch.ones(2, 6, dtype=torch.int64),
        "position_ids": torch.stack([ROW, ROW]),
    }
    require_unpacked(inputs, 2)
    require_unpacked({"input_ids": inputs["input_ids"]}, 2)
    left = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]]), "position_ids": torch.tensor([[1, 1, 0, 1, 2, 3]])}
    require_unpacked(left, 1)
    with pytest.raises(ConfigError, match="refuses packed sequences"):
        require_unpacked(inputs | PACKED[how], 2)


@engines
def test_an_engine_refuses_packed_sequences_whatever_the_losses_are_called(name) -> None:
    model, batch = build("llama"), tokens()
    with engine_of(name)(model) as engine:
        packed = batch.ids.view(1, -1)

        def values() -> torch.Tensor:
            return model(input_ids=packed).logits.view(len(KEYS), -1).square().mean(1)

        with pytest.raises(ConfigError, match="refuses packed sequences"):
            engine.gradients(KEYS, values)
        assert engine.gradients(KEYS, lambda: losses(model, batch))


@engines
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("how", ["segment numbers", "positions"])
def test_an_engine_refuses_them_also_where_they_are_given_without_their_names(kind, how, name) -> None:
    """Rows as many as records, with several sequences in each: nothing but these arguments tells."""
    model, batch = build(kind), tokens()
    decoder = model.get_base_model().get_decoder()
    places = list(inspect.signature(decoder.forward).parameters)
    halves = torch.tensor([[*range(7), *range(7)]] * len(KEYS))
    packed = {
        "segment numbers": {"attention_mask": torch.ones_like(batch.mask) + (halves.cumsum(1) > 21)},
        "positions": {"position_ids": halves},
    }

    def values(more: dict[str, torch.Tensor]) -> torch.Tensor:
        named = {"input_ids": batch.ids} | more
        given = [named.get(place) for place in places[: 1 + max(map(places.index, named))]]
        return decoder(*given).last_hidden_state.square().mean((1, 2))

    with engine_of(name)(model) as engine:
        with pytest.raises(ConfigError, match="refuses packed sequences"):
            engine.gradients(KEYS, lambda: values(packed[how]))
        assert engine.gradients(KEYS, lambda: values({"attention_mask": torch.ones_like(batch.mask)}))
