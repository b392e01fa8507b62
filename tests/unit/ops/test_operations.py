"""Health, metrics and the log of a process, over real HTTP on this machine."""

import json
import logging
import socket
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from fedsec.ops import logs
from fedsec.ops.health import Health
from fedsec.ops.operations import Operations, together
from fedsec.ops.server import LocalServer
from fedsec_secure.errors import AbortError, ConfigError


def get(operations, path, host=None, address="127.0.0.1", method="GET", seconds=5):
    request = urllib.request.Request(f"http://{address}:{operations.port}{path}", method=method)
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def value(page, series):
    found = [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.rsplit(" ", 1)[0] == series]
    return float(found[0]) if found else None


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "fedsec.jsonl"


@pytest.fixture
def operations(log, tmp_path):
    names = ("site-a", "site-b")
    options = {"run": "run-1", "sites": names, "log": log, "address": ("127.0.0.1", 0), "folders": {"run": tmp_path}}
    with Operations("coordinator", **options) as operations:
        yield operations


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_ready_only_when_told(operations, log):
    assert get(operations, "/healthz")[0] == 200
    assert get(operations, "/readyz") == (503, "starting\n")
    operations.ready("waiting for 2 of 5 sites")
    operations.ready("waiting for 2 of 5 sites")
    assert get(operations, "/readyz") == (503, "waiting for 2 of 5 sites\n")
    assert value(get(operations, "/metrics")[1], "fedsec_ready") == 0
    operations.ready(None)
    assert get(operations, "/readyz") == (200, "ready\n")
    assert value(get(operations, "/metrics")[1], "fedsec_ready") == 1
    assert [(x["event"], x["level"]) for x in lines(log)] == [
        ("started", "info"),
        ("not-ready", "warning"),
        ("ready", "info"),
    ]
    assert {(x["role"], x["run"]) for x in lines(log)} == {("coordinator", "run-1")}
    assert all(x["time"].endswith("Z") for x in lines(log))


def test_a_loop_that_does_not_tick_is_not_healthy():
    now = [0.0]
    health = Health(30, lambda: now[0])
    assert health.alive()[0]
    now[0] = 31
    assert health.alive() == (False, "the main loop gave its last sign 31 s ago; expected one in 30 s")
    health.tick()
    assert health.alive()[0]


def test_a_stuck_process_answers_503(tmp_path):
    with Operations("site", log=tmp_path / "l", address=("127.0.0.1", 0), patience=-1) as operations:
        assert get(operations, "/healthz")[0] == 503


def test_events_are_counted(operations):
    operations({"event": "asking", "round": 0, "exchange": "train"})
    exchange = {"event": "exchange", "exchange": "train", "round": 0, "attempt": 0, "seconds": 2.5}
    sizes = {"bytes_down": {"site-a": 7, "site-b": 7}, "bytes_up": {"site-a": 9}}
    operations(exchange | sizes | {"lost": {"site-b": "TransportError: no answer in 30 s"}})
    operations({"event": "attempt-aborted", "round": 0, "attempt": 0, "reason": "U1 has 2 sites"})
    operations({"event": "round", "round": 0, "survivors": ["site-a"], "weights": {"site-a": 5}})
    operations({"event": "engine-restarted", "exit_code": -9})
    page = get(operations, "/metrics")[1]
    assert value(page, "fedsec_rounds_finished_total") == 1
    assert value(page, "fedsec_attempts_aborted_total") == 1
    assert value(page, 'fedsec_exchange_seconds_count{exchange="train"}') == 1
    assert value(page, 'fedsec_exchange_seconds_sum{exchange="train"}') == 2.5
    assert value(page, 'fedsec_exchange_bytes_total{direction="up",site="site-a"}') == 9
    assert value(page, 'fedsec_exchange_bytes_total{direction="down",site="site-b"}') == 7
    assert value(page, 'fedsec_sites_lost_total{reason="TransportError"}') == 1
    assert value(page, "fedsec_engine_restarts_total") == 1
    assert 0 <= value(page, "fedsec_seconds_since_exchange") < 60
    assert value(page, 'fedsec_disk_free_bytes{folder="run"}') > 0
    assert "weight" not in page


def test_labels_do_not_grow_with_what_arrives(operations):
    for i in range(200):
        operations({"event": "exchange", "exchange": f"x{i}", "seconds": 0, "bytes_up": {f"stranger-{i}": 1}})
    page = get(operations, "/metrics")[1]
    assert value(page, 'fedsec_exchange_bytes_total{direction="up",site="other"}') == 200
    assert page.count("fedsec_exchange_seconds_count{") == 65


def test_no_event_breaks_the_run(operations, log):
    for event in ({}, {"event": "exchange", "bytes_up": 3, "lost": 4}, {"event": "train"}, {"event": ["x"], 1: 2}):
        operations(event)
    assert len(lines(log)) == 5


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
kinds = st.sampled_from(["train", "exchange", "answered", "refused", "round", "engine-restarted", "encrypt"])
parts = ["site", "sites", "round", "step", "steps", "seconds", "bytes_up", "bytes_down", "lost", "exchange"]


@given(kinds | values, st.dictionaries(st.sampled_from(parts), values))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_event_holds_it_breaks_nothing(operations, kind, event):
    operations(event | {"event": kind})
    assert b"nan" not in generate_latest(operations.metrics.registry).lower()


def test_callers_that_hang_do_not_keep_others_out(operations):
    hanging = [socket.create_connection(("127.0.0.1", operations.port)) for _ in range(6)]
    for one in hanging:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
    assert get(operations, "/healthz", seconds=30)[0] == 200
    for one in hanging:
        one.close()


@pytest.mark.parametrize("path", ["/", "/metrics/../etc/passwd", "/healthz/", "/readyz?x"])
def test_nothing_else_is_served(operations, path):
    assert get(operations, path)[0] == (503 if path == "/readyz?x" else 404)


def test_only_get(operations):
    assert get(operations, "/metrics", method="DELETE")[0] == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:9", 200), ("evil.example", 400), ("a b", 400)],
)
def test_a_page_that_comes_by_another_name_is_refused(operations, host, status):
    assert get(operations, "/healthz", host)[0] == status


@pytest.mark.parametrize("host", ["0.0.0.0", "", "localhost", "192.0.2.1", "::", "127.0.0.2", "::ffff:127.0.0.1"])
def test_any_address_but_loopback_is_refused(host):
    with pytest.raises(ConfigError, match=r"expected 127\.0\.0\.1 or ::1"):
        Operations("site", address=(host, 0))
    with pytest.raises(ConfigError):
        LocalServer(lambda *a: [], host, 0)


def test_it_listens_on_loopback_alone(operations):
    import psutil

    listening = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert ("127.0.0.1", operations.port) in listening
    assert {a.ip for a in listening if a.port == operations.port} == {"127.0.0.1"}


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_loopback(tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with Operations("site", log=tmp_path / "l", address=("::1", 0)) as operations:
        assert get(operations, "/healthz", address="[::1]")[0] == 200


def test_a_port_in_use_is_said_and_a_closed_one_is_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Operations("site", log=tmp_path / "l", address=("127.0.0.1", port)) as first:
        assert first.port == port
        assert get(first, "/healthz")[0] == 200
        with (
            pytest.raises(ConfigError, match="is in use or cannot be had; choose another"),
            Operations("site", log=tmp_path / "m", address=("127.0.0.1", port)),
        ):
            pass
    with Operations("site", log=tmp_path / "l", address=("127.0.0.1", port)) as again:
        assert get(again, "/healthz")[0] == 200


class Agent:
    def handle(self, exchange, body):
        if exchange == "bad":
            raise AbortError("patient 17 is not in the list")
        if exchange == "bug":
            raise ValueError("patient 17")
        return body * 2


def test_a_sites_answers_are_measured(log):
    with Operations("site", site="site-a", log=log, address=("127.0.0.1", 0)) as operations:
        agent = operations.watch(Agent())
        operations.identify("run-7")
        assert agent.handle("train", b"abc") == b"abcabc"
        for exchange, kind in (("bad", AbortError), ("bug", ValueError)):
            with pytest.raises(kind):
                agent.handle(exchange, b"x")
        page = get(operations, "/metrics")[1]
    assert value(page, 'fedsec_exchange_bytes_total{direction="up",site="site-a"}') == 6
    assert value(page, 'fedsec_exchange_bytes_total{direction="down",site="site-a"}') == 3
    assert value(page, "fedsec_replies_refused_total") == 1
    answered, refused, failed = lines(log)[1:4]
    assert (answered["event"], answered["run"], answered["bytes_up"]) == ("answered", "run-7", 6)
    assert (refused["event"], refused["error"], refused["exchange"]) == ("refused", "AbortError", "bad")
    assert (failed["event"], failed["level"], failed["error"]) == ("failed", "error", "ValueError")
    assert "patient" not in log.read_text()


def test_work_is_two_lines_however_many_steps(operations, log):
    for step in range(1, 6):
        operations({"event": "train", "site": "site-a", "round": 0, "step": step, "steps": 5, "loss": 1.0})
    assert [x["state"] for x in lines(log)[1:]] == ["began", "ended"]
    assert not any({"step", "steps", "loss", "left_out"} & x.keys() for x in lines(log))


def test_a_message_that_does_not_format_is_a_line_too():
    record = logging.LogRecord("grpc", logging.WARNING, __file__, 7, "two %s %s", ("Jane Doe",), None)
    line = json.loads(logs.JsonFormatter({}).format(record))
    assert (line["text"], line["where"]) == ("[a message that does not format]", "test_operations:7")


def test_libraries_are_heard_without_their_words(operations, log):
    logging.getLogger("tokens.of.a.library").warning("cannot encode %s", "Jane Doe has pain")
    logging.getLogger("nvflare.cell").warning("no peer at /srv/kit/startup: %s", "timed out")
    logging.getLogger("torch").info("below the level")
    try:
        raise ValueError("Jane Doe")
    except ValueError:
        logging.getLogger("another").exception("failed on Jane Doe")
    found = lines(log)[1:]
    assert [x["logger"] for x in found] == ["tokens.of.a.library", "nvflare.cell", "another"]
    assert found[1]["text"] == "no peer at [path]: timed out"
    assert found[2]["error"] == "ValueError"
    assert found[2]["trace"][0].startswith("test_operations.py:")
    assert "Jane" not in log.read_text()


def test_a_failure_leaves_its_class_and_place(log):
    with pytest.raises(AbortError), Operations("site", log=log):
        raise AbortError("too few: Jane Doe")
    failed = lines(log)[1]
    assert (failed["event"], failed["error"], failed["level"]) == ("failed", "AbortError", "error")
    assert "Jane" not in log.read_text()


def test_the_file_is_its_owners_and_rotates(log, monkeypatch):
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    monkeypatch.setattr(logs, "KEPT_FILES", 2)
    with Operations("site", log=log) as operations:
        for i in range(100):
            operations({"event": "asking", "round": i, "exchange": "train"})
    files = sorted(p.name for p in log.parent.iterdir())
    assert files == ["fedsec.jsonl", "fedsec.jsonl.1", "fedsec.jsonl.2"]
    for name in files:
        assert stat.S_IMODE((log.parent / name).stat().st_mode) == 0o600
        assert (log.parent / name).stat().st_size <= 2000
        lines(log.parent / name)


def test_a_log_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the log cannot be written"), Operations("site", log=tmp_path / "file" / "x"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_stops_nothing_and_is_counted(capsys):
    with Operations("site", log=Path("/dev/full"), address=("127.0.0.1", 0)) as operations:
        operations({"event": "asking", "round": 0})
        page = get(operations, "/metrics")[1]
    assert value(page, "fedsec_log_lines_dropped") == 2
    assert capsys.readouterr().err == ""


def test_what_was_there_before_is_there_again(tmp_path):
    before = logging.getLogger().handlers[:]
    with Operations("site", log=tmp_path / "l"):
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before


def test_one_callback_for_several():
    first, second = [], []
    together(first.append, second.append)({"event": "asking"})
    assert first == second == [{"event": "asking"}]
