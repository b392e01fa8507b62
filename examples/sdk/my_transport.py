"""A transport of one's own: messages as files in a folder that all machines see, and a process a site.

python examples/sdk/my_transport.py FOLDER                              plays all of it with three invented hospitals
python examples/sdk/my_transport.py site PLAN site.toml DRIVE           one site, until the run is over
python examples/sdk/my_transport.py coordinator PLAN coordinator.toml DRIVE RUN

Killed, the last two go on where they were when they are called again.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hospitals import make_hospitals
from site_and_coordinator import coordinate, site

from fedsec.coordinator.exchange import Exchange, Outcome, Reply
from fedsec.plan.document import load_plan, read_bounded
from fedsec.plan.sitefile import load_site
from fedsec.site.agent import SiteAgent
from fedsec.spool import private_folder, read_chunks, write_durably
from fedsec.study.verify import verify_run
from fedsec_secure.errors import FedsecError
from fedsec_secure.identity.roster import SiteId

PAUSE = 0.05
MOST_BYTES = 1 << 24
SMALL, UPLOAD, REFUSED = ".small", ".upload", ".refused"


@dataclass(frozen=True)
class Drive:
    """DRIVE/SITE/ID.ask goes down; ID.small, ID.upload or ID.refused comes up. The id is the request's digest.

    Whoever can write here can lose, delay and repeat messages, and forge none: every one is signed.
    """

    folder: Path
    names: tuple[SiteId, ...]

    def sites(self) -> tuple[SiteId, ...]:
        return self.names

    def exchange(self, exchange: Exchange, spool: Path) -> Outcome:
        replies: dict[SiteId, Reply] = {}
        lost: dict[SiteId, str] = {}
        asked = {s: self._ask(s, exchange.name.encode() + b"\n" + body) for s, body in exchange.requests.items()}
        until = time.monotonic() + exchange.deadline
        while asked and time.monotonic() < until:
            for name, ask in list(asked.items()):
                answer = next((p for kind in (SMALL, UPLOAD, REFUSED) if (p := ask.with_suffix(kind)).exists()), None)
                if answer is None:
                    continue
                del asked[name]
                if answer.suffix == REFUSED:
                    lost[name] = read_bounded(answer, MOST_BYTES).decode(errors="replace")[:500]
                elif answer.suffix == SMALL:
                    replies[name] = read_bounded(answer, MOST_BYTES)
                else:
                    path = spool / f"{exchange.round:04d}-{exchange.attempt}-{exchange.name}-{name}"
                    write_durably(path, read_chunks(answer))
                    replies[name] = path
                answer.unlink()
            time.sleep(PAUSE)
        return Outcome(replies, lost | dict.fromkeys(asked, "no answer in time"))

    def _ask(self, name: SiteId, message: bytes) -> Path:
        ask = private_folder(self.folder / name) / f"{hashlib.sha256(message).hexdigest()}.ask"
        for kind in (SMALL, UPLOAD, REFUSED):
            ask.with_suffix(kind).unlink(missing_ok=True)  # an answer from before a kill: the site gives it again
        write_durably(ask, [message])
        return ask


def answer(agent: SiteAgent, mailbox: Path, over: Path) -> None:
    """A site's whole service: it decides for itself what it answers, whoever asks."""
    while not over.exists():
        for ask in sorted(mailbox.glob("*.ask")):
            name, _, body = ask.read_bytes().partition(b"\n")
            try:
                reply = agent.handle(name.decode(errors="replace"), body)
            except FedsecError as e:
                write_durably(ask.with_suffix(REFUSED), [str(e).encode()])
            else:
                if isinstance(reply, bytes):
                    write_durably(ask.with_suffix(SMALL), [reply])
                else:
                    write_durably(ask.with_suffix(UPLOAD), read_chunks(reply))
            ask.unlink()
        time.sleep(PAUSE)


def run_site(plan_file: Path, site_file: Path, drive: Path) -> None:
    with ExitStack() as stack:
        mailbox = private_folder(private_folder(drive) / load_site(site_file).name)
        answer(site(plan_file, site_file, stack), mailbox, drive / "over")


def run_coordinator(plan_file: Path, coordinator_file: Path, drive: Path, run: Path) -> None:
    names = tuple(SiteId(name) for name in load_plan(plan_file).roster.sites)
    coordinate(plan_file, coordinator_file, run, Drive(private_folder(drive), names))
    (drive / "over").touch()


def play(folder: Path) -> None:
    """Every site is a process of its own."""
    plan_file, drive, run = make_hospitals(folder), folder / "drive", folder / "run"
    names = load_plan(plan_file).roster.sites
    start = [sys.executable, __file__, "site", str(plan_file)]
    processes = [subprocess.Popen([*start, str(folder / name / "site.toml"), str(drive)]) for name in names]
    try:
        run_coordinator(plan_file, folder / "coordinator" / "coordinator.toml", drive, run)
        codes = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    print(f"{len(codes)} site processes ended with {codes}")
    for row in verify_run(run):
        print(f"{row.outcome:<11} {row.check}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["site", *paths]:
            run_site(*map(Path, paths))
        case ["coordinator", *paths]:
            run_coordinator(*map(Path, paths))
        case [folder]:
            play(Path(folder))
        case _:
            sys.exit(__doc__)
