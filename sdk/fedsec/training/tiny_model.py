"""``tiny-random``: a two-layer Llama with a byte-level tokenizer, the same bits everywhere, for tests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fedsec.training.adapter import seeded_uniform

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_END, _PAD = "<|end|>", "<|pad|>"


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """One token a UTF-8 byte, plus end-of-sequence and padding: 258 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([_END, _PAD, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=_END, pad_token=_PAD, model_max_length=2048
    )
    return tokenizer


def tiny_model() -> PreTrainedModel:
    """Float32, 258 x 16 tied embeddings, 2 layers, 2 heads. Leaves torch's global generator as it was."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
                continue
            seed = hashlib.sha256(b"fedsec/tiny-random/v1\0" + name.encode()).digest()
            parameter.copy_(torch.from_numpy(seeded_uniform(seed, tuple(parameter.shape), 0.3)))
    model.name_or_path = "tiny-random"
    return model
