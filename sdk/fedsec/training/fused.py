"""A linear layer and its LoRA branch as one differentiable operation.

y = W x + s B A (m * x), with s the LoRA scaling and m the dropout mask (Hu et al. 2021, arXiv 2106.09685, section 4.1).
Written out by hand it is ten operations a layer, forward and back, instead of some thirty: scaling and sum ride on
the matrix products, and nothing as large as the layer's output is made twice. On short notes that is most of what LoRA
costs.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from fedsec.training.lora import MODULES

if TYPE_CHECKING:
    from peft import PeftModel

    from fedsec.training.dropout import SeededDropout


class LoraLinear(torch.autograd.Function):
    """``apply(x, weight, a, b, scaling, mask)``.

    x: [..., in]. weight: [out, in], frozen. a: [r, in] and b: [out, r], trained. mask: like x, or None. All of one
    dtype. Gives [..., out].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The layer's output."""
        flat = x.reshape(-1, x.shape[-1])
        dropped = flat if mask is None else flat * mask.view_as(flat)
        low = dropped @ a.t()
        ctx.save_for_backward(dropped, low, weight, a, b, mask)
        ctx.scaling = scaling
        out = flat @ weight.t()
        return out.addmm_(low, b.t(), alpha=scaling).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, a and b, where they are asked for."""
        dropped, low, weight, a, b, mask = ctx.saved_tensors
        (grad,) = grads
        needs_x, _, needs_a, needs_b, *_ = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        grad_low = (flat @ b).mul_(ctx.scaling) if needs_x or needs_a else None
        grad_b = (flat.t() @ low).mul_(ctx.scaling) if needs_b else None
        grad_a = grad_low.t() @ dropped if needs_a and grad_low is not None else None
        grad_x = None
        if needs_x and grad_low is not None:
            grad_x = flat @ weight
            if mask is None:
                grad_x.addmm_(grad_low, a)
            else:
                grad_x.addcmul_(grad_low @ a, mask.view_as(dropped))
            grad_x = grad_x.view(*grad.shape[:-1], weight.shape[1])
        return grad_x, None, grad_a, grad_b, None, None


def fuse(model: PeftModel) -> int:
    """Let every LoRA layer over a plain linear layer without bias compute by `LoraLinear`; how many those are.

    Quantised layers and layers with a bias keep peft's forward pass.
    """
    from peft.tuners.lora import Linear

    layers = [m for m in model.modules() if type(m) is Linear and _is_plain(m.get_base_layer())]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(layer: torch.nn.Module) -> bool:
    return type(layer) is torch.nn.Linear and layer.bias is None


def _forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    weight, a = self.base_layer.weight, self.lora_A[MODULES].weight
    if self.disable_adapters or x.dtype != weight.dtype or a.dtype != weight.dtype:
        plain: torch.Tensor = type(self).forward(self, x)
        return plain
    dropout: SeededDropout = self.lora_dropout[MODULES]
    b, scaling = self.lora_B[MODULES].weight, self.scaling[MODULES]
    out: torch.Tensor = LoraLinear.apply(x, weight, a, b, scaling, dropout.mask(x))  # type: ignore[no-untyped-call]
    return out
