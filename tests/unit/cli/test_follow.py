"""`fedsec status RUN --follow`: what it draws, and that it ends with the run that another process writes."""

import io
import json
import subprocess
import sys
import time

import pytest
from rich.console import Console

from fedsec.cli.follow import follow, loss_lines, view
from fedsec.study.folder import RunFolder
from tests.e2e.federation import Keys, make_plan

SIZES = {"train": 264, "share": 1592, "mask": 41_000_000, "confirm": 198, "unmask": 433, "verdict": 198, "witness": 325}


@pytest.fixture
def folder(tmp_path):
    plan = make_plan(Keys.generate(5), rounds=2)
    return RunFolder.create(tmp_path / "run", "tiny-1", tmp_path, plan, {})


def exchange(name, index, lost=()):
    sites = [f"site-{c}" for c in "abcde"]
    up = {s: SIZES[name] for s in sites if s not in lost}
    why = dict.fromkeys(lost, "TransportError: no answer")
    known = {"event": "exchange", "round": index, "attempt": 0, "exchange": name, "seconds": 1.5, "lost": why}
    return known | {"bytes_down": dict.fromkeys(sites, 5000), "bytes_up": up}


def drawn(folder, events, silence=3.2):
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(view(folder, events, silence))
    text = console.file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 100
    return text


def rows(text):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_before_the_first_event(folder):
    text = drawn(folder, [], None)
    assert "now: round 1, train (the first exchange)" in text
    assert "no event yet" in text
    assert rows(text)[0] == ["site-a", "none yet", "0 B", "0 B", ""]


def test_in_the_middle_of_a_round(folder):
    events = [exchange("train", 0), exchange("share", 0), exchange("mask", 0, lost=["site-d"])]
    text = drawn(folder, events)
    assert "now: round 1, confirm; 4 of 5 sites answered mask in 1.5 s" in text
    assert "last event 3 s ago" in text
    assert "0/2" in text
    assert rows(text)[2:4] == [
        ["site-c", "round 1, mask", "41.0 MB", "15.0 kB", ""],
        ["site-d", "round 1, share", "1856 B", "15.0 kB", "1"],
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["verdict"], "now: round 1, witness"),
        (["verdict", "witness"], "now: round 2, train"),
        (["verdict", "share-ahead", "verdict"], "now: round 1, share-ahead"),
    ],
)
def test_what_is_on_follows_from_the_mode_and_from_this_run(folder, names, said, monkeypatch):
    monkeypatch.setitem(SIZES, "share-ahead", 1)
    assert said in drawn(folder, [exchange(name, 0) for name in names])


def test_after_an_attempt_that_broke_off_the_next_begins(folder):
    aborted = {"event": "attempt-aborted", "round": 0, "attempt": 0, "reason": "U1 has 2 sites,\x1b[2J 3 are needed"}
    text = drawn(folder, [exchange("share", 0), aborted])
    assert "now: round 1, train" in text
    assert "aborted attempt 1 of round 1: U1 has 2 sites, [2J 3 are needed" in text


def test_the_end(folder):
    done = [{"event": "round", "round": i, "survivors": []} for i in range(2)]
    last = [*done, exchange("witness", 1), exchange("witness", 2)]
    assert "now: end, work of the coordinator" in drawn(folder, last)
    text = drawn(folder, [*last, {"event": "finished"}])
    assert rows(text)[0][1] == "end, witness"
    assert "finished" in text
    assert "2/2" in text
    assert "ago" not in text


def test_only_the_last_losses_and_each_as_one_line(folder):
    events = [exchange("train", 0)]
    events += [{"event": "lost", "round": 0, "exchange": "mask", "sites": {f"site-{i}": "x\ny"}} for i in range(9)]
    text = drawn(folder, events)
    assert [line for line in text.splitlines() if line.startswith("lost")] == [
        f"lost site-{i} in mask: x y" for i in range(4, 9)
    ]
    assert loss_lines({"event": "round"}) == []


WRITER = """
import sys, time
from pathlib import Path
from fedsec.study.folder import RunFolder
folder = RunFolder.open(Path(sys.argv[1]))
for i in range(2):
    time.sleep(0.3)
    with (folder.path / "metrics.jsonl").open("ab") as out:
        out.write(b'{"event": "round", ')
        out.flush()
        time.sleep(0.3)
        out.write(b'"round": %d, "survivors": []}\\n' % i)
folder.note({"event": "finished"})
"""


def test_it_reads_while_another_process_writes_and_ends_with_the_run(folder):
    console = Console(width=100, file=io.StringIO(), force_terminal=True)
    moments = []

    def sleep(seconds):
        moments.append(len(folder.events()))

        time.sleep(0.1)

    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path)]) as writer:
        follow(folder, console, sleep=sleep)
        assert writer.wait(30) == 0
    assert {0, 1} <= set(moments)
    assert "finished" in console.file.getvalue()


def test_ctrl_c_ends_the_watching_and_nothing_else(folder):
    def interrupted(seconds):
        raise KeyboardInterrupt

    follow(folder, Console(file=io.StringIO()), sleep=interrupted)


def test_json_waits_and_stays_one_object(fedsec, folder):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path)]) as writer:
        result = fedsec("status", folder.path, "--follow", "--json")
        assert writer.wait(30) == 0
    assert json.loads(result.out)["finished"] is True
    assert fedsec("status", folder.path, "--follow").code == 0
