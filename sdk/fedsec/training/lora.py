"""LoRA modules on the base model, attached once; adapters are values that are copied in and out of them.

The base stays in its own dtype, the factors are float32 masters (peft casts activations around them).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from fedsec.plan.specs import LoraSpec
from fedsec.training.adapter import AdapterState
from fedsec_secure.errors import ConfigError, LocalMisuseError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from fedsec.training.base_model import BaseModel
    from fedsec.training.dropout import DropoutSeed

MODULES = "default"
"""The name under which peft keeps the one set of LoRA modules."""


def linear_names(base: BaseModel) -> list[str]:
    """The names that ``lora.targets`` may take: last parts of the linear layers' paths, without the output head."""
    return sorted({path.rsplit(".", 1)[-1] for path in _linear_layers(base)})


def lora_shapes(base: BaseModel, lora: LoraSpec) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the adapter that ``lora`` gives on ``base``: A is (r, in), B is (out, r). Canonical order."""
    _require_targets(base, lora)
    shapes: dict[str, tuple[int, ...]] = {}
    for path, (inner, outer) in _linear_layers(base).items():
        if path.rsplit(".", 1)[-1] in lora.targets:
            shapes[f"base_model.model.{path}.lora_A.weight"] = (lora.rank, inner)
            shapes[f"base_model.model.{path}.lora_B.weight"] = (outer, lora.rank)
    return dict(sorted(shapes.items()))


def attach_lora(base: BaseModel, lora: LoraSpec) -> PeftModel:
    """The base with LoRA modules of this shape: made on first use, reused afterwards, replaced when the shape changes.

    Peft changes the base in place, so there is one model in memory however many adapters take turns in it.
    Raises ConfigError where a target does not exist.
    """
    import peft
    import torch

    from fedsec.training.fused import fuse

    shape = lora.model_copy(update={"strategy": "fedit", "site_ranks": {}})  # the modules are the same for all
    slot = base.lora
    if slot.model is not None and slot.spec == shape:
        return slot.model
    _require_targets(base, lora)
    if slot.model is not None:
        slot.model.unload()
        if hasattr(base.model, "peft_config"):
            del base.model.peft_config
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # a float, as peft's scaling takes it
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # peft draws an initial A, which set_adapter_state replaces
        model = peft.get_peft_model(base.model, config)
    _replace_dropout(model, lora.dropout, slot.dropout)
    fuse(model)
    slot.spec, slot.model = shape, model
    return model


def lora_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Canonical name -> live float32 parameter, in canonical order."""
    marker = f".{MODULES}.weight"
    found = {
        name.replace(marker, ".weight"): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(marker) and (".lora_A." in name or ".lora_B." in name)
    }
    return dict(sorted(found.items()))


def set_adapter_state(model: PeftModel, state: AdapterState) -> None:
    """Copy an adapter's values into the model; LocalMisuseError unless names and shapes are exactly the model's."""
    import torch

    parameters = lora_parameters(model)
    if {name: tuple(p.shape) for name, p in parameters.items()} != state.shapes:
        raise LocalMisuseError(
            f"adapter of {len(state)} tensors does not fit the LoRA modules of this model ({len(parameters)} tensors): "
            "rank, targets or base model differ"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.array(state[name])))


def get_adapter_state(model: PeftModel) -> AdapterState:
    """A copy of the model's present LoRA values."""
    return AdapterState({name: p.detach().float().cpu().numpy() for name, p in lora_parameters(model).items()})


@contextmanager
def use_adapter(base: BaseModel, lora: LoraSpec | None, state: AdapterState | None) -> Iterator[None]:
    """For inference: the base with this adapter inside the block, or, with ``state`` None, without any.

    The model is in evaluation mode and no gradients are recorded. ``lora`` is needed with an adapter, for its alpha.
    """
    import torch

    plain: AbstractContextManager[object] = nullcontext()
    if state is None:
        plain = base.lora.model.disable_adapter() if base.lora.model is not None else plain
    elif lora is None:
        raise LocalMisuseError("an adapter needs the lora settings that it was made with, found none")
    else:
        # Before inference mode: modules made inside it could never be trained.
        set_adapter_state(attach_lora(base, lora), state)
    base.model.eval()  # after attaching: new modules start in training mode, with dropout
    with torch.inference_mode(), plain:
        yield


def _linear_layers(base: BaseModel) -> dict[str, tuple[int, int]]:
    """Path in the plain base model -> (input width, output width), for each linear layer but the output head."""
    import torch

    head = base.model.get_output_embeddings()
    layers = {}
    for path, module in base.model.named_modules():
        inner = module
        if ".lora_" in path or path.endswith(".base_layer"):
            continue
        if hasattr(module, "base_layer"):  # LoRA is attached already: look at what it wraps
            inner = module.base_layer
        if isinstance(inner, torch.nn.Linear) and inner is not head:
            layers[path] = (int(inner.in_features), int(inner.out_features))
    return layers


def _replace_dropout(model: PeftModel, probability: float, seed: DropoutSeed) -> None:
    from fedsec.training.dropout import SeededDropout

    for path, module in model.named_modules():
        layers = getattr(module, "lora_dropout", None)
        if layers is not None and MODULES in layers:
            layers[MODULES] = SeededDropout(probability, path, seed)


def _require_targets(base: BaseModel, lora: LoraSpec) -> None:
    known = linear_names(base)
    missing = [target for target in lora.targets if target not in known]
    if missing or not lora.targets:
        raise ConfigError(
            f"lora.targets: model {base.name} has no linear layer named {', '.join(missing) or '(none given)'}; "
            f"it has {', '.join(known)}"
        )
