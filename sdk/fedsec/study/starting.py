"""Where a new site starts: a finished run's adapter and plan, and what stands behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedsec.plan.document import load_plan, read_bounded
from fedsec.plan.model import Plan
from fedsec.study.certificate import CERTIFICATE, open_certificate
from fedsec.study.manifest import MANIFEST
from fedsec.study.verify import Pins, require_pinned, verify_run
from fedsec.training.adapter import AdapterState, load_peft
from fedsec.training.base_model import BaseModel
from fedsec.training.lora import lora_shapes
from fedsec_secure.errors import CodecError, ConfigError, FedsecError, VerificationError
from fedsec_secure.identity.envelope import MAX_ENVELOPE_BYTES
from fedsec_secure.identity.keys import PublicKey

Evidence = Literal["run", "certificate", "none"]
"""``run``: all checks of `fedsec verify` held. ``certificate``: the coordinator's certificate names plan and adapter,
and what it rests on is not here. ``none``: neither, and someone said in words why that is enough."""


@dataclass(frozen=True)
class Start:
    """A plan and the adapter that a run under it made."""

    plan: Plan
    adapter: AdapterState
    run: str | None
    """None where no certificate that holds names it."""
    evidence: Evidence
    pinned: bool
    """Whether the keys behind the evidence were compared with pinned ones."""
    unverified: str | None
    """Why it may be used all the same, in the words of who said so."""


def open_start(folder: Path, pins: Pins | None = None, unverified: str | None = None) -> Start:
    """Read a run folder, or a folder with ``plan.json``, ``certificate.json`` and ``adapter/`` alone.

    Args:
        folder: from anyone.
        pins: keys that are known from elsewhere; None believes the plan who is who.
        unverified: why an adapter that nothing stands behind may be used; None: it may not.

    Raises:
        VerificationError: what stands behind the adapter does not hold, or is not there.
        ConfigError: no plan, or no adapter.
    """
    plan = load_plan(folder / "plan.json")
    adapter = load_peft(folder / "adapter")
    try:
        evidence, run = _evidence(folder, plan, adapter, pins)
    except FedsecError as e:
        if unverified is None:
            raise VerificationError(
                f"{folder} is not shown to be what a run under this plan made: {e}. Ask for the whole run folder; to "
                'start from it all the same, say why: --unverified "TEXT", which is written into the record'
            ) from e
        return Start(plan, adapter, None, "none", False, unverified)
    return Start(plan, adapter, run, evidence, pins is not None, None)


def require_fits(start: Start, base: BaseModel) -> None:
    """ConfigError unless the adapter has the shapes that the plan gives it on this base model."""
    try:
        start.adapter.require_shapes(lora_shapes(base, start.plan.lora))
    except CodecError as e:
        raise ConfigError(
            f"the adapter is not of the plan's shape (rank {start.plan.lora.rank} on {base.name}): {e}; "
            "adapter and plan belong to different runs"
        ) from e


def _evidence(folder: Path, plan: Plan, adapter: AdapterState, pins: Pins | None) -> tuple[Evidence, str]:
    """What stands behind plan and adapter, and the run's id."""
    whole = (folder / MANIFEST).exists() or (folder / "run.json").exists()
    if whole:
        failed = next((row for row in verify_run(folder, pins) if row.outcome == "failed"), None)
        if failed is not None:
            raise VerificationError(
                f"check {failed.number} of `fedsec verify` ({failed.check}) failed: {failed.reason}"
            )
    require_pinned(plan, pins)
    try:
        data = read_bounded(folder / CERTIFICATE, MAX_ENVELOPE_BYTES)
    except OSError:
        raise VerificationError(f"there is no {CERTIFICATE}") from None
    says = open_certificate(data, PublicKey.from_hex(plan.roster.coordinator)).predicate
    if says.plan.sha256 != plan.digest().hex():
        raise VerificationError(f"{CERTIFICATE} is of another plan than plan.json")
    if says.adapter_sha256 != adapter.digest().hex():
        raise VerificationError(f"the adapter is not the one that {CERTIFICATE} names")
    return "run" if whole else "certificate", says.run
