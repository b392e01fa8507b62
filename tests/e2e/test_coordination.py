"""A coordinator and sites, each opened alone from its own folder, do what `fedsec run` does in one process."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedsec.cli.run import finish_study
from fedsec.report.seal import seal_run
from fedsec.study.coordinate import open_coordination
from fedsec.study.coordinated import coordination_folder
from fedsec.study.folder import RunFolder
from fedsec.study.one_site import open_one_site
from fedsec.study.prepare import prepare_run
from fedsec.study.verify import verify_run
from fedsec_secure.errors import AbortError, VerificationError
from tests.machines import Machines
from tests.unit.cli.smoke import SMOKE

SMALL = (
    "rounds=2",
    "training.examples_per_round=2",
    "evaluation.max_new_tokens=4",
    "evaluation.single_test_limit=1",
    "evaluation.zero_shot_test_limit=1",
    "evaluation.round_test_limit=1",
)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> RunFolder:
    """The same study in one process; its working set beside it."""
    out = tmp_path_factory.mktemp("embedded") / "run"
    folder = prepare_run(SMOKE / "plan.toml", SMOKE / "sites", out, init=True, assignments=SMALL, run="one")
    finish_study(folder.path, 1, json=False, quiet=True)
    return folder


@pytest.fixture
def machines(embedded, tmp_path) -> Machines:
    return Machines(embedded.path.with_name("run-sites"), tmp_path / "machines")


def coordinate(machines: Machines, out: Path, through=lambda transport: transport) -> RunFolder:
    folder = coordination_folder(machines.plan_path, machines.coordinator, out, "one")
    coordination = open_coordination(folder, lambda event: None, 1)
    with ExitStack() as stack:
        coordination.run(through(machines.transport(stack)))
    return folder


def adapter_bytes(folder: RunFolder) -> bytes:
    return (folder.adapter / "adapter_model.safetensors").read_bytes()


class Stopping:
    """Delivers so many exchanges, and then the coordinator's process is gone."""

    def __init__(self, transport, after: int) -> None:
        self.transport, self.left = transport, after

    def sites(self):
        return self.transport.sites()

    def exchange(self, exchange, spool):
        self.left -= 1
        if self.left < 0:
            raise AbortError("stopped")
        return self.transport.exchange(exchange, spool)


def test_the_adapter_is_the_embedded_one_also_after_a_stop(embedded, machines, tmp_path):
    with pytest.raises(AbortError, match="stopped"):
        coordinate(machines, tmp_path / "run", lambda transport: Stopping(transport, 9))
    folder = coordinate(machines, tmp_path / "run")
    assert adapter_bytes(folder) == adapter_bytes(embedded)
    scores = {
        name: {test: s.counts for test, s in by_test.items()} for name, by_test in folder.results().scores.items()
    }
    assert scores == {
        name: {test: s.counts for test, s in by_test.items()} for name, by_test in embedded.results().scores.items()
    }
    assert len(scores) == 2 + len(machines.plan.roster.sites)
    kinds = [e["event"] for e in folder.events()]
    assert (kinds.count("scored"), kinds.count("round"), kinds[-1]) == (2, 2, "finished")
    seal_run(folder)
    shutil.rmtree(machines.folder)  # nothing but the folder is needed to check it
    assert {row.outcome for row in verify_run(folder.path)} == {"held", "not pinned"}


def test_a_site_alone_refuses_what_does_not_hold(machines, monkeypatch):
    def opened(public=None):
        with ExitStack() as stack:
            return open_one_site(site, machines.plan, public, lambda event: None, stack)

    site = machines.site("harbour")
    public = machines.folder / "harbour" / "public"
    said = (public / "harbour.toml").read_text()
    (public / "harbour.toml").write_text(said.replace("harbour.jsonl", "northgate.jsonl"))
    with pytest.raises(VerificationError, match="not the one that the plan pins"):
        opened()
    opened(machines.office / "public")  # given by hand, it is read from there
    monkeypatch.setattr("fedsec.study.one_site.load_base", lambda spec: pytest.fail("the base model was loaded"))
    site.approval_path.unlink()
    with pytest.raises(VerificationError, match="nothing runs"):
        opened()
