"""`fedsec doctor --site`, `--coordinator`: real TLS servers on loopback, a real proxy, NVFlare's provisioner."""

import datetime
import email.utils
import json
import os
import socket
import ssl
from contextlib import nullcontext

import pytest

from fedsec.cli import doctor_machine, doctor_network
from fedsec.cli.doctor_machine import space_rows
from fedsec.cli.doctor_network import network_rows
from fedsec.ops.kit import load_kit, require_valid
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey
from tests.engine_kits import Authority, connect_proxy, provisioned, site_kit, tls_server


def found(kit, role="site", site=None, environ=None):
    return {r.check: r for r in network_rows(kit, role, site, environ or {})}


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def server(tmp_path, authority):
    """``server(hosts, days)`` → port of a server that accepts this authority's certificates, until the test ends."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(hosts=("localhost",), days=(-1, 360), by=authority, **options):
            folder = tmp_path / "server"
            by.issue(folder, "server", "hub", hosts=hosts, days=days)
            roots = tmp_path / "accepted.pem"
            authority.issue(tmp_path / "r", "x", "x")
            roots.write_bytes((tmp_path / "r" / "rootCA.pem").read_bytes())
            return stack.enter_context(tls_server(folder, roots, **options))

        yield start


def test_a_kit_of_the_provisioner_reaches_a_real_grpc_server(tmp_path):
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("nvflare")
    from concurrent import futures

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kits = provisioned(tmp_path, "localhost", port)
    own = kits["localhost"] / "startup"
    assert found(kits["localhost"], "coordinator")["server"].status == "warn"
    pair = ((own / "server.key").read_bytes(), (own / "server.crt").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (own / "rootCA.pem").read_bytes(), True)
    served = grpc.server(futures.ThreadPoolExecutor(1))
    assert served.add_secure_port(f"127.0.0.1:{port}", credentials) == port
    served.start()
    try:
        rows = found(kits["site-a"], site="site-a") | {"own": found(kits["localhost"], "coordinator")["TLS"]}
    finally:
        served.stop(0).wait()
    clock = rows.pop("clock and certificates")
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys(rows, "ok")
    assert {"DNS", "proxy", "server", "TLS", "server certificate", "kit certificate", "kit root"} <= set(rows)
    assert rows["kit certificate"].found == "360 days left"
    assert clock.status in ("ok", "warn")


def test_the_wrong_kit_is_named(tmp_path, authority):
    row = found(site_kit(tmp_path, authority, "localhost:9", common="site-b"), site="site-a")["kit certificate"]
    assert (row.status, row.found) == (
        "fail",
        "wrong kit: expected one for site-a; found 'site-b': take this site's own",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hosts": ("elsewhere.example",)}, "wrong name: the server's certificate is not for localhost"),
        ({"hosts": ("127.0.0.1",)}, "wrong name"),
        ({"days": (-9, -1)}, "expired: the server's certificate"),
        ({"days": (2, 9)}, "not valid yet"),
        ({"by": Authority("another root")}, "wrong root"),
        ({"by": Authority("root")}, "wrong root"),
        ({"greeting": b""}, "the server closed the connection after the handshake"),
    ],
)
def test_each_fault_of_the_servers_certificate_has_its_name(tmp_path, authority, server, options, said):
    row = found(site_kit(tmp_path / "kit", authority, f"localhost:{server(**options)}"))["TLS"]
    assert row.status == "fail"
    assert said in row.found


@pytest.mark.parametrize(
    ("by", "days", "own", "said"),
    [
        (None, (-9, -2), "expired 2 days ago", "refuses the kit's certificate as expired"),
        (None, (2, 9), "not valid before", "the server refuses the kit's certificate"),
        ("another root", (-1, 9), "days left; renew it", "refuses the kit's certificate: it is signed by another root"),
        (
            "root",
            (-1, 9),
            "days left; renew it",
            "the server refuses the kit's certificate: it is signed by another root",
        ),
    ],
)
def test_each_fault_of_the_kits_certificate_has_its_name(tmp_path, authority, server, by, days, own, said):
    issuer = Authority(by) if by else authority
    port = server()
    kit = site_kit(tmp_path / "kit", issuer, f"localhost:{port}", days=days)
    assert own in found(kit)["kit certificate"].found
    authority.issue(tmp_path / "r", "x", "x")
    (kit / "startup" / "rootCA.pem").write_bytes((tmp_path / "r" / "rootCA.pem").read_bytes())
    rows = found(kit)
    assert rows["TLS"].status == "fail"
    assert said in rows["TLS"].found
    if by:
        assert rows["kit certificate"].found.startswith("wrong root: client.crt is not signed by")


@pytest.mark.parametrize(("left", "status"), [(29.5, "warn"), (31.5, "ok")])
def test_a_certificate_is_renewed_below_thirty_days(tmp_path, authority, server, left, status):
    kit = site_kit(tmp_path / "kit", authority, f"localhost:{server(days=(-1, left))}", days=(-1, left))
    rows = found(kit)
    assert (rows["kit certificate"].status, rows["server certificate"].status) == (status, status)
    assert rows["TLS"].status == "ok"


def test_a_server_that_speaks_no_tls(tmp_path, authority):
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            accepted, _ = listening.accept()
            accepted.sendall(b"220 mail\r\n" * 10)
            accepted.close()

        threading.Thread(target=serve, daemon=True).start()
        row = found(site_kit(tmp_path, authority, f"localhost:{listening.getsockname()[1]}"))["TLS"]
    assert (row.status, row.found) == ("fail", "what answers there speaks no TLS")


def test_the_way_through_a_proxy(tmp_path, authority, server):
    now = datetime.datetime.now(datetime.UTC)
    kit = site_kit(tmp_path / "kit", authority, f"localhost:{server()}")
    for minutes, status, word in (
        (0, ("ok", "warn"), "0 s"),
        (-5, ("warn",), "s ahead of"),
        (30, ("fail",), "s behind"),
    ):
        date = email.utils.format_datetime(now + datetime.timedelta(minutes=minutes), usegmt=True)
        with connect_proxy("--date", date) as proxy:
            rows = found(kit, environ={"https_proxy": f"http://127.0.0.1:{proxy.port}"})
            assert proxy.seen()
        assert rows["proxy"].found == f"http://127.0.0.1:{proxy.port} (https_proxy)"
        assert rows["TLS"].status == "ok"
        assert "localhost is resolved by the proxy" in rows["DNS"].found
        clock = rows["clock and certificates"]
        assert clock.status in status
        assert word in clock.found or minutes == 0


def test_a_proxy_that_refuses_one_in_capitals_and_one_over_tls(tmp_path, authority, server):
    kit = site_kit(tmp_path / "kit", authority, f"localhost:{server()}")
    with connect_proxy("--user", "me:right") as proxy:
        rows = found(kit, environ={"https_proxy": f"http://me:wrong@127.0.0.1:{proxy.port}"})
    assert "with 407" in rows["server"].found
    assert "wrong" not in str(rows)
    rows = found(kit, environ={"HTTPS_PROXY": "http://127.0.0.1:9"})
    assert rows["proxy"].found == "http://127.0.0.1:9 (https_proxy)"  # the engine's processes get it by that name
    assert found(kit, environ={"https_proxy": "https://x:1"})["proxy"].status == "fail"


def test_a_scheme_that_goes_round_the_proxy(tmp_path, authority, server):
    kit = site_kit(tmp_path / "kit", authority, f"localhost:{server()}", scheme="http")
    row = found(kit, environ={"https_proxy": "http://127.0.0.1:9"})["proxy"]
    assert (row.status, "only grpc takes a proxy" in row.found) == ("warn", True)


def test_a_name_without_an_address_and_a_port_without_a_server(tmp_path, authority):
    rows = found(site_kit(tmp_path / "a", authority, "hub.invalid:8002"))
    assert (rows["DNS"].status, rows["server"].status) == ("fail", "fail")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    row = found(site_kit(tmp_path / "b", authority, f"localhost:{port}"))["server"]
    assert (row.status, "Connection refused" in row.found) == ("fail", True)


def test_a_key_that_others_can_read_and_one_of_another_pair(tmp_path, authority, server):
    kit = site_kit(tmp_path / "kit", authority, f"localhost:{server()}")
    (kit / "startup" / "client.key").chmod(0o640)
    assert found(kit)["kit key"].status == "fail"
    other = site_kit(tmp_path / "other", authority, "localhost:9")
    (kit / "startup" / "client.key").write_bytes((other / "startup" / "client.key").read_bytes())
    assert "are not a pair" in found(kit)["TLS"].found


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("fed_client.json", None, "is no startup kit of a site: expected startup/fed_client.json"),
        ("client.key", None, "expected startup/client.key"),
        ("fed_client.json", "{}", "expected servers[0].service"),
        ("fed_client.json", '{"servers": [{"service": {"target": "hub", "scheme": "grpc"}}]}', "servers[0].service"),
        ("fed_client.json", '{"servers": [{"service": {"target": "hub:0", "scheme": "grpc"}}]}', "HOST:PORT"),
        ("client.crt", "x", "expected a certificate in PEM"),
    ],
)
def test_a_kit_that_is_none(tmp_path, authority, name, text, said):
    kit = site_kit(tmp_path, authority, "localhost:9")
    path = kit / "startup" / name
    path.unlink() if text is None else path.write_text(text)
    rows = network_rows(kit, "site", None, {})
    assert [r for r in rows if r.status == "fail" and said in r.found]


def test_the_command_for_a_site(fedsec, tmp_path, authority, server, monkeypatch):
    for name in ("https_proxy", "http_proxy", "grpc_proxy", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    site_kit(tmp_path / "engine", authority, f"localhost:{server()}", common="ash")
    text = f'name = "ash"\nofficer = {json.dumps(SigningKey.generate().public.hex)}\n[data]\npath = "n"\n'
    (tmp_path / "site.toml").write_text(text)
    SigningKey.generate().save(tmp_path / "site.key")
    rows = {r["check"]: r for r in fedsec("doctor", "--json", "--site", tmp_path / "site.toml").json["rows"]}
    assert {"ash key", "ash papers", "GPU", "disk state", "disk ledger", "nvflare", "TLS"} <= set(rows)
    assert rows["TLS"]["status"] == "ok"
    assert max(len(line) for line in fedsec("doctor", "--site", tmp_path / "site.toml").out.splitlines()) <= 100
    missing = fedsec("doctor", "--json", "--site", tmp_path / "none.toml")
    assert missing.code == 1
    (tmp_path / "coordinator.toml").write_text("")
    office = fedsec("doctor", "--json", "--coordinator", tmp_path / "coordinator.toml")
    rows = {r["check"]: r for r in office.json["rows"]}
    assert (office.code, rows["startup kit"]["status"], rows["coordinator key"]["status"]) == (1, "fail", "fail")
    assert "coordinator.key" in rows["coordinator key"]["found"]


def test_the_engines_version(monkeypatch):
    versions = {"nvflare": "2.10.1", "grpcio": "1.85.1"}
    monkeypatch.setattr(doctor_machine.importlib.metadata, "version", versions.__getitem__)
    assert [r.status for r in doctor_machine.engine_rows()[:2]] == ["fail", "ok"]
    versions["nvflare"] = "2.9.3"
    assert [r.status for r in doctor_machine.engine_rows()[:2]] == ["ok", "ok"]

    def none(name):
        raise doctor_machine.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor_machine.importlib.metadata, "version", none)
    assert all("docs/deploy.md says how" in r.found for r in doctor_machine.engine_rows()[:2])
    monkeypatch.setattr(doctor_machine, "landlock_version", lambda: 0)
    assert "could read what this account can" in doctor_machine.engine_rows()[2].found


def test_ntp_as_the_machine_tells_it(tmp_path, monkeypatch):
    """Programs by these names, with the words that systemd 252 and chrony 4 say."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def program(name, words):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{words}'\n")
        (tmp_path / name).chmod(0o755)

    assert doctor_network.synchronised() is None
    program("chronyc", "A29FC87B,162.159.200.123,4,1700000000.1,0.1,0.1,0.1,-1,0.0,0.1,0.1,0.1,64.2,Normal")
    assert doctor_network.synchronised() is True
    program("chronyc", "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised")
    assert doctor_network.synchronised() is False
    program("timedatectl", "NTPSynchronized=yes")
    assert doctor_network.synchronised() is True
    program("timedatectl", "NTPSynchronized=no")
    assert doctor_network._clock_row(None).status == "warn"


def test_a_gpu_that_torch_does_not_use(tmp_path, monkeypatch):
    import torch

    if torch.cuda.is_available():
        assert "CUDA" in doctor_machine.gpu_rows()[0].found
        return
    assert doctor_machine.gpu_rows()[0].status == "ok"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA A100, 81920 MiB, 550.54'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    row = doctor_machine.gpu_rows()[0]
    assert row.status == "warn"
    assert "NVIDIA A100, 81920 MiB, driver 550.54, and torch does not use it" in row.found


def test_the_handshake_is_not_a_pretence(tmp_path, authority, server):
    """Control: with verification off, the same server with a wrong name would be taken."""
    port = server(hosts=("elsewhere.example",))
    kit = site_kit(tmp_path / "kit", authority, f"localhost:{port}")
    assert found(kit)["TLS"].status == "fail"
    context = ssl._create_unverified_context()
    context.load_cert_chain(kit / "startup" / "client.crt", kit / "startup" / "client.key")
    with socket.create_connection(("localhost", port)) as opened, context.wrap_socket(opened) as tls:
        assert tls.recv(1) == b"x"


@pytest.mark.parametrize(("days", "said"), [((-9, -2), "holds from"), ((2, 9), "ask the coordinator"), ((-1, 9), None)])
def test_a_service_does_not_begin_with_a_kit_that_does_not_hold(tmp_path, authority, days, said):
    kit = load_kit(site_kit(tmp_path / "engine", authority, "localhost:8002", days=days), "site")
    with nullcontext() if said is None else pytest.raises(ConfigError, match=said):
        require_valid(kit)
    kit.root.unlink()
    with pytest.raises(ConfigError, match=r"rootCA\.pem: expected a file that this account can read"):
        require_valid(kit)


def test_a_folder_that_cannot_be_used_fails(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (row,) = space_rows({"disk state": tmp_path / "file"})
    assert (row.status, "is no folder" in row.found) == ("fail", True)
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    (row,) = space_rows({"disk state": tmp_path / "state"})
    assert (row.status, "cannot be written to by this account" in row.found) == ("fail", True)


def test_a_check_that_may_not_look_is_a_row_and_the_others_are_there(fedsec, tmp_path, monkeypatch):
    def hidden(*given):
        raise PermissionError(13, "Permission denied", "/etc/fedsec/papers")

    monkeypatch.setattr("fedsec.cli.doctor._site_rows", hidden)
    text = f'name = "ash"\nofficer = {json.dumps(SigningKey.generate().public.hex)}\n[data]\npath = "n"\n'
    (tmp_path / "site.toml").write_text(text)
    asked = fedsec("doctor", "--json", "--site", tmp_path / "site.toml")
    rows = {r["check"]: r for r in asked.json["rows"]}
    assert asked.code == 1
    assert rows["files"]["found"].startswith("/etc/fedsec/papers: Permission denied")
    assert {"python", "nvflare", "startup kit"} <= set(rows)
