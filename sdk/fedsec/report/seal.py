"""The end of a finished run folder: its report, then the signed list of all its files, which is written last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedsec.report.page import render
from fedsec.spool import write_durably
from fedsec.storage import explained
from fedsec.study.folder import RunFolder
from fedsec.study.manifest import MANIFEST, open_manifest, verify_files, write_manifest
from fedsec.study.verify import REPORT
from fedsec_secure.errors import ConfigError, ReleaseBlockedError
from fedsec_secure.identity.keys import PublicKey, SigningKey


def is_sealed(folder: Path) -> bool:
    """Whether the run folder has its signed list of files: nothing in it may change any more."""
    return (folder / MANIFEST).is_file()


def seal_run(folder: RunFolder) -> None:
    """Write ``report.html``, and after it the manifest. ConfigError for a folder that is sealed."""
    if is_sealed(folder.path):
        raise ConfigError(f"{folder.path} is signed as it is: a report that is written into it would break that")
    write_report(folder)
    key = SigningKey.load(folder.coordinator.key_path)
    write_manifest(folder.path, folder.run, folder.plan, key)


def finish_run(folder: RunFolder, run: Callable[[], None]) -> None:
    """``run`` does what is left of the run; then its report and the signed list of its files. A run that has that stays
    as it is.

    What ``run`` raises goes on; of an adapter that a site withholds there is a report, and nothing is sealed.
    """
    if is_sealed(folder.path):
        return
    command = "fedsec coordinator serve" if folder.distributed else f"fedsec resume {folder.path}"
    then = f"Nothing is lost: make room, then `{command}` goes on from the journal"
    with explained(f"the disk of run folder {folder.path}", then):
        try:
            run()
        except ReleaseBlockedError:
            write_report(folder)  # an officer asks why
            raise
        seal_run(folder)


def write_report(folder: RunFolder) -> None:
    """``report.html`` of the run as it is now."""
    write_durably(folder.path / REPORT, [render(folder).encode()])


def verify_sealed(folder: RunFolder) -> None:
    """VerificationError names the first file of a sealed folder that is not as it was signed."""
    coordinator = PublicKey.from_hex(folder.plan.roster.coordinator)
    verify_files(folder.path, open_manifest(folder.path, folder.plan, coordinator))
