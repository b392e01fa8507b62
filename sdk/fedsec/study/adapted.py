"""An adapter that one hospital made for itself from a run's: a plain PEFT folder, the run's plan, and where it is from.

The record holds digests, counts, settings and scores. It holds no note, no label of a note, and no id of a note.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from fedsec.evaluation.scores import Interval, Kind
from fedsec.plan.document import MAX_DOCUMENT_BYTES, canonical, load_plan, parse_canonical, read_bounded
from fedsec.plan.model import Plan
from fedsec.plan.specs import LabelName, LoraSpec, ModelSpec, Sha256Hex, Strict, TrainingSpec
from fedsec.spool import fsync_folder, private_folder, write_durably
from fedsec.study.starting import Evidence
from fedsec.training.adapter import AdapterState, load_peft
from fedsec_secure.errors import ConfigError, VerificationError

RECORD: Final = "adapted.json"
PLAN: Final = "plan.json"
STAYS: Final = (
    "Trained on one site's notes without differential privacy: it may repeat what stands in them. It is made to stay "
    "at the site; whoever passes it on passes on what it knows by heart."
)


class Origin(Strict):
    """What it started from."""

    plan_sha256: Sha256Hex
    run: str | None
    adapter_sha256: Sha256Hex
    """Digest of the tensors, as the run's log and certificate name it."""
    evidence: Evidence
    pinned: bool
    """Whether the keys behind the evidence were pinned ones."""
    unverified: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None
    """Why it was used without evidence, in the words of who used it."""


class Records(Strict):
    """How many examples; none of them is named."""

    trained: int = Field(ge=1)
    of: int = Field(ge=1)
    """That could have been trained on."""
    patients: int = Field(ge=1)
    """Behind the trained ones."""
    empty: int = Field(ge=0)
    """Of those that were chosen for training: their answer is that there is nothing."""
    left_out: int = Field(ge=0)
    """Of the empty ones: not trained on, so that they are not too many."""
    held_out: int = Field(ge=0)
    """That were scored and not trained on; of other patients."""
    entity_types: tuple[LabelName, ...]
    relation_types: tuple[LabelName, ...]


class HeldOut(Strict):
    """One adapter on the held-out records."""

    loss: float
    """Nats per answer token."""
    scores: dict[str, float]
    """By kind and measure: ``entities strict`` (F1), ``titles ROUGE-L``."""


class Adapted(Strict):
    """``adapted.json``."""

    format: Literal[1] = 1
    origin: Origin
    base: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Where the base model was found here."""
    base_weights_sha256: Sha256Hex
    adapter_sha256: Sha256Hex
    """Digest of this folder's tensors."""
    records: Records
    seed: int = Field(ge=0, lt=1 << 53)
    lora: LoraSpec
    training: TrainingSpec
    truncated: int = Field(ge=0)
    """Examples that lost words at the end."""
    held_out: dict[str, HeldOut]
    """``run`` and ``adapted``, and ``zero-shot`` where it was asked for; empty where nothing was held out."""
    gains: dict[Kind, Interval]
    """Adapted minus the run's adapter, strict, by paired bootstrap over the held-out records."""
    versions: dict[str, str]
    privacy: Literal["none"] = "none"
    stays: str = STAYS


@dataclass(frozen=True)
class AdaptedFolder:
    """What lies in such a folder."""

    record: Adapted
    plan: Plan
    adapter: AdapterState

    @property
    def model(self) -> ModelSpec:
        """The plan's base model, where it was found here."""
        return self.plan.model.model_copy(update={"base": self.record.base})


def is_adapted(folder: Path) -> bool:
    """Whether `fedsec site adapt` wrote this folder."""
    return (folder / RECORD).is_file()


def open_adapted(folder: Path) -> AdaptedFolder:
    """Read it back; VerificationError where plan or adapter are not those of its record."""
    record = parse_canonical(read_bounded(folder / RECORD, MAX_DOCUMENT_BYTES), Adapted, RECORD)
    plan, adapter = load_plan(folder / PLAN), load_peft(folder)
    if plan.digest().hex() != record.origin.plan_sha256:
        raise VerificationError(f"{folder / PLAN} is not the plan that {RECORD} names")
    if adapter.digest().hex() != record.adapter_sha256:
        raise VerificationError(f"the adapter in {folder} is not the one that {RECORD} names")
    return AdaptedFolder(record, plan, adapter)


@dataclass(frozen=True)
class Unfinished:
    """The folder while it is being made, beside its place: a kill leaves it, and the same command goes on from it."""

    out: Path

    @classmethod
    def begin(cls, out: Path) -> Unfinished:
        """ConfigError where something stands at ``out`` already. What a kill left beside it is kept: the checkpoint."""
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} is there already; choose another --out: nothing is overwritten")
        return cls(out)

    @property
    def path(self) -> Path:
        """Private to its owner."""
        return self.out.resolve().with_name(f".{self.out.resolve().name}.part")

    @property
    def checkpoint(self) -> Path:
        """Training on its way; one of other inputs is not used."""
        return private_folder(self.path) / "checkpoint.safetensors"

    def finish(self, adapter: AdapterState, plan: Plan, record: Adapted) -> None:
        """Write everything, then give it its name: the folder is there whole or not at all."""
        done = self.path / "done"
        shutil.rmtree(done, ignore_errors=True)  # of a kill in here
        adapter.save_peft(private_folder(done), plan.model.model_copy(update={"base": record.base}), record.lora)
        write_durably(done / PLAN, [plan.canonical()])
        write_durably(done / RECORD, [canonical(record)])
        if self.out.exists():
            self.out.rmdir()
        done.rename(self.out.resolve())
        fsync_folder(self.out.resolve().parent)
        shutil.rmtree(self.path)
