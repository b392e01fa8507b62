"""The end of a run: its certificate, from the evidence in its folder, checked before it is signed."""

from __future__ import annotations

from fedsec.plan.versions import software_versions
from fedsec.spool import write_durably
from fedsec.study.certificate import CERTIFICATE, sign_certificate, state
from fedsec.study.evidence import (
    Evidence,
    read_approvals,
    read_attestations,
    verify_adapter,
    verify_approvals_in_log,
    verify_attestations,
    verify_rounds,
)
from fedsec.study.folder import RunFolder
from fedsec.study.logbook import Logbook
from fedsec.training.adapter import load_peft
from fedsec_secure.identity.keys import SigningKey


def write_certificate(folder: RunFolder, key: SigningKey) -> None:
    """Sign what the evidence says; VerificationError, and no certificate, where it does not hold together."""
    path, plan = folder.path, folder.plan
    evidence = Evidence(
        path,
        folder.run,
        plan,
        read_approvals(path, plan),
        Logbook.read(path),
        read_attestations(path, plan, folder.run),
    )
    verify_approvals_in_log(evidence)
    verify_attestations(evidence)
    verify_rounds(evidence)
    verify_adapter(evidence, load_peft(folder.adapter).digest().hex())
    write_durably(path / CERTIFICATE, [sign_certificate(state(evidence, software_versions()), key)])
