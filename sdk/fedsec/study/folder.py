"""The run folder: plan, approvals, journal, log, adapter, metrics, scores, attestations and certificate; see README."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fedsec.plan.approval import open_approval
from fedsec.plan.coordinatorfile import Coordinator, coordinator_of, load_coordinator
from fedsec.plan.document import MAX_DOCUMENT_BYTES, load_plan, read_bounded
from fedsec.plan.model import Plan
from fedsec.plan.specs import RUN_ID
from fedsec.spool import fsync_folder, private_folder, write_durably
from fedsec.study.results import Results
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.envelope import MAX_ENVELOPE_BYTES
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.record.entries import ApprovalEntry

_RUN_FILE = "run.json"
_SITES, _COORDINATOR = "sites", "coordinator"


@dataclass(frozen=True)
class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder. run: its id. plan: as approved.
        home: where the coordinator's things are: the working set (keys, notes, state) of a run whose sites are all in
            one process, or if ``distributed`` the ``coordinator.toml``.
    """

    path: Path
    run: str
    home: Path
    plan: Plan
    distributed: bool = False

    @classmethod
    def create(
        cls,
        path: Path,
        run: str,
        home: Path,
        plan: Plan,
        approvals: Mapping[str, bytes],
        *,
        distributed: bool = False,
    ) -> RunFolder:
        """Make the folder, whole or not at all; it must not hold anything yet."""
        if not RUN_ID.fullmatch(run):
            raise ConfigError(
                f"expected a run id of [a-z0-9-], at most 63 characters, no - at its front; found {run!r}"
            )
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f"{path} is not empty; choose another --out, or go on with `fedsec resume {path}`")
        part = path.with_name(f".{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a start that was killed
        private_folder(part).chmod(0o700)  # scores of single sites will stand in it
        private_folder(part / "approvals")
        write_durably(part / "plan.json", [plan.canonical()])
        for site, approval in approvals.items():
            write_durably(part / "approvals" / f"{site}.json", [approval])
        about = {"run": run, _COORDINATOR if distributed else _SITES: os.path.relpath(home.resolve(), path.resolve())}
        write_durably(part / _RUN_FILE, [json.dumps(about, indent=1).encode()])
        if path.exists():
            path.rmdir()
        part.rename(path)
        fsync_folder(path.resolve().parent)
        return cls(path, run, home, plan, distributed)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder."""
        try:
            about = json.loads(read_bounded(path / _RUN_FILE, MAX_DOCUMENT_BYTES))
            run, distributed = str(about["run"]), _COORDINATOR in about
            home = path / str(about[_COORDINATOR if distributed else _SITES])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is no run folder: expected {_RUN_FILE} as `fedsec run` writes it") from None
        return cls(path, run, home, load_plan(path / "plan.json"), distributed)

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a run folder is there, in whatever state."""
        return (path / _RUN_FILE).exists()

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator's paths, as its file has them now."""
        return load_coordinator(self.home) if self.distributed else coordinator_of(self.home)

    @property
    def sites(self) -> Path:
        """The working set; ConfigError for a run whose sites are on machines of their own."""
        if self.distributed:
            raise ConfigError(
                f"the sites of {self.path} are not on this machine, expected a run of `fedsec run`: go on with it by "
                f"{self.goes_on_by}"
            )
        return self.home

    @property
    def goes_on_by(self) -> str:
        """The command that finishes this run."""
        return "`fedsec coordinator serve`" if self.distributed else f"`fedsec resume {self.path}`"

    @property
    def adapter(self) -> Path:
        """A plain PEFT folder."""
        return self.path / "adapter"

    def approval_entries(self) -> list[ApprovalEntry]:
        """The approvals of this run, for its log. VerificationError where one is not signed by its officers."""
        entries = []
        for path in sorted((self.path / "approvals").glob("*.json")):
            officers = [PublicKey.from_hex(key) for key in self.plan.roster.sites[path.stem].officers]
            approval, signers = open_approval(read_bounded(path, MAX_ENVELOPE_BYTES), path.stem, officers)
            entries.append(
                ApprovalEntry(
                    plan_sha256=approval.plan_sha256,
                    policy_sha256=approval.policy_sha256,
                    site=approval.site,
                    officers=signers,
                )
            )
        return entries

    def save_attestations(self, signed: Mapping[SiteId, bytes]) -> None:
        """What the sites signed at the end, a file each."""
        private_folder(self.path / "attestations")
        for site, attestation in signed.items():
            write_durably(self.path / "attestations" / f"{site}.json", [attestation])

    def note(self, event: dict[str, object]) -> None:
        """Append one line to ``metrics.jsonl``; what a kill left of the line before stays a line of its own."""
        with (self.path / "metrics.jsonl").open("ab+") as out:
            if out.tell():
                out.seek(-1, os.SEEK_END)
                out.write(b"" if out.read(1) == b"\n" else b"\n")
            out.write(json.dumps(event, sort_keys=True).encode() + b"\n")

    def events(self) -> list[dict[str, object]]:
        """Every line of ``metrics.jsonl``; lines that a kill cut short are left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [event for line in lines[:-1] if (event := _event(line)) is not None]

    def save_results(self, results: Results) -> None:
        """Replace ``results.json``."""
        write_durably(self.path / "results.json", [results.model_dump_json(indent=1).encode()])

    def results(self) -> Results:
        """The scores so far; empty before the first. ConfigError where the file was cut short or changed."""
        path = self.path / "results.json"
        try:
            return Results.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Results()
        except ValidationError as e:
            raise ConfigError(
                f"{path}: expected the scores as `fedsec run` wrote them, found a file that was cut short or changed; "
                "put back a copy of it, or of the whole run folder"
            ) from e


def _event(line: bytes) -> dict[str, object] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
