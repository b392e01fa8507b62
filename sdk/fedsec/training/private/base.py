"""What both engines share: attaching to the model, one checked pass, and taking everything off again."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from fedsec.training.lora import MODULES, lora_parameters
from fedsec.training.private.clipping import Clipped, clip_and_sum
from fedsec.training.private.engine import Losses
from fedsec.training.private.record_dropout import RecordDropout, Records
from fedsec.training.private.refusals import lora_layers, require_supported, require_unpacked
from fedsec_secure.errors import ConfigError, LocalMisuseError

if TYPE_CHECKING:
    from peft import PeftModel


class LoraEngine(ABC):
    """One model's per-sample gradients; see `fedsec.training.private.engine.PerSampleEngine` for the methods.

    Which factors are trained (``requires_grad``) is settled when the engine is made. Raises ConfigError for what
    `refusals` refuses, LocalMisuseError where no factor is trained or another engine is attached.
    """

    name: ClassVar[str]

    def __init__(self, model: PeftModel) -> None:
        require_supported(model)
        self._model = model
        self._trained = _trained(model)
        if not self._trained:
            raise LocalMisuseError("private training: expected factors with requires_grad, found none; set it first")
        layers = dict(lora_layers(model))
        if any(isinstance(layer.lora_dropout[MODULES], RecordDropout) for layer in layers.values()):
            raise LocalMisuseError("private training: the model has an engine already; close it first")
        self._records = Records()
        self._undo: list[Callable[[], object]] = []
        for path, layer in layers.items():
            self._replace_dropout(path, layer)
            self._attach(path, layer)
        hook = _decoder(model).register_forward_pre_hook(self._check_inputs, with_kwargs=True)
        self._undo.append(hook.remove)

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained factors, by their names in an adapter, in canonical order."""
        return MappingProxyType(self._trained)

    def gradients(self, keys: Sequence[bytes], losses: Losses) -> dict[str, torch.Tensor]:
        """Each record's own gradient: name -> [n, *shape]."""
        self._require_ready()
        if not keys:  # a Poisson sample may be empty, and models fail on no rows
            return {name: p.detach().new_zeros((0, *p.shape)) for name, p in self._trained.items()}
        self._records.keys = tuple(keys)
        try:
            self._begin(len(keys))
            values = losses()
            if values.shape != (len(keys),) or not values.requires_grad:
                raise LocalMisuseError(
                    f"private training: expected a differentiable loss for each of {len(keys)} records, found shape "
                    f"{list(values.shape)}; give each record's own loss, not the batch's"
                )
            torch.autograd.backward(values.sum())
            found = self._collect()
            self._require_complete(found, len(keys))
            return found
        finally:
            self._records.keys = None
            self._end()

    def clipped_sum(self, keys: Sequence[bytes], losses: Losses, bound: float) -> Clipped:
        """The clipped sum of one physical batch, after one forward and one backward pass."""
        return clip_and_sum(self.gradients(keys, losses), bound)

    def close(self) -> None:
        """Put the model back as it was; idempotent."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _attach(self, path: str, layer: Any) -> None:
        """Prepare one LoRA layer; what puts it back goes to ``_undo``."""

    @abstractmethod
    def _begin(self, records: int) -> None:
        """A pass over ``records`` records begins."""

    @abstractmethod
    def _collect(self) -> dict[str, torch.Tensor]:
        """What the backward pass left: name -> [n, *shape], as far as there is something."""

    @abstractmethod
    def _end(self) -> None:
        """The pass is over, or failed: keep nothing of it."""

    def _replace_forward(self, layer: Any, forward: Callable[..., torch.Tensor] | None) -> None:
        """Let a layer compute by ``forward``, or by its class's own; undone by `close`."""
        before = layer.__dict__.pop("forward", None)
        if forward is not None:
            layer.forward = forward

        def restore() -> None:
            layer.__dict__.pop("forward", None)
            if before is not None:
                layer.forward = before

        self._undo.append(restore)

    def _replace_dropout(self, path: str, layer: Any) -> None:
        before = layer.lora_dropout[MODULES]
        levels = getattr(before, "threshold", None)
        probability = levels / (1 << 16) if levels is not None else float(getattr(before, "p", 0.0))
        dropout = RecordDropout(probability, path, self._records)
        dropout.train(before.training)
        layer.lora_dropout[MODULES] = dropout
        self._undo.append(lambda: layer.lora_dropout.update({MODULES: before.train(dropout.training)}))

    def _check_inputs(self, decoder: torch.nn.Module, given: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        if self._records.keys is not None and decoder.training:  # a probe in evaluation mode is no record's pass
            # What comes without its name has that of its place.
            places = inspect.signature(decoder.forward).parameters
            require_unpacked({**dict(zip(places, given, strict=False)), **inputs}, len(self._records.keys))

    def _require_ready(self) -> None:
        if not self._undo:
            raise LocalMisuseError("private training: the engine is closed; make a new one")
        if not self._model.training:
            raise LocalMisuseError("private training: expected the model in training mode; call model.train()")
        if _trained(self._model).keys() != self._trained.keys():
            raise LocalMisuseError(
                "private training: other factors are trained than when the engine was made; make a new engine"
            )
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise ConfigError(
                "private training refuses autocast: expected float32 LoRA products, found autocast; in half precision "
                "padding moves gradients by percents: leave the autocast block"
            )

    def _require_complete(self, found: Mapping[str, torch.Tensor], records: int) -> None:
        for name, parameter in self._trained.items():
            expected = (records, *parameter.shape)
            if name not in found:
                raise LocalMisuseError(
                    f"private training: no gradient reached {name}; with reentrant checkpointing call "
                    "model.enable_input_require_grads() first, and let every layer take part in the loss"
                )
            if found[name].shape != expected:
                raise LocalMisuseError(
                    f"private training: gradient of {name}: expected {expected}, found {tuple(found[name].shape)}; "
                    "layers must take [n, ..., in] with the records first"
                )


def _trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in lora_parameters(model).items() if p.requires_grad}


def _decoder(model: PeftModel) -> torch.nn.Module:
    """What every forward pass goes through, also that of `fedsec.training.objective`, which calls the decoder alone."""
    base: Any = model.get_base_model()
    try:
        decoder = base.get_decoder()
    except AttributeError:
        decoder = base
    return decoder if isinstance(decoder, torch.nn.Module) else base
