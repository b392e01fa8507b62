"""``coordinator.toml``: defaults, paths beside the file, and nothing unknown in it."""

import pytest

from fedsec.plan.coordinatorfile import coordinator_of, load_coordinator
from fedsec_secure.errors import ConfigError


def test_an_empty_file_names_what_lies_beside_it(tmp_path):
    (tmp_path / "coordinator.toml").write_text("")
    found = load_coordinator(tmp_path / "coordinator.toml")
    paths = (found.key_path, found.engine_path, found.approvals_path, found.public_path)
    assert paths == tuple(tmp_path / name for name in ("coordinator.key", "engine", "approvals", "public"))


def test_paths_are_relative_to_the_file_and_unknown_fields_are_refused(tmp_path):
    path = tmp_path / "coordinator.toml"
    path.write_text('key = "keys/mine.key"\napprovals = "/srv/approvals"\n')
    assert load_coordinator(path).key_path == tmp_path / "keys" / "mine.key"
    assert str(load_coordinator(path).approvals_path) == "/srv/approvals"
    path.write_text('keys = "mine.key"\n')
    with pytest.raises(ConfigError, match="keys"):
        load_coordinator(path)


def test_a_working_set_has_its_test_sets_beside_its_sites_with_or_without_the_file(tmp_path):
    assert coordinator_of(tmp_path).public_path.resolve() == tmp_path / "public"
    (tmp_path / "coordinator").mkdir()
    (tmp_path / "coordinator" / "coordinator.toml").write_text('public = "../other"\nkey = "mine.key"\n')
    found = coordinator_of(tmp_path)
    assert (found.public_path.resolve(), found.key_path.name) == (tmp_path / "other", "mine.key")
