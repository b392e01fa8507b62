"""The per-sample gradient engines, and the small interface that they share.

An engine is attached to a model with LoRA modules, and gives each record's own gradient of the trained factors:

    with engine_of("own")(model) as engine:
        clipped = engine.clipped_sum(keys, lambda: record_losses(base, batch).per_record(), bound)

Two engines give the same gradients: ``own`` (`per_sample.PerSampleLora`), which adds next to nothing to a step, and
``opacus`` (`opacus_engine.OpacusLora`), the hooks of an independent library that the tests compare it with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fedsec_secure.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from peft import PeftModel

    from fedsec.training.private.clipping import Clipped

Losses: TypeAlias = "Callable[[], torch.Tensor]"
"""The forward pass: gives float[n], for each record the mean or the sum over its *own* answer tokens, in nats.

A mean over the batch's tokens (``model(labels=...).loss`` is one) makes each record's gradient depend on how many
tokens the others have, and voids the sensitivity that the noise is sized for. No engine can see it from outside."""


class PerSampleEngine(Protocol):
    """Per-sample gradients of the LoRA factors of one model, which it is attached to until it is closed."""

    @property
    def name(self) -> str:
        """The name that `engine_of` takes."""

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained factors, by their names in an adapter, in canonical order."""

    def gradients(self, keys: Sequence[bytes], losses: Losses) -> dict[str, torch.Tensor]:
        """Gradients of each record's loss: name -> [n, *shape], in the factors' dtype; ``[0, *shape]`` for no records.

        ``keys``: one for each record, in the batch's order; a record's dropout masks are a function of its key.
        ``losses`` is called once, and not at all where there are no records. ``.grad`` of no factor is touched.
        Raises LocalMisuseError where the model is not in training mode, where ``losses`` does not give one loss a
        record, or where a factor got no gradient; ConfigError for packed sequences and under autocast.
        """

    def clipped_sum(self, keys: Sequence[bytes], losses: Losses, bound: float) -> Clipped:
        """`clipping.clip_and_sum` of `gradients`: sum of min(1, bound / ||g_i||) g_i, zero for no records."""

    def close(self) -> None:
        """Put the model back as it was; idempotent."""

    def __enter__(self) -> PerSampleEngine: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


ENGINES = ("own", "opacus")


def engine_of(name: str) -> Callable[[PeftModel], PerSampleEngine]:
    """The engine of this name, to be called with the model; ConfigError for another name."""
    if name == "own":
        from fedsec.training.private.per_sample import PerSampleLora

        return PerSampleLora
    if name == "opacus":
        from fedsec.training.private.opacus_engine import OpacusLora

        return OpacusLora
    raise ConfigError(f"per-sample engine: expected one of {', '.join(ENGINES)}, found {name!r}; choose one of these")
