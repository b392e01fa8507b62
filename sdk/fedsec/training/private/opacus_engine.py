"""The engine ``opacus``: the same gradients by the hooks of an independent library.

Opacus (Yousefpour et al. 2021, arXiv 2109.12298) is what the own engine is compared with, and about a tenth slower. It
keeps every layer's input until the backward pass, so checkpointing saves less memory than it does elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch

from fedsec.training.lora import MODULES
from fedsec.training.private.base import LoraEngine
from fedsec_secure.errors import ConfigError, LocalMisuseError


class OpacusLora(LoraEngine):
    """Per-sample gradients by Opacus' ``GradSampleHooks``; ConfigError where opacus is not installed."""

    name = "opacus"

    def __init__(self, model: Any) -> None:
        hooks = _hooks_class()
        self._hooked: list[torch.nn.Module] = []
        super().__init__(model)
        try:
            self._hooks = hooks(model, batch_first=True, loss_reduction="sum", strict=True)
        except BaseException:
            self.close()
            raise
        self._hooks.disable_hooks()
        self._undo.append(self._hooks.cleanup)

    def _attach(self, path: str, layer: Any) -> None:
        self._replace_forward(layer, None)  # the fused layer never calls the modules that the hooks sit on
        self._hooked += [layer.lora_A[MODULES], layer.lora_B[MODULES]]

    def _begin(self, records: int) -> None:
        self._hooks.enable_hooks()

    def _collect(self) -> dict[str, torch.Tensor]:
        found = {}
        for name, parameter in self._trained.items():
            gradient = getattr(parameter, "grad_sample", None)
            if isinstance(gradient, list):
                raise LocalMisuseError(f"opacus: {name} has gradients of {len(gradient)} passes; close the engine")
            if gradient is not None:
                found[name] = gradient
        return found

    def _end(self) -> None:
        """Nothing of a pass stays, of a failed one neither: Opacus would add it to the next."""
        self._hooks.disable_hooks()
        for module in self._hooked:
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for parameter in self._trained.values():
            parameter.__dict__.pop("_current_grad_sample", None)
            parameter.__dict__.update(grad_sample=None, _forward_counter=0)
            parameter.grad = None  # the unclipped sum, which must reach no optimiser


def _hooks_class() -> Any:
    try:
        from opacus.grad_sample import GradSampleHooks
    except ImportError as error:
        raise ConfigError(
            "per-sample engine opacus: expected the package opacus, found none; install it (pip install "
            "'opacus>=1.6,<2'), or use the engine own"
        ) from error

    class Hooks(GradSampleHooks):  # type: ignore[misc]
        """Opacus' hooks, made to work under checkpointing that is not reentrant.

        There a layer's forward pass runs with gradients twice before its backward pass: Opacus would count two uses,
        wait for a second backward pass, and give no gradient at all.
        """

        def capture_activations_hook(self, module: Any, forward_input: Any, forward_output: Any) -> None:
            if torch._C._current_graph_task_id() != -1 and getattr(module, "activations", None):
                return  # recomputed during the backward pass; the first pass's activations are here still
            super().capture_activations_hook(module, forward_input, forward_output)

    return Hooks
