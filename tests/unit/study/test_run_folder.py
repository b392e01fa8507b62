"""The run folder: what a kill may leave in it, and what later reads make of that."""

import pytest

from fedsec.study.folder import RunFolder
from fedsec_secure.errors import ConfigError
from tests.e2e.federation import RUN, Keys, make_plan


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", RUN, tmp_path / "sites", make_plan(Keys.generate(3)), {})


def test_a_metrics_line_that_a_kill_cut_short_costs_no_other_line(folder):
    events = [{"event": "exchange", "round": n} for n in range(3)]
    folder.note(events[0])
    path = folder.path / "metrics.jsonl"
    for torn in (b'{"event": "excha', b'{"event": "x", "more": {}'):
        path.write_bytes(path.read_bytes() + torn)
        assert folder.events() == events[:1]
    for event in events[1:]:
        folder.note(event)
    assert folder.events() == events
    assert path.read_bytes().endswith(b"\n")


def test_a_folder_that_was_half_made_by_a_killed_start_is_made_anew(folder, tmp_path):
    part = tmp_path / ".other.part"
    part.mkdir()
    (part / "run.json").write_text("{")
    made = RunFolder.create(tmp_path / "other", RUN, tmp_path / "sites", folder.plan, {})
    assert RunFolder.open(made.path).plan == folder.plan
    assert not part.exists()
    with pytest.raises(ConfigError, match="not empty"):
        RunFolder.create(tmp_path / "other", RUN, tmp_path / "sites", folder.plan, {})
    with pytest.raises(ConfigError, match="no run folder"):
        RunFolder.open(tmp_path)
