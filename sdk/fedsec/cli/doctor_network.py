"""The rows of `fedsec doctor` about a startup kit: name, proxy, TLS, certificates and the clock they are judged by."""

from __future__ import annotations

import datetime
import email.utils
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fedsec.cli.doctor_rows import Row, Status
from fedsec.ops.kit import Kit, Role, load_kit, read_certificate
from fedsec.ops.proxy import Proxy, Tunnel, connect, for_grpc, proxy_for
from fedsec.ops.tls import days_left, handshake, require_issued, require_name
from fedsec_secure.errors import ConfigError, FedsecError, TransportError

WARN_DAYS = 30.0
_SECONDS = 10.0
_CLOCK_WARN, _CLOCK_FAIL = 60.0, 600.0


def network_rows(
    folder: Path, role: Role, site: str | None = None, environ: Mapping[str, str] | None = None
) -> list[Row]:
    """Everything about one kit. ``site``: whose it should be; ``environ``: this process's, unless given."""
    environ = for_grpc(os.environ if environ is None else environ)
    try:
        kit = load_kit(folder, role)
    except (FedsecError, OSError) as e:
        return [Row("startup kit", "fail", str(e))]
    rows = [Row("startup kit", "ok", f"{role}, server {kit.host}:{kit.port}, {kit.scheme}"), _key_row(kit)]
    rows += _certificate_rows(kit, site)
    proxy, proxy_row = _proxy(kit, environ)
    rows += [_dns_row(kit, proxy), proxy_row]
    if proxy_row.status == "fail":
        return [*rows, _clock_row(None)]
    server, date = _reach(kit, proxy)
    return [*rows, *server, _clock_row(date)]


def _key_row(kit: Kit) -> Row:
    mode = stat.S_IMODE(kit.key.stat().st_mode)
    if mode & 0o077:
        return Row("kit key", "fail", f"{kit.key.name} has mode {mode:04o}; others can read it: chmod 600")
    return Row("kit key", "ok", f"{kit.key.name}, mode {mode:04o}")


def _certificate_rows(kit: Kit, site: str | None) -> list[Row]:
    """The kit's own certificate and its root: whose it is, who signed it, and how long they hold."""
    rows = []
    for check, path in (("kit certificate", kit.certificate), ("kit root", kit.root)):
        try:
            if path == kit.certificate:
                require_issued(kit)
                require_name(kit, site)
            rows.append(_days_row(check, days_left(read_certificate(path), _now())))
        except FedsecError as e:
            rows.append(Row(check, "fail", str(e)))
    return rows


def _days_row(check: str, days: float) -> Row:
    if days < 0:
        return Row(check, "fail", f"expired {-days:.0f} days ago: ask the coordinator for a new kit")
    status: Status = "warn" if days < WARN_DAYS else "ok"
    renew = "; renew it: ask the coordinator for a new kit" if status == "warn" else ""
    return Row(check, status, f"{days:.0f} days left{renew}")


def _dns_row(kit: Kit, proxy: Proxy | None) -> Row:
    host, port = (kit.host, kit.port) if proxy is None else (proxy.host, proxy.port)
    who = "" if proxy is None else "proxy "
    try:
        found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as e:
        return Row("DNS", "fail", f"{who}{host}: {e.strerror or e}; ask for a record of this name")
    behind = f"; {kit.host} is resolved by the proxy" if proxy else ""
    return Row("DNS", "ok", f"{who}{host} is {', '.join(found[:4])}{behind}")


def _proxy(kit: Kit, environ: Mapping[str, str]) -> tuple[Proxy | None, Row]:
    """The proxy that the engine takes, by gRPC's rules; a row that fails where it cannot take what is set."""
    try:
        proxy = proxy_for(kit.host, environ)
    except ConfigError as e:
        return None, Row("proxy", "fail", str(e))
    if proxy is not None and kit.scheme != "grpc":
        said = f"{proxy} is set, and the kit's scheme {kit.scheme!r} goes round it; only grpc takes a proxy"
        return None, Row("proxy", "warn", said)
    return proxy, Row("proxy", "ok", f"{proxy}" if proxy else "none: a straight connection")


def _reach(kit: Kit, proxy: Proxy | None) -> tuple[list[Row], str | None]:
    """Rows on the connection and the handshake, and what time the proxy says it is."""
    way = f"through {proxy}" if proxy else "straight"
    try:
        tunnel = connect(kit.host, kit.port, proxy, _SECONDS)
    except (TransportError, OSError) as e:
        said = str(e) if isinstance(e, TransportError) else f"{kit.host}:{kit.port} {way}: {_words(e)}"
        if kit.role == "coordinator" and isinstance(e, ConnectionRefusedError) and proxy is None:
            return [Row("server", "warn", f"nothing listens at {kit.host}:{kit.port} yet")], None
        return [Row("server", "fail", said)], None
    return [Row("server", "ok", f"{kit.host}:{kit.port} answers {way}"), *_tls_rows(kit, tunnel)], tunnel.date


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {_SECONDS:.0f} s; ask for an outbound rule to this port"
    return error.strerror or str(error)


def _tls_rows(kit: Kit, tunnel: Tunnel) -> list[Row]:
    try:
        shown = handshake(kit, tunnel.socket)
        days = days_left(shown, _now())
    except (FedsecError, OSError) as e:
        said = str(e) if isinstance(e, FedsecError) else f"the connection broke in the handshake: {_words(e)}"
        return [Row("TLS", "fail", said)]
    finally:
        tunnel.socket.close()
    return [
        Row("TLS", "ok", f"both sides accept each other's certificate for {kit.host}"),
        _days_row("server certificate", days),
    ]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _clock_row(date: str | None) -> Row:
    """This clock beside the proxy's, where it said one, and the machine's own word on whether it is set by NTP."""
    said, status = [f"{_now():%Y-%m-%d %H:%M:%S} UTC"], "ok"
    if (off := _seconds_off(date)) is not None:
        status = "fail" if abs(off) > _CLOCK_FAIL else "warn" if abs(off) > _CLOCK_WARN else "ok"
        side = "ahead of" if off > 0 else "behind"
        said.append(f"{abs(off):.0f} s {side} the proxy's clock")
    match synchronised():
        case True:
            said.append("set by NTP")
        case False:
            status = "warn" if status == "ok" else status
            said.append("not set by NTP: certificates and approvals are judged by this clock")
        case None:
            said.append("whether NTP sets it is not known here")
    return Row("clock and certificates", status, "; ".join(said))  # type: ignore[arg-type]


def _seconds_off(date: str | None) -> float | None:
    """How far this clock is ahead of an HTTP date, within a second; None for no date."""
    if date is None:
        return None
    try:
        return (_now() - email.utils.parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):
        return None


def synchronised() -> bool | None:
    """What timedatectl or chronyc say; None where neither is here or tells."""
    answers = {"NTPSynchronized=yes": True, "NTPSynchronized=no": False}
    if (found := _output("timedatectl", "show", "--property=NTPSynchronized")) in answers:
        return answers[found]
    tracking = _output("chronyc", "-c", "tracking")
    return None if "," not in tracking else not tracking.endswith("Not synchronised")


def _output(name: str, *arguments: str) -> str:
    program = shutil.which(name)
    if program is None:
        return ""
    try:
        run = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
