"""The own engine: per-sample gradients of LoRA linears from what the backward pass holds anyway.

For a layer y = W x + s B A (m * x) (Hu et al. 2021, arXiv 2106.09685, section 4.1) and the record i with rows x_i
[t, in], h_i = (m_i * x_i) A^T [t, r] and output gradient g_i [t, out]:

    dB_i = s g_i^T h_i          dA_i = (s g_i B)^T (m_i * x_i)

Both are one batched product on the rank side, with as many multiplications as the summed gradients that they replace,
so a private step costs what a plain one does; "ghost" clipping, which saves wide products by a second backward pass
(Li et al. 2022, arXiv 2110.05679, section 4), has nothing to save here. The flat norm is known only when the backward
pass is over, so per-sample gradients of one physical batch are kept until then: n (r (in + out)) values a layer.

The products run in the factors' dtype (float32; float64 in tests), whatever the base's. Base weights are only read,
so they may be quantised. Gradients are deposited in the backward pass, which runs once for each use of a layer under
either kind of checkpointing, however often the forward pass is run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fedsec.training.lora import MODULES
from fedsec.training.private.base import LoraEngine
from fedsec_secure.errors import LocalMisuseError


class Sink:
    """Where one pass's per-sample gradients are collected; closed between passes."""

    def __init__(self) -> None:
        self.records: int | None = None
        self.found: dict[str, torch.Tensor] = {}

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Add ``gradient`` [n, *shape]; a layer that is used several times adds up."""
        if self.records is None:
            raise LocalMisuseError("per-sample gradients outside a pass: a graph of an earlier pass was used again")
        before = self.found.get(name)
        self.found[name] = gradient if before is None else before.add_(gradient)


class Branch:
    """One LoRA layer as `PerSampleLinear` sees it. ``names``: of A and B, as in an adapter."""

    def __init__(self, layer: Any, names: tuple[str, str], previous: Callable[..., torch.Tensor], sink: Sink) -> None:
        self.layer, self.names, self.previous, self.sink = layer, names, previous, sink
        base = layer.get_base_layer()
        self.plain = type(base) is torch.nn.Linear and base.bias is None

    @property
    def scaling(self) -> float:
        """s = alpha / r."""
        return float(self.layer.scaling[MODULES])


class PerSampleLinear(torch.autograd.Function):
    """``apply(x, weight, a, b, mask, branch)``: `fedsec.training.fused.LoraLinear` with per-sample gradients.

    x: [n, ..., in]. weight: [out, in], frozen, or None for the LoRA branch alone. a: [r, in]. b: [out, r]. mask: like
    x, or None. All of one dtype. Gives [n, ..., out]. a and b themselves get no gradient: their per-sample gradients
    go to ``branch.sink``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        mask: torch.Tensor | None,
        branch: Branch,
    ) -> torch.Tensor:
        """The layer's output, or that of its LoRA branch."""
        flat = x.reshape(-1, x.shape[-1])
        dropped = flat if mask is None else flat * mask.view_as(flat)
        low = dropped @ a.t()
        ctx.save_for_backward(dropped, low, weight, a, b, mask)
        ctx.branch, ctx.records, ctx.scaling = branch, x.shape[0], branch.scaling
        if weight is None:
            out = (low @ b.t()).mul_(branch.scaling)
        else:
            out = (flat @ weight.t()).addmm_(low, b.t(), alpha=branch.scaling)
        return out.view(*x.shape[:-1], b.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of x; those of a and b, record by record, go to the sink."""
        dropped, low, weight, a, b, mask = ctx.saved_tensors
        (grad,) = grads
        needs_x, _, needs_a, needs_b, *_ = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        grad_low = (flat @ b).mul_(ctx.scaling) if needs_x or needs_a else None
        name_a, name_b = ctx.branch.names
        if needs_b:
            ctx.branch.sink.add(name_b, _products(ctx.records, flat, low).mul_(ctx.scaling))
        if needs_a and grad_low is not None:
            ctx.branch.sink.add(name_a, _products(ctx.records, grad_low, dropped))
        grad_x = None
        if needs_x and grad_low is not None:
            through_a = grad_low @ a if weight is None or mask is not None else None
            if through_a is not None and mask is not None:
                through_a.mul_(mask.view_as(dropped))
            if weight is None:
                grad_x = through_a
            elif through_a is None:
                grad_x = (flat @ weight).addmm_(grad_low, a)
            else:
                grad_x = (flat @ weight).add_(through_a)
            assert grad_x is not None
            grad_x = grad_x.view(*grad.shape[:-1], a.shape[1])
        return grad_x, None, None, None, None, None


class PerSampleLora(LoraEngine):
    """Own engine, ``own``: next to no time and n times the factors' memory on top of a plain step."""

    name = "own"

    def __init__(self, model: Any) -> None:
        self._sink = Sink()
        super().__init__(model)

    def _attach(self, path: str, layer: Any) -> None:
        names = (f"{path}.lora_A.weight", f"{path}.lora_B.weight")
        branch = Branch(layer, names, layer.forward, self._sink)
        self._replace_forward(layer, partial(_forward, branch))

    def _begin(self, records: int) -> None:
        self._sink.records = records

    def _collect(self) -> dict[str, torch.Tensor]:
        return {name: self._sink.found[name] for name in self._trained if name in self._sink.found}

    def _end(self) -> None:
        self._sink.records, self._sink.found = None, {}


def _products(records: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Record by record left_i^T right_i: [n t, p] and [n t, q] give [n, p, q]."""
    left, right = (side.view(records, -1, side.shape[-1]) for side in (left, right))
    return torch.bmm(left.transpose(1, 2), right)


def _forward(branch: Branch, x: torch.Tensor) -> torch.Tensor:
    layer, records = branch.layer, branch.sink.records
    if records is None or not layer.training or layer.disable_adapters or layer.merged:
        return branch.previous(x)
    if x.ndim < 2 or x.shape[0] != records:
        raise LocalMisuseError(
            f"private training: layer {branch.names[0]}: expected [n, ..., in] with n = {records} records first, found "
            f"{list(x.shape)}; use a base model that keeps its batch first"
        )
    a, b = layer.lora_A[MODULES].weight, layer.lora_B[MODULES].weight
    base = layer.get_base_layer()
    dropout = layer.lora_dropout[MODULES]
    out: torch.Tensor
    if branch.plain and x.dtype == base.weight.dtype == a.dtype:
        out = PerSampleLinear.apply(x, base.weight, a, b, dropout.mask(x), branch)  # type: ignore[no-untyped-call]
        return out
    plain: torch.Tensor = base(x)
    wide = x.to(a.dtype)
    out = PerSampleLinear.apply(wide, None, a, b, dropout.mask(wide), branch)  # type: ignore[no-untyped-call]
    return (plain + out).to(plain.dtype)
