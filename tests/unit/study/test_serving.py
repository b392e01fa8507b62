"""How a coordinator that is done, or may not release, ends."""

import socket
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from fedsec.engines.link.messages import Heard, Next
from fedsec.study import serving
from fedsec_secure.errors import AbortError, ConfigError, ReleaseBlockedError
from tests.links import COORDINATOR, PLAN, ROSTER, Speaker


class Carrier:
    """Brings each site to the desk once, when the coordinator tells of the end."""

    round, trouble = 0, None

    def __init__(self, kit, place, desk, **options) -> None:
        self.desk, self.told = desk, []
        CARRIERS.append(self)

    def start(self) -> None:
        pass

    def keep(self, wanted, round_index) -> None:
        for site in sorted(wanted):
            speaker = Speaker(self.desk, site)
            self.told.append(speaker.ask(Next(0, 0)).words)
            speaker.ask(Heard())

    def close(self) -> None:
        self.untold = self.desk.untold()


CARRIERS: list[Carrier] = []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "the run is finished"),
        (
            ReleaseBlockedError("site-b withholds it"),
            "the run is over, and its adapter is withheld: site-b withholds it",
        ),
        (AbortError("too few. A resumed run asks again"), None),
    ],
)
def test_sites_are_told_that_a_run_is_over_and_not_that_it_stopped(tmp_path, monkeypatch, error, words):
    monkeypatch.setattr(serving, "NvflareCarrier", Carrier)
    monkeypatch.setattr(serving, "load_kit", lambda *given: SimpleNamespace(port=0))
    monkeypatch.setattr(serving, "require_valid", lambda kit: None)
    monkeypatch.setattr(serving, "coordinator_key", lambda folder: COORDINATOR)
    monkeypatch.setattr(serving, "core_roster", lambda plan: ROSTER)
    (tmp_path / "run").mkdir()
    folder = SimpleNamespace(
        coordinator=SimpleNamespace(engine_path=None),
        plan=SimpleNamespace(digest=lambda: PLAN),
        path=tmp_path / "run",
        run="r",
    )
    loaded = SimpleNamespace(first=lambda: SimpleNamespace(shapes={}))

    def finish(folder, run) -> None:
        if error is not None:
            raise error

    options = serving.ServeOptions(linger=20.0)
    with nullcontext() if error is None else pytest.raises(type(error)):
        serving.serve(folder, options, lambda: loaded, finish, lambda event: None, lambda: None)
    carrier = CARRIERS.pop()
    assert carrier.told == ([] if words is None else [words] * len(ROSTER.sites))
    assert carrier.untold == (set(ROSTER.sites) if words is None else set())


def test_a_port_that_another_process_has_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on port {port} of 127.0.0.1: Address already in use"):
            serving._require_free("127.0.0.1", port)
        with pytest.raises(ConfigError, match=f"cannot listen on port {port} of this machine"):
            serving._require_free(None, port)
    serving._require_free("127.0.0.1", port)
    with pytest.raises(ConfigError, match="an address of this machine"):
        serving._require_free("192.0.2.1", port)
