"""Checks a finished run from its folder and pinned keys alone, offline; the first thing that is wrong is named.

The coordinator signs the list of files and the certificate. It is not believed: what the certificate says is derived
again from what officers and sites signed, so a coordinator that signs something else is found as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fedsec.plan.document import load_plan, read_bounded
from fedsec.plan.model import Plan
from fedsec.plan.specs import PublicKeyHex, SiteName, Strict
from fedsec.study.certificate import CERTIFICATE, open_certificate, require_same, state
from fedsec.study.evidence import ADAPTER_CHECK, EVIDENCE_CHECKS, Evidence
from fedsec.study.manifest import Manifest, file_digest, open_manifest, verify_files
from fedsec_secure.errors import FedsecError, VerificationError
from fedsec_secure.identity.envelope import MAX_ENVELOPE_BYTES
from fedsec_secure.identity.keys import PublicKey

REPORT: Final = "report.html"
MAX_REPORT_BYTES: Final = 1 << 25


class PinnedSite(Strict):
    """One hospital's keys, as its people told you."""

    key: PublicKeyHex
    officer: PublicKeyHex
    co_officers: tuple[PublicKeyHex, ...] = ()


class Pins(Strict):
    """``pins.toml``: the keys that you compared by phone. Without it the plan is taken at its word for who is who."""

    coordinator: PublicKeyHex
    sites: dict[SiteName, PinnedSite]


Outcome = Literal["held", "failed", "not reached", "not pinned", "not here"]
"""``not here``: what is there to check holds, and the thing itself is not in the folder."""


@dataclass(frozen=True)
class Row:
    """One check and what came of it."""

    number: int
    check: str
    outcome: Outcome
    reason: str = ""


@dataclass
class _Reading:
    """What earlier checks have established, for later ones."""

    folder: Path
    pins: Pins | None
    _plan: Plan | None = None
    _manifest: Manifest | None = None
    _evidence: Evidence | None = None

    @property
    def plan(self) -> Plan:
        assert self._plan is not None
        return self._plan

    @property
    def manifest(self) -> Manifest:
        assert self._manifest is not None
        return self._manifest

    @property
    def evidence(self) -> Evidence:
        assert self._evidence is not None
        return self._evidence


def _plan(r: _Reading) -> None:
    r._plan = load_plan(r.folder / "plan.json")


def _keys(r: _Reading) -> None:
    require_pinned(r.plan, r.pins)


def require_pinned(plan: Plan, pins: Pins | None) -> None:
    """VerificationError unless the plan's keys are the pinned ones, where any are."""
    if pins is None:
        return
    roster = plan.roster
    if roster.coordinator != pins.coordinator:
        raise VerificationError("the plan names another coordinator key than the one that you pinned")
    if set(roster.sites) != set(pins.sites):
        raise VerificationError(f"the plan's sites are {', '.join(roster.sites)}; pinned: {', '.join(pins.sites)}")
    for site, member in roster.sites.items():
        pin = pins.sites[site]
        if (member.key, *member.officers) != (pin.key, pin.officer, *sorted(pin.co_officers)):
            raise VerificationError(f"the plan names other keys for {site} than those that you pinned")


def _manifest(r: _Reading) -> None:
    r._manifest = open_manifest(r.folder, r.plan, PublicKey.from_hex(r.plan.roster.coordinator))


def _files(r: _Reading) -> None:
    verify_files(r.folder, r.manifest)


def _signatures(r: _Reading) -> None:
    r._evidence = Evidence.read(r.folder, r.manifest.run, r.plan)


def _log_end(r: _Reading) -> None:
    book = r.evidence.book
    if book.folder.run != r.manifest.run:
        raise VerificationError(f"run.json names run {book.folder.run}; the signed list is of {r.manifest.run}")
    if book.open_entries or book.entries[-1].kind != "run-finished":
        raise VerificationError("the cosigned log does not end with the run's end")


def _on_evidence(check: Callable[[Evidence], None]) -> Callable[[_Reading], None]:
    return lambda r: check(r.evidence)


def _certificate(r: _Reading) -> None:
    try:
        data = read_bounded(r.folder / CERTIFICATE, MAX_ENVELOPE_BYTES)
    except OSError:
        raise VerificationError(f"there is no {CERTIFICATE}") from None
    found = open_certificate(data, PublicKey.from_hex(r.plan.roster.coordinator))
    require_same(found, state(r.evidence, found.predicate.coordinator_versions))


def _report(r: _Reading) -> None:
    try:
        page = read_bounded(r.folder / REPORT, MAX_REPORT_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        raise VerificationError(f"there is no {REPORT} that can be read") from None
    if file_digest(r.folder / CERTIFICATE) not in page:
        raise VerificationError(f"{REPORT} is not the report of this certificate: it does not name its digest")


_KEYS: Final = "its keys are the pinned ones"
_CHECKS: Final[tuple[tuple[str, Callable[[_Reading], None]], ...]] = (
    ("the plan is one document in its only form", _plan),
    (_KEYS, _keys),
    ("the coordinator signed the list of files", _manifest),
    ("every file is there as it was signed, and no other", _files),
    ("officers, sites and coordinator signed approvals, log and attestations", _signatures),
    ("the log is this run's, to its end", _log_end),
    *((what, _on_evidence(check)) for what, check in EVIDENCE_CHECKS),
    ("the certificate says what the evidence says", _certificate),
    ("the report is of this certificate", _report),
)
"""In this order, numbered from 1."""


def verify_run(folder: Path, pins: Pins | None = None) -> list[Row]:
    """Every check with its outcome; after the first that fails none is reached. Reads the folder and changes nothing.

    Args:
        folder: the run folder, from anyone.
        pins: keys that are known from elsewhere; None checks the run against the keys in its own plan.
    """
    reading, rows, failed = _Reading(folder, pins), [], False
    for number, (title, check) in enumerate(_CHECKS, start=1):
        if failed:
            rows.append(Row(number, title, "not reached"))
            continue
        try:
            check(reading)
        except FedsecError as e:
            failed = True
            rows.append(Row(number, title, "failed", str(e)))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as e:
            failed = True
            rows.append(Row(number, title, "failed", f"{type(e).__name__} while reading it"))
        else:
            rows.append(Row(number, title, *_passed(title, reading)))
    return rows


def _passed(title: str, reading: _Reading) -> tuple[Outcome, str]:
    """What a check that raised nothing comes to."""
    if title == _KEYS and reading.pins is None:
        return "not pinned", ""
    if title == ADAPTER_CHECK and not reading.evidence.has_adapter:
        digest = reading.evidence.model.adapter_sha256
        sites = reading.evidence.verified_by(reading.plan.rounds - 1, digest)
        return "not here", (
            f"the adapter itself is not in the folder: its sums were encrypted and the coordinator never had it. Its "
            f"digest is {digest}, attested by {', '.join(sites)}; each of them writes it with `fedsec site adapter`"
        )
    return "held", ""
