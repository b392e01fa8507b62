"""Mid-round checkpoints: adapter, optimiser moments and counters in one safetensors file, replaced atomically.

A checkpoint carries the fingerprint of everything that determines the round. One that does not match, or cannot be
read, is not used: the round then starts again, which gives the same result, only later.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

if TYPE_CHECKING:
    import torch

_FORMAT = "fedsec/checkpoint/v1"


@dataclass(frozen=True)
class Checkpoint:
    """State after ``step`` optimiser steps of a round; tensors by role and canonical name (``adapter/…``)."""

    step: int
    loss_sum: float
    tokens: int
    seconds: float
    tensors: dict[str, torch.Tensor]


def save_checkpoint(file: Path, fingerprint: str, state: Checkpoint) -> None:
    """Write durably: after a crash at any moment the file is the old one or the new one, whole."""
    import safetensors.torch  # and torch with it, which a coordinator has no use for

    metadata = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "step": str(state.step),
        "loss_sum": state.loss_sum.hex(),
        "tokens": str(state.tokens),
        "seconds": state.seconds.hex(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(safetensors.torch.save(state.tensors, metadata=metadata))
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(file)
    except BaseException:
        scratch.unlink(missing_ok=True)  # a half-written file would take the room of everything else
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_checkpoint(file: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint, or None where there is none for exactly this round."""
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("format") != _FORMAT or metadata.get("fingerprint") != fingerprint:
                return None
            return Checkpoint(
                step=int(metadata["step"]),
                loss_sum=float.fromhex(metadata["loss_sum"]),
                tokens=int(metadata["tokens"]),
                seconds=float.fromhex(metadata["seconds"]),
                tensors={name: stored.get_tensor(name) for name in stored.keys()},  # noqa: SIM118 - not a mapping
            )
    except (safetensors.SafetensorError, KeyError, ValueError, OSError):
        return None
