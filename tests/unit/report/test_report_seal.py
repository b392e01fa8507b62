"""The end of a run folder: report, then the signed list of files, and from then on nothing."""

import shutil

import pytest

from fedsec.report.page import render
from fedsec.report.seal import is_sealed, seal_run, verify_sealed
from fedsec.study.certificate import CERTIFICATE, open_certificate, sign_certificate
from fedsec.study.folder import RunFolder
from fedsec.study.manifest import MANIFEST, file_digest, files_of
from fedsec.study.verify import REPORT, verify_run
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.keys import PublicKey, SigningKey
from tests.unit.cli.smoke import finished_run


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A sealed run, with its working set beside it."""
    shutil.copytree(finished_run(), tmp_path / "run")
    shutil.copytree(finished_run().with_name("run-sites"), tmp_path / "run-sites")
    return RunFolder.open(tmp_path / "run")


def test_a_finished_run_is_sealed_and_verifies(folder):
    assert is_sealed(folder.path)
    assert {row.outcome for row in verify_run(folder.path)} == {"held", "not pinned"}
    assert render(folder) == (folder.path / REPORT).read_text(encoding="utf-8")


def test_sealing_again_gives_the_same_bytes(folder):
    before = {name: file_digest(folder.path / name) for name in [*files_of(folder.path), MANIFEST]}
    with pytest.raises(ConfigError, match="signed as it is"):
        seal_run(folder)
    (folder.path / MANIFEST).unlink()
    (folder.path / REPORT).unlink()
    seal_run(folder)
    assert {name: file_digest(folder.path / name) for name in [*files_of(folder.path), MANIFEST]} == before


def test_a_run_that_was_killed_between_report_and_list_can_be_sealed(folder):
    (folder.path / MANIFEST).unlink()
    (folder.path / REPORT).write_text("half a pa")
    seal_run(folder)
    assert {row.outcome for row in verify_run(folder.path)} == {"held", "not pinned"}


def test_a_changed_folder_is_not_reported_on(folder):
    verify_sealed(folder)
    with (folder.path / "metrics.jsonl").open("ab") as out:
        out.write(b"\n")
    with pytest.raises(VerificationError, match=r"metrics\.jsonl was changed"):
        verify_sealed(folder)


def test_another_coordinators_certificate_is_refused(folder):
    path = folder.path / CERTIFICATE
    said = open_certificate(path.read_bytes(), PublicKey.from_hex(folder.plan.roster.coordinator))
    path.write_bytes(sign_certificate(said, SigningKey.generate()))
    with pytest.raises(VerificationError, match="envelope check 3"):
        render(folder)


def test_a_certificate_of_another_run_is_refused(folder):
    key = SigningKey.load(folder.coordinator.key_path)
    said = open_certificate((folder.path / CERTIFICATE).read_bytes(), key.public)
    other = said.model_copy(update={"predicate": said.predicate.model_copy(update={"run": "two"})})
    (folder.path / CERTIFICATE).write_bytes(sign_certificate(other, key))
    with pytest.raises(VerificationError, match="of run two"):
        render(folder)
