"""What pins a base model: one digest over weights, configuration and tokenizer.

A tokenizer or a rotary base that differs changes the function as surely as a weight does, so the plan's
``model.weights_sha256`` covers all three. It depends on the dtype that the plan names, not on the file format that the
weights came from.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHUNK_ELEMENTS = 1 << 22
_NOT_STRUCTURE = frozenset(
    {
        # where it came from and which software wrote it
        "_name_or_path",
        "name_or_path",
        "architectures",
        "dtype",
        "quantization_config",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        # how it is run
        "_attn_implementation",
        "attn_implementation",
        "chunk_size_feed_forward",
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "return_dict",
        "use_cache",
        # what other kinds of model use
        "id2label",
        "label2id",
        "problem_type",
    }
)
"""Configuration fields that do not change the function of the weights."""


def weights_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, hex, over the three digests below: the value of ``model.weights_sha256`` in a plan.

    Call it before quantisation and before LoRA is attached.
    """
    parts = (tensor_digest(model), config_digest(model), tokenizer_digest(tokenizer))
    return hashlib.sha256(b"fedsec/base-model/v1\0" + b"".join(parts)).hexdigest()


def tensor_digest(model: PreTrainedModel) -> bytes:
    """SHA-256 over each parameter, sorted by name: name, dtype, shape, and its bytes in row-major little-endian order.

    A tied parameter counts once, under the first of its names. Buffers are left out: they follow from the
    configuration. Tensors are hashed in place, in chunks, so no second copy of the model is made.
    """
    h = hashlib.sha256(b"fedsec/weights/v1\0")
    for name, parameter in sorted(model.named_parameters(remove_duplicate=True)):
        head = f"{name}\0{str(parameter.dtype).removeprefix('torch.')}\0{tuple(parameter.shape)}\0"
        h.update(head.encode("utf-8"))
        _update(h, parameter.detach())
    return h.digest()


def config_digest(model: PreTrainedModel) -> bytes:
    """SHA-256 over the class name and the configuration's fields that shape the function."""
    fields: dict[str, Any] = {
        key: value for key, value in model.config.to_dict().items() if key not in _NOT_STRUCTURE and value is not None
    }
    text = json.dumps([type(model).__name__, fields], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(b"fedsec/config/v1\0" + text.encode("utf-8")).digest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """SHA-256 over what the tokenizer does: its pipeline and vocabulary, and the ids of its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pipeline: dict[str, Any]
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        for state in ("truncation", "padding"):  # set by the last call, no part of the identity
            pipeline.pop(state, None)
    else:
        pipeline = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    text = json.dumps([special, pipeline], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(b"fedsec/tokenizer/v1\0" + text.encode("utf-8")).digest()


def _update(h: Any, tensor: torch.Tensor) -> None:
    import torch

    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK_ELEMENTS):
        chunk = flat[start : start + _CHUNK_ELEMENTS].cpu().contiguous().view(torch.uint8)
        h.update(chunk.numpy().data)
