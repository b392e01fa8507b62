"""What an optimiser moves in a round, and how it stands in the model: the factors themselves, or Fed-SB's R.

For ``fed-sb`` a layer's module computes with A and B R in B's place, so that every forward pass, fused or not, and
every per-sample engine serves it as it is. The chain rule gives the rest: dL/dR = B^T dL/d(B R).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsec.training.adapter import AdapterState
from fedsec.training.lora import lora_parameters, set_adapter_state
from fedsec.training.square import factors_around, folded

if TYPE_CHECKING:
    from peft import PeftModel

Tensors = dict[str, torch.Tensor]


class Factors:
    """The trained tensors of a round where the model's own parameters are trained.

    Args:
        model: with LoRA modules attached.
        state: what the round starts from.
        names: the tensors of it that are trained, in canonical order.
    """

    def __init__(self, model: PeftModel, state: AdapterState, names: tuple[str, ...]) -> None:
        self._model, self._state, self._names = model, state, names

    @property
    def modules(self) -> frozenset[str]:
        """The model's parameters that need gradients, by their names in an adapter."""
        return frozenset(self._names)

    def load(self) -> dict[str, torch.nn.Parameter]:
        """The state's values into the model; what the optimiser moves, by name."""
        set_adapter_state(self._model, self._state)
        return {n: p for n, p in lora_parameters(self._model).items() if n in self._names}

    def gradients(self, found: Mapping[str, torch.Tensor]) -> Tensors:
        """Of the modules' gradients, [..., *shape] each, those of the trained tensors."""
        return {name: found[name] for name in self._names}

    def collect(self) -> None:
        """After a backward pass: gradients where the optimiser looks for them."""

    def write(self) -> None:
        """After the optimiser moved: its values into the model."""


class SquareFactors(Factors):
    """The same for Fed-SB: R is moved, B R stands in the model."""

    def __init__(self, model: PeftModel, state: AdapterState, names: tuple[str, ...]) -> None:
        super().__init__(model, state, names)
        self._fixed: Tensors = {}
        self._squares: dict[str, torch.nn.Parameter] = {}

    @property
    def modules(self) -> frozenset[str]:
        """The places of B."""
        return frozenset(factors_around(name)[1] for name in self._names)

    def load(self) -> dict[str, torch.nn.Parameter]:
        """A and B R into the model, and R as parameters of their own."""
        set_adapter_state(self._model, folded(self._state))
        self._live = lora_parameters(self._model)
        for name in self._names:
            place = factors_around(name)[1]
            like = self._live[place]
            self._fixed[name] = torch.from_numpy(np.array(self._state[place])).to(like.device)
            self._squares[name] = torch.nn.Parameter(torch.from_numpy(np.array(self._state[name])).to(like.device))
        return self._squares

    def gradients(self, found: Mapping[str, torch.Tensor]) -> Tensors:
        """B^T times each gradient of B R."""
        return {name: projected(fixed, found[factors_around(name)[1]]) for name, fixed in self._fixed.items()}

    def collect(self) -> None:
        """From the modules' gradients to those of R."""
        found = {}
        for name in self._names:
            live = self._live[factors_around(name)[1]]
            assert live.grad is not None
            found[factors_around(name)[1]], live.grad = live.grad, None
        for name, gradient in self.gradients(found).items():
            self._squares[name].grad = gradient

    def write(self) -> None:
        """B R anew."""
        with torch.no_grad():
            for name, square in self._squares.items():
                torch.mm(self._fixed[name], square, out=self._live[factors_around(name)[1]].data)


def projected(fixed: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """B^T times each of ``gradients``, [..., out, r] to [..., r, r]; of a record the same bits whoever is beside it.

    For r = 1 a single product is a dot product, which libraries sum in another order: so it is given a neighbour.
    """
    if gradients.ndim == 3 and len(gradients) == 1:
        return (fixed.t() @ torch.cat((gradients, gradients)))[:1]
    return fixed.t() @ gradients
