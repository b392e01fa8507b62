"""Processes of their own that charge a privacy ledger: some race each other, some are killed with SIGKILL on the way.

python -m tests.e2e.ledger_process race               jobs as JSON lines on standard input, one answer each
python -m tests.e2e.ledger_process script FOLDER      the fixed sequence of charges below, once
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fedsec.site.ledger import Ledger
from fedsec_secure.accounting.chain import EMPTY, Head
from fedsec_secure.accounting.rules import Budget
from fedsec_secure.errors import PrivacyBudgetExceededError
from tests.e2e.crash import Moments, WatchedDatabase, watch_files
from tests.unit.secure.accounting.accounting_additive import PLAN, AdditiveAccountant, costs

ADD = AdditiveAccountant()
DELTA = 1e-5
ROUNDS = 3
OUTPUT = b"o" * 32


def open_ledger(folder: Path, expected: Head | None = None) -> Ledger:
    return Ledger(folder / "ledger" / "ledger.sqlite", "ward", "patient", expected=expected)


def reserve(ledger: Ledger, run: str, round_index: int, limit: float):
    return ledger.reserve(
        run=run,
        round_index=round_index,
        purpose="update",
        plan=PLAN,
        event=costs(1.0),
        neighbours="add-or-remove",
        budgets=(Budget(limit, DELTA),),
        accountant=ADD,
    )


# ---- killed


def answers(folder: Path) -> dict[str, Head]:
    """What the script was told, in all its lives: "reserve 0", "spend 0", "reserve 1", … and the head after each."""
    file = folder / "answers"
    lines = file.read_text().splitlines() if file.exists() else []
    return {what: Head.decode(bytes.fromhex(head)) for what, head in (line.split(": ") for line in lines)}


def newest_head(folder: Path) -> Head:
    """The newest that the script was told: what a log elsewhere would hold."""
    return max(answers(folder).values(), key=lambda head: head.sequence, default=EMPTY)


def script(ledger: Ledger) -> Iterator[str]:
    """Reserve and spend, round after round."""
    for round_index in range(ROUNDS):
        made = reserve(ledger, "run", round_index, ROUNDS)
        yield f"reserve {round_index}"
        ledger.spend(made.sequence, OUTPUT)
        yield f"spend {round_index}"


def run_script(folder: Path) -> None:
    """Note each answer as soon as it is there."""
    with open_ledger(folder, newest_head(folder)) as ledger, (folder / "answers").open("a") as notes:
        for what in script(ledger):
            notes.write(f"{what}: {ledger.head().encode().hex()}\n")
            notes.flush()


def killed_child(folder: Path, kill_at: int | None) -> tuple[int, list[str]]:
    """Fork, run the script, die at a moment; (wait status, labels of the moments that were passed)."""
    folder.mkdir(exist_ok=True)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            moments = Moments(kill_at)
            connect = sqlite3.connect
            sqlite3.connect = lambda *a, **k: WatchedDatabase(connect(*a, **k), "ledger", moments)
            watch_files(moments)
            run_script(folder)
            os.write(write_end, json.dumps(moments.labels).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        labels = pipe.read()
    return os.waitpid(child, 0)[1], json.loads(labels) if labels else []


# ---- racing


def race() -> None:
    """One job is {"folder", "run", "charges", "limit", "open_at", "start_at"}; answers how many charges were granted.

    Both moments are of the monotonic clock, which all processes share.
    """
    for line in sys.stdin:
        job = json.loads(line)
        wait_until(job["open_at"])
        with open_ledger(Path(job["folder"])) as ledger:
            wait_until(job["start_at"])
            granted = sum(is_granted(ledger, job, round_index) for round_index in range(job["charges"]))
        sys.stdout.write(f"{granted}\n")
        sys.stdout.flush()


def wait_until(moment: float) -> None:
    """Spins: a process that sleeps wakes up too late for a race."""
    while time.monotonic() < moment:
        pass


def is_granted(ledger: Ledger, job: dict, round_index: int) -> bool:
    try:
        reserve(ledger, job["run"], round_index, job["limit"])
    except PrivacyBudgetExceededError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == "race":
        race()
    else:
        run_script(Path(sys.argv[2]))
