"""A process that runs tiny federations in children of its own and kills them with SIGKILL at a chosen moment.

A *moment* is the start or end of an exchange or of one site's answer, or the instant before a SQL statement, an fsync,
a rename or an unlink of journal or store, or after an fsync. The sequence of moments is the same in every run of one
plan, so a number or a label names one. SIGKILL leaves the page cache alone: this shows order and atomicity, not what a
power cut loses.

Run as ``python -m tests.e2e.crash KEYS`` it reads jobs as JSON lines and answers each with one. It imports no torch, so
a forked child costs milliseconds and has no threads to lose.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from fedsec.coordinator.exchange import Exchange, Outcome, Transport
from fedsec.plan.model import Plan
from fedsec.plan.specs import DpSpec
from fedsec.site import encrypted
from fedsec.site.agent import SiteAgent
from fedsec.site.end import claimed_context
from fedsec.site.ledger import Ledger
from fedsec.site.store import SiteStore
from fedsec_secure.codec import head_length, seal
from fedsec_secure.errors import FedsecError
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.draw import commitment
from fedsec_secure.masking.messages import MaskRequest, decode_packets, encode_packets
from fedsec_secure.masking.site_draw import SiteCommitted
from fedsec_secure.secrets import SecretBytes
from tests.e2e.encrypting import InProcess
from tests.e2e.federation import RUN, Federation, Keys, loss_of, make_plan

RESULT, SENT, ANSWERS = "result.json", "sent.txt", "answers.txt"
_ONCE = ("commit", "reveal", "draw", "key-offer", "key-deal", "key-take", "sum", "verdict")
"""What a site answers once in a run or round, whatever happens."""
_UPLOADS = ("step", "mask", "encrypt")
Lie = Callable[[str, bytes], bytes]
"""(exchange, honest request) -> another one."""


class Moments:
    """Counts moments and kills the process at one of them."""

    def __init__(self, kill_at: int | str | None) -> None:
        self.kill_at = kill_at
        self.labels: list[str] = []
        self._seen: dict[str, int] = {}

    def pass_by(self, name: str) -> None:
        count = self._seen[name] = self._seen.get(name, 0) + 1
        label = f"{name} #{count}"
        if self.kill_at in (label, len(self.labels)):
            os.kill(os.getpid(), signal.SIGKILL)
        self.labels.append(label)


class WatchedDatabase:
    """Every statement is a moment."""

    def __init__(self, db: sqlite3.Connection, who: str, moments: Moments) -> None:
        self._db, self._who, self._moments = db, who, moments

    def execute(self, sql: str, *args):
        if not sql.startswith(("SELECT", "PRAGMA")):
            self._moments.pass_by(f"{self._who} sql {sql.partition(' VALUES')[0]}")
        return self._db.execute(sql, *args)

    def executemany(self, sql: str, *args):
        self._moments.pass_by(f"{self._who} sql many {sql.partition(' VALUES')[0]}")
        return self._db.executemany(sql, *args)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()


def over_database(store: SiteStore, db) -> None:
    """Have every part of a site's record write through this."""
    for part in (store, *vars(store).values()):
        if hasattr(part, "_db"):
            part._db = db


def watch_site(store: SiteStore, ledger: Ledger, who: str, moments: Moments) -> None:
    """A site's record and its ledger, two files that have to agree."""
    over_database(store, WatchedDatabase(store._db, who, moments))
    ledger._file._db = WatchedDatabase(ledger._file._db, f"{who} ledger", moments)


class WatchedAgent:
    """A site whose answers begin and end at moments.

    What is uploaded stands in `SENT`, and digests of what is answered once in `ANSWERS`, over all lives. ``lie``, if
    any: what the site is asked first, once, where it is asked for an upload; ``lies`` has what came of that.
    """

    def __init__(self, site: str, agent, moments: Moments, folder: Path, lie: Lie | None = None) -> None:
        self._site, self._agent, self._moments, self._folder = site, agent, moments, folder
        self._lie, self.lies = lie, []

    def handle(self, name: str, body: bytes):
        self._moments.pass_by(f"{self._site} before {name}")
        if self._lie is not None and name in _UPLOADS:
            lie, self._lie = self._lie, None
            try:
                self._keep(name, other := lie(name, body), self._agent.handle(name, other))
                self.lies.append("answered")
            except FedsecError as e:
                self.lies.append(f"refused: {e}")
        reply = self._agent.handle(name, body)
        self._keep(name, body, reply)
        self._moments.pass_by(f"{self._site} after {name}")
        return reply

    def _keep(self, name: str, body: bytes, reply) -> None:
        if name in _UPLOADS:
            place = self._agent._place(name, body)
            update, upload = self._agent._store.update(place.run, place.round), hashlib.sha256(reply.read_bytes())
            with (self._folder / SENT).open("a") as lines:
                print(self._site, place.round, place.attempt, update.sha256.hex(), upload.hexdigest(), file=lines)
        if name in _ONCE:
            place = self._agent._place(name, body)
            with (self._folder / ANSWERS).open("a") as lines:
                print(self._site, name, place.round, hashlib.sha256(reply).hexdigest(), file=lines)


def without_one(keys: Keys) -> Lie:
    """A request for an upload to a smaller set: the same without the last site."""

    def lie(name: str, body: bytes) -> bytes:
        end = head_length(body)
        if name == "mask":
            asked = MaskRequest.decode(body[end:])
            last = max(asked.dealings)
            dealings, sealed = ({s: v for s, v in part.items() if s != last} for part in (asked.dealings, asked.sealed))
            other = MaskRequest(dealings, sealed).encode()
        else:
            packets = decode_packets(body[end:], "test")
            other = encode_packets({s: p for s, p in packets.items() if s != max(packets)})
        return seal(f"{name}-request", COORDINATOR, claimed_context(body), other, keys.coordinator.sign)

    return lie


class WatchedTransport:
    """Exchanges begin and end at moments. The end is before the journal knows of it."""

    def __init__(self, transport: Transport, moments: Moments) -> None:
        self._transport, self._moments = transport, moments

    def sites(self):
        return self._transport.sites()

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        self._moments.pass_by(f"before {exchange.name}")
        outcome = self._transport.exchange(exchange, spool)
        self._moments.pass_by(f"after {exchange.name}")
        return outcome


def watch_files(moments: Moments) -> None:
    """fsync, rename and unlink become moments in this process."""
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def watched_fsync(handle: int) -> None:
        moments.pass_by("before fsync")
        fsync(handle)
        moments.pass_by("after fsync")

    def watched_replace(self: Path, target: Path) -> Path:
        moments.pass_by(f"rename to {target.suffix or 'spool'}")
        return replace(self, target)

    def watched_unlink(self: Path, missing_ok: bool = False) -> None:
        if self.exists():
            moments.pass_by(f"unlink {self.suffix or 'spool'}")
        unlink(self, missing_ok)

    os.fsync, Path.replace, Path.unlink = watched_fsync, watched_replace, watched_unlink


def plan_of(job: Mapping, keys: Keys) -> Plan:
    """Options of `make_plan`; ``dp`` as JSON."""
    options = dict(job["plan"])
    if "dp" in options:
        options["dp"] = DpSpec.model_validate(options["dp"])
    return make_plan(keys, **options)


def run(job: Mapping, keys: Keys) -> None:
    """One federation in this process; the result goes to the job's folder."""
    moments, folder = Moments(job["kill_at"]), Path(job["folder"])
    watched: dict[str, WatchedAgent] = {}

    def watch(site: str, agent: SiteAgent) -> WatchedAgent:
        lie = without_one(keys) if site == job["lie_to"] else None
        return watched.setdefault(site, WatchedAgent(site, agent, moments, folder, lie))

    federation = Federation(
        folder,
        keys,
        plan_of(job, keys),
        wrap=watch,
        carry=lambda transport: WatchedTransport(transport, moments),
        loss=loss_of,
    )
    if "nonces" in job:
        _draw_with(job["nonces"])
    with federation:
        for name, store in federation.stores.items():
            watch_site(store, federation.ledgers[name], name, moments)
        federation.journal._db = WatchedDatabase(federation.journal._db, "journal", moments)
        watch_files(moments)
        adapter = federation.run()
        drawn = {name: store.draws.committed(RUN) for name, store in federation.stores.items()}
        groups = {store.draws.groups(RUN) for store in federation.stores.values()}
    result = {"adapter": adapter.digest().hex(), "moments": moments.labels, "left": what_is_left(folder)}
    result["nonces"] = {name: state.nonce.reveal().hex() for name, state in drawn.items() if state is not None}
    result["groups"] = sorted(groups, key=str)
    result["lies"] = [said for agent in watched.values() for said in agent.lies]
    (folder / RESULT).write_text(json.dumps(result))


def _draw_with(nonces: Mapping[str, str]) -> None:
    """The groups of another run again: in this process sites commit to what they committed to there."""

    def begin(me, context, sign):
        nonce = SecretBytes(bytes.fromhex(nonces[me]))
        return SiteCommitted(
            me, context, nonce, seal("commit", me, context, commitment(context, me, nonce.reveal()), sign)
        )

    SiteCommitted.begin = begin


def what_is_left(folder: Path) -> list[str]:
    """Files that stay after a run, and the stages whose secrets were not deleted."""
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    secrets = []
    for record in sorted(folder.glob("state/*/record.sqlite")):
        with sqlite3.connect(record) as db:
            rows = db.execute("SELECT round, stage FROM stages WHERE record IS NOT NULL").fetchall()
            keys = db.execute("SELECT run FROM encryption WHERE key IS NOT NULL OR offered IS NOT NULL").fetchall()
        secrets += [f"secrets of {record.parent.name} round {r} {s}" for r, s in rows]
        secrets += [f"encryption key of {record.parent.name} in {run}" for (run,) in keys]
    return sorted(f for f in files if not f.endswith(("-wal", "-shm"))) + secrets


def in_child(job: Mapping, keys: Keys) -> dict:
    """Fork, run, wait: {"signal": n} for a killed child, else its exit status and result."""
    Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(job, keys)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    result = Path(job["folder"]) / RESULT
    return {"status": os.WEXITSTATUS(status)} | (json.loads(result.read_text()) if result.exists() else {})


class CrashLab:
    """The parent's end: starts the process and sends it jobs."""

    def __init__(self, folder: Path, sites: int, **environment: str) -> None:
        if not (folder / "keys").exists():
            Keys.generate(sites).save(folder / "keys")
        root = Path(__file__).resolve().parents[2]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment
        command = [sys.executable, "-m", "tests.e2e.crash", str(folder / "keys")]
        self._process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        folder: Path,
        kill_at: int | str | None = None,
        nonces: Mapping | None = None,
        lie_to: str | None = None,
        **plan,
    ) -> dict:
        """Run (or resume) the federation of ``folder`` in a fresh child.

        ``nonces``: of sites that draw groups. ``lie_to``: the site that is asked for an upload to a smaller set first.
        """
        drawn = {} if nonces is None else {"nonces": nonces}
        job = json.dumps({"folder": str(folder), "kill_at": kill_at, "lie_to": lie_to, "plan": plan} | drawn)
        self._process.stdin.write(job + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


def main() -> None:
    encrypted.EncryptionWorkers = InProcess  # a site and its workers die together: what is durable is the site's
    keys = Keys.load(Path(sys.argv[1]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(in_child(json.loads(line), keys)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
