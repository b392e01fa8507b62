"""`fedsec report`: where the page goes, what it never overwrites, and what it says of unfinished and changed runs."""

import shutil

import pytest

from fedsec.study.manifest import MANIFEST, file_digest, files_of
from fedsec.study.verify import REPORT
from tests.unit.cli.smoke import finished_run


@pytest.fixture
def run(tmp_path):
    shutil.copytree(finished_run(), tmp_path / "run")
    shutil.copytree(finished_run().with_name("run-sites"), tmp_path / "run-sites")
    return tmp_path / "run"


def words(panel: str) -> str:
    """An error's text without its frame and line ends."""
    return " ".join(panel.replace("│", " ").split())


def digests(run):
    return {name: file_digest(run / name) for name in [*files_of(run), MANIFEST]}


def test_the_copy_stands_beside_the_run_which_does_not_change(fedsec, run, tmp_path):
    before = digests(run)
    done = fedsec("report", run)
    assert done.code == 0, done.err
    assert (tmp_path / "run-report.html").read_bytes() == (run / REPORT).read_bytes()
    assert (tmp_path / "run-report.html").stat().st_mode & 0o777 == 0o600
    assert "byte for byte" in words(done.out)
    assert digests(run) == before
    value = fedsec("report", run, "--out", "other.html", "--json").json
    assert value == {"report": "other.html", "signed": str(run / REPORT), "same": True}


def test_nothing_is_overwritten_and_nothing_goes_into_the_run(fedsec, run, tmp_path):
    (tmp_path / "mine.html").write_text("x")
    refused = fedsec("report", run, "--out", "mine.html")
    assert (refused.code, (tmp_path / "mine.html").read_text()) == (2, "x")
    assert "not overwritten" in words(refused.err)
    inside = fedsec("report", run, "--out", run / "log" / "page.html")
    assert inside.code == 2
    assert "inside the run folder" in words(inside.err)
    assert not (run / "log" / "page.html").exists()
    assert fedsec("report", run, "--out", tmp_path / "nowhere" / "page.html").code == 2
    assert fedsec("report", tmp_path).code == 2


def test_a_run_that_is_not_sealed_gets_a_page_and_a_warning(fedsec, run, tmp_path):
    for name in (MANIFEST, REPORT, "certificate.json"):
        (run / name).unlink()
    done = fedsec("report", run)
    assert done.code == 0
    assert "not finished" in words(done.err)
    assert "nothing below is certified" in (tmp_path / "run-report.html").read_text()
    assert fedsec("report", run, "--out", "b.html", "--json").json["signed"] is None


def test_a_changed_run_gets_no_page(fedsec, run, tmp_path):
    with (run / "metrics.jsonl").open("ab") as out:
        out.write(b"\n")
    refused = fedsec("report", run)
    assert refused.code == 1
    assert "metrics.jsonl was changed" in words(refused.err)
    assert not (tmp_path / "run-report.html").exists()


def test_resuming_a_sealed_run_leaves_it_as_it_is(fedsec, run):
    before = digests(run)
    done = fedsec("resume", run, "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(run / REPORT)
    assert digests(run) == before
