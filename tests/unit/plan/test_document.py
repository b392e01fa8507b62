"""Signed documents as files: replaced whole or not at all, and nothing left behind."""

import stat

import pytest

from fedsec.plan.document import MAX_DOCUMENT_BYTES, load_plan, parse_canonical, write_private
from fedsec.plan.model import Plan
from fedsec_secure.errors import CodecError, ConfigError


def test_write_private_replaces_whole(tmp_path):
    write_private(tmp_path / "f", b"old")
    write_private(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    write_private(tmp_path / "f", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsec.plan.document.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_load_plan(tmp_path, world):
    plan = world.plan()
    (tmp_path / "plan.json").write_bytes(plan.canonical())
    assert load_plan(tmp_path / "plan.json") == plan
    with pytest.raises(ConfigError, match="cannot read the plan"):
        load_plan(tmp_path / "none.json")
    with pytest.raises(CodecError, match="at most"):
        parse_canonical(b" " * (MAX_DOCUMENT_BYTES + 1), Plan, "plan.json")
