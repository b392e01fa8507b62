"""What private training refuses, by name, before anything is computed.

A per-sample gradient is the gradient of one record's loss in *all* that is trained, and its clipping bounds the
record's influence only if nothing else lets records meet. Each kind below breaks one of the two, or has per-sample
gradients that no engine here computes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fedsec.training.lora import MODULES
from fedsec.training.private.buckets import STEP, bucket_width
from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

_PLAIN = "use plain LoRA on linear layers"
_EXPERTS = "mixture-of-experts adapters"
_EXPERT_PATH = re.compile(r"(^|\.)experts?(\.|$)")
_ROUTED_PATH = re.compile(r"(^|\.)(experts?|router\w*)(\.|$)")
"""Experts may be rows of an embedding, and a router is then all that is called so (Doge)."""
_POSITIONS_NAME = re.compile(r"wpe|position")
_RANDOM_FIELD = re.compile(r"drop|jitter")
_HEADS_FIELD = re.compile(r"classif|summary")
"""Of heads that a language model does not have, though its configuration speaks of them."""
_PICKED_FIELD = re.compile(r"keep_window_size|index_topk(_blocks)?")
"""How many tokens, or blocks of them, an attention picks of all before (Doge; DeepSeek-V3.2 and those after it)."""
_PACKING_ARGUMENTS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")


@dataclasses.dataclass(frozen=True)
class _Rule:
    """``found`` gives what a configuration has of the refused ``kind``, or something false."""

    kind: str
    expected: str
    found: Callable[[Any], object]
    advice: str


_RULES = (
    _Rule(
        "DoRA",
        "use_dora=False",
        lambda c: c.use_dora and "use_dora=True",
        f"its magnitudes are normalised over whole rows of the weights; {_PLAIN}",
    ),
    _Rule(
        "LoRA bias",
        'lora_bias=False and bias="none"',
        lambda c: (c.lora_bias and "lora_bias=True") or (c.bias != "none" and f"bias={c.bias!r}"),
        "an unclipped bias would leave its site; train the factors only",
    ),
    _Rule(
        _EXPERTS,
        "no target_parameters and no arrow_config",
        lambda c: (
            (c.target_parameters and f"target_parameters={c.target_parameters}")
            or (c.arrow_config and "an arrow_config")
        ),
        "routed tokens lose their record; target the attention's linear layers",
    ),
    _Rule(
        "tensors trained besides LoRA factors",
        "no modules_to_save and no trainable_token_indices",
        lambda c: (
            (c.modules_to_save and f"modules_to_save={c.modules_to_save}")
            or (c.trainable_token_indices and "trainable_token_indices")
        ),
        "they would be trained unclipped; train the factors only",
    ),
    _Rule(
        "a LoRA variant",
        "plain LoRA",
        lambda c: ", ".join(_variants(c)),
        f"its gradients are not those of two factors; {_PLAIN}",
    ),
)


def require_supported_config(config: PeftConfig) -> None:
    """Raise ConfigError, naming the kind, for an adapter configuration whose training cannot be made private."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        names = {"VERA": "VeRA", "XLORA": f"{_EXPERTS} (X-LoRA)"}
        _refuse(names.get(kind, f"adapter kind {kind}"), "peft_type LORA", kind, _PLAIN)
    for rule in _RULES:
        if found := rule.found(config):
            _refuse(rule.kind, rule.expected, str(found), rule.advice)


def require_supported(model: PeftModel) -> None:
    """Raise ConfigError, naming the kind, for a model whose adapters or base cannot be trained privately.

    The configuration is looked at first, then the modules themselves: what they compute is what counts.
    """
    configs: Mapping[str, PeftConfig] | None = getattr(model, "peft_config", None)
    if not configs:
        _refuse("a model without adapters", "LoRA modules", type(model).__name__, "attach them first")
    else:
        if set(configs) != {MODULES}:
            _refuse("several adapters", f"one, named {MODULES}", ", ".join(sorted(configs)), "delete the others")
        require_supported_config(configs[MODULES])
    layers = dict(lora_layers(model))
    for path, layer in layers.items():
        _require_layer(path, layer)
    if not layers:
        _refuse("a model without adapters", "LoRA modules", type(model).__name__, "attach them first")
    _require_trained(model, layers)
    _require_base(model)


def require_base(model: torch.nn.Module, batch_size: int, max_tokens: int) -> None:
    """Raise ConfigError unless a base model, with adapters or without, computes each record's loss from it alone.

    Where tokens are routed to experts, or attention picks those that count most, only a record without batch-mates is
    alone: which is taken jumps where two are as likely, and what mates move, a last digit, may be enough. A gradient
    then changes by far more than the slack that `mechanism` has for mates.

    Where a table holds the positions, it has to be as wide as records of ``max_tokens`` are padded: at the end of a
    shorter one only those steps would fail that draw a long record, which tells of it.
    """
    _require_base(model)
    _require_positions(model, max_tokens)
    routed = next((path for path, _ in model.named_modules() if _ROUTED_PATH.search(path)), None)
    if routed is not None and batch_size > 1:
        found = f"training.batch_size {batch_size} and experts at {routed}"
        _refuse("records routed together", "one record at a time", found, "set training.batch_size = 1")
    picks = _picks(model, bucket_width(max_tokens))
    if picks is not None and batch_size > 1:
        kind, found = "records whose tokens are picked together", f"training.batch_size {batch_size} and {picks}"
        _refuse(kind, "one record at a time", found, "set training.batch_size = 1")


def require_unpacked(inputs: Mapping[str, Any], records: int) -> None:
    """Raise ConfigError unless a model's keyword arguments hold one record a row, ``records`` of them.

    Refused are other numbers of rows than records, the arguments of packed attention kernels, masks of more than two
    dimensions or with other values than 0 and 1, and position ids that start again inside a row.
    """
    kind, advice = "packed sequences", "put each record in a row of its own, padded"
    given = [name for name in _PACKING_ARGUMENTS if inputs.get(name) is not None]
    if given:
        _refuse(kind, "padded rows", f"the argument {given[0]}", advice)
    for name in ("input_ids", "inputs_embeds"):
        tokens = inputs.get(name)
        if tokens is not None and tokens.shape[0] != records:
            _refuse(kind, f"{records} rows for {records} records", f"{name} of {tokens.shape[0]} rows", advice)
    mask = inputs.get("attention_mask")
    if mask is not None:
        if getattr(mask, "ndim", None) != 2:
            _refuse(kind, "attention_mask [n, t]", "another layout", advice)
        if bool(((mask != 0) & (mask != 1)).any()):
            _refuse(kind, "attention_mask of 0 and 1", "other values (segment numbers?)", advice)
    positions = inputs.get("position_ids")
    if positions is not None and _restarts(positions, mask):
        _refuse(kind, "position_ids that rise in each row", "position_ids that start again", advice)


def lora_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and module of everything that peft put an adapter on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer))


def _require_layer(path: str, layer: Any) -> None:
    from peft.tuners import lora

    # the last two exist where bitsandbytes does
    kinds = [getattr(lora, name, None) for name in ("Linear", "Linear4bit", "Linear8bitLt")]
    if isinstance(layer, lora.Embedding):
        _refuse("LoRA on embeddings", "linear layers", path, "its input is no activation; leave it out of the targets")
    if type(layer).__name__ == "ParamWrapper" or _EXPERT_PATH.search(path):
        _refuse(_EXPERTS, "layers that see every token of a record", path, "target the attention's linear layers")
    if type(layer) not in kinds:
        _refuse("an adapter layer", "LoRA on a linear layer", f"{type(layer).__name__} at {path}", _PLAIN)
    if any(layer.use_dora.values()):
        _refuse("DoRA", "use_dora=False", f"use_dora=True at {path}", _PLAIN)
    if any(layer.lora_bias.values()):
        _refuse("LoRA bias", "lora_bias=False", f"lora_bias=True at {path}", "train the factors only")
    if layer.lora_variant:
        _refuse("a LoRA variant", "plain LoRA", f"{', '.join(layer.lora_variant)} at {path}", _PLAIN)
    if set(layer.lora_A) != {MODULES} or list(layer.active_adapters) != [MODULES] or layer.merged:
        _refuse("several adapters", f"{MODULES} alone, active and not merged", path, "delete or unmerge the others")


def _require_trained(model: PeftModel, layers: Mapping[str, Any]) -> None:
    """Only factors are trained, and in a precision that a record's gradient survives."""
    import torch

    factors = {
        id(side[MODULES].weight): f"{path}.{name}"
        for path, layer in layers.items()
        for name, side in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in factors:
            _refuse("tensors trained besides LoRA factors", "none", name, "freeze it: it would be trained unclipped")
        if id(parameter) in factors and parameter.dtype not in {torch.float32, torch.float64}:
            _refuse("LoRA factors in half precision", "float32", f"{parameter.dtype} at {name}", "keep them in float32")


def _require_base(model: torch.nn.Module) -> None:
    """Nothing may depend on other records, on where one stands in its batch, or on a generator."""
    import torch

    for path, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            _refuse("batch normalisation", "layers that treat records alone", path, "use another base model")
        if "dynamic" in _rotary(module):
            advice = "it keeps the scale of the longest record before; set another rope_type in the base's config"
            _refuse("dynamic rotary positions", "a rope_type that remembers no record", f"dynamic at {path}", advice)
        drops = isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0
        if drops and ".lora_dropout." not in path:
            _refuse("dropout in the base model", "none", f"p={module.p} at {path}", "set it to 0 in the base's config")
    for name, value in _random_fields(_text_config(model)):
        _refuse("dropout in the base model", "none", f"{name}={value}", "set it to 0 in the base's config")


def _text_config(model: torch.nn.Module) -> Mapping[str, Any]:
    """Of the part that reads text; empty for a model without a configuration."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return text.to_dict() if hasattr(text, "to_dict") else {}


def _picks(model: torch.nn.Module, width: int) -> str | None:
    """What a configuration calls its attention's picking, where fewer are picked than a padded record has tokens."""
    fields = ((name, n) for name, n in _text_config(model).items() if _PICKED_FIELD.fullmatch(name))
    return next((f"{name}={n}" for name, n in fields if isinstance(n, int) and 0 < n < width), None)


def _require_positions(model: torch.nn.Module, max_tokens: int) -> None:
    import torch

    width = bucket_width(max_tokens)
    for path, module in model.named_modules():
        is_table = isinstance(module, torch.nn.Embedding) and _POSITIONS_NAME.search(path.rsplit(".", 1)[-1])
        if is_table and module.num_embeddings < width:
            _refuse(
                "a base with fewer positions than records are padded to",
                f"{width} for training.max_tokens {max_tokens}",
                f"{module.num_embeddings} at {path}",
                f"set training.max_tokens = {module.num_embeddings // STEP * STEP - 1}",
            )


def _random_fields(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every share above 0 of what is dropped or jittered in training, in the parts of a configuration too.

    Models have some forty names for it, and draw it from a generator that seeds, and batches before, decide about.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _random_fields(value)
        elif _is_random(str(name)) and isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            yield str(name), value


def _is_random(field: str) -> bool:
    return bool(_RANDOM_FIELD.search(field)) and not _HEADS_FIELD.search(field)


def _rotary(module: torch.nn.Module) -> str:
    """The kinds of rotary positions of a module, which may have one for each kind of layer; empty where it has none."""
    kinds = getattr(module, "rope_type", "")
    return " ".join(map(str, kinds.values())) if isinstance(kinds, Mapping) else str(kinds)


def _variants(config: Any) -> list[str]:
    marked = [f.name for f in dataclasses.fields(config) if f.metadata.get("is_lora_variant")]
    other = ["use_qalora", "ensure_weight_tying"]
    found = [name for name in (*marked, *other) if getattr(config, name, None)]
    return found + (["mica"] if config.init_lora_weights == "mica" else [])


def _restarts(positions: torch.Tensor, mask: torch.Tensor | None) -> bool:
    falls = positions[..., 1:] <= positions[..., :-1]
    if mask is not None and mask.shape == positions.shape:
        falls = falls & (mask[..., 1:] == 1) & (mask[..., :-1] == 1)  # what stands in padding is nobody's position
    return bool(falls.any())


def _refuse(kind: str, expected: str, found: str, advice: str) -> None:
    raise ConfigError(f"private training refuses {kind}: expected {expected}, found {found}; {advice}")
