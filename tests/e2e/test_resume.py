"""Killed with SIGKILL at any moment and started again, a run ends with the adapter of an undisturbed one, bit for bit.

Same plan, run id, site keys and survivors; every site and the coordinator die together, which is the embedded engine's
worst case.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsec.plan.specs import TrainingSpec
from tests.e2e.federation import Keys, make_plan, run_once, tiny_base, tiny_work

MASKED = ("train", "share", "mask", "confirm", "unmask", "verdict")
PLAIN = ("train", "plain", "verdict")


def kill_and_resume(lab, folder: Path, expected: dict, *kills, **plan) -> None:
    for kill in kills:
        killed = lab.run(folder, kill, **plan)
        assert killed == {"signal": signal.SIGKILL}, f"the run was not killed at {kill!r}: {killed.get('status')}"
    resumed = lab.run(folder, **plan)
    assert resumed["status"] == 0, f"killed at {kills}, the run does not resume"
    assert resumed["adapter"] == expected["adapter"], f"killed at {kills}, the run ends elsewhere"
    assert resumed["left"] == expected["left"], f"killed at {kills}, the run leaves other files or secrets"


def moments_of(exchange: str) -> list[str]:
    """Before, inside (one site answered, the next is asked), after the last answer, before the journal's row."""
    return [f"before {exchange}", f"site-a after {exchange}", f"site-c before {exchange}", f"after {exchange}"]


@pytest.mark.parametrize("round_number", [1, 2])
@pytest.mark.parametrize("exchange", MASKED)
def test_killed_before_inside_and_after_every_exchange(lab, undisturbed, runs, exchange, round_number):
    """Two of the four moments in the first round, the other two in the second."""
    expected = undisturbed()
    for index, moment in list(enumerate(moments_of(exchange)))[round_number - 1 :: 2]:
        kill_and_resume(lab, runs / str(index), expected, f"{moment} #{round_number}")


@pytest.mark.parametrize("exchange", PLAIN)
def test_killed_at_the_exchanges_of_an_open_sum(lab, undisturbed, runs, exchange):
    expected = undisturbed(mode="none", rule="size", strategy="ffa")
    for index, moment in enumerate(moments_of(exchange)):
        kill_and_resume(lab, runs / str(index), expected, f"{moment} #1", mode="none", rule="size", strategy="ffa")


def test_killed_at_sampled_writes(lab, undisturbed, runs):
    """Statements, fsyncs, renames and unlinks in journal and stores: every 61st here, all of them in the slow lane."""
    expected = undisturbed()
    for moment in range(5, len(expected["moments"]), 61):
        kill_and_resume(lab, runs / str(moment), expected, moment)


@pytest.mark.parametrize("what", ["sql INSERT INTO stages", "sql BEGIN IMMEDIATE", "sql COMMIT", "unlink .upload"])
def test_killed_while_a_site_ends_a_round(lab, undisturbed, runs, what):
    """Between the verdict's row, the deletion of the round's secrets and the removal of its files."""
    expected = undisturbed()
    labels = expected["moments"]
    start = labels.index("site-b before verdict #1")
    end = labels.index("site-b after verdict #1")
    found = [i for i in range(start, end) if what in labels[i]]
    assert found, f"no {what!r} between {start} and {end}"
    for moment in found:
        kill_and_resume(lab, runs / str(moment), expected, moment)


def test_killed_while_a_site_keeps_its_own_part_of_the_adapter(lab, undisturbed, runs):
    """Update and own B are there together or not at all: what a site trains next depends on both."""
    expected = undisturbed(strategy="fedsa")
    labels = expected["moments"]
    kept = max(i for i, label in enumerate(labels) if label.startswith("site-b sql INSERT INTO personal"))
    file = max(i for i in range(kept) if labels[i].startswith("rename to .personal"))
    end = next(i for i in range(kept, len(labels)) if labels[i].startswith("site-b sql COMMIT"))
    for moment in (file + 1, end, end + 1):
        kill_and_resume(lab, runs / str(moment), expected, moment, strategy="fedsa")


@pytest.mark.slow
def test_killed_at_every_moment_of_a_run(lab, undisturbed, runs):
    expected = undisturbed()
    for moment in range(len(expected["moments"])):
        kill_and_resume(lab, runs / str(moment), expected, moment)


def test_killed_again_and_again(lab, undisturbed, runs):
    """Each life is killed after the moments that are left to it; the numbers are those of the life in question."""
    expected = undisturbed(rule="size")
    draw = random.Random(4)
    for case in range(3):
        kills = [draw.randrange(20, 60) for _ in range(4)]
        kill_and_resume(lab, runs / str(case), expected, *kills, rule="size")


STEPS = 28
TRAINING = TrainingSpec(epochs=1, batch_size=1, learning_rate=1e-3, threads=1)
TRAIN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tests.e2e.federation import Keys, tiny_work
from tests.e2e.test_resume import STEPS, run_tiny

folder, kill_after = Path(sys.argv[1]), int(sys.argv[2])

def progress(event):
    if event["site"] == "site-b":
        with (folder / f"steps-{kill_after}").open("a") as out:
            out.write(f"{event['step']} ")
        if event["step"] == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

(folder / "adapter").write_text(run_tiny(folder / "killed", Keys.load(folder / "keys"), progress))
"""


def run_tiny(folder: Path, keys: Keys, progress=lambda event: None) -> str:
    plan = make_plan(keys, rounds=1, weights_sha256=tiny_base().weights_sha256, training=TRAINING)
    work = lambda name, plan: tiny_work(name, plan, STEPS, progress)  # noqa: E731
    return run_once(folder, keys, plan, work=work).digest().hex()


def test_killed_in_the_middle_of_training_goes_on_from_the_checkpoint(tmp_path):
    keys = Keys.generate(3)
    keys.save(tmp_path / "keys")

    def live(kill_after: int) -> tuple[int, list[int]]:
        command = [sys.executable, "-c", TRAIN_AND_DIE, str(tmp_path), str(kill_after)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        return done.returncode, [int(s) for s in (tmp_path / f"steps-{kill_after}").read_text().split()]

    assert live(27) == (-signal.SIGKILL, list(range(1, 28)))
    assert live(0) == (0, [26, 27, 28]), "the second life does not go on from the checkpoint of step 25"
    assert (tmp_path / "adapter").read_text() == run_tiny(tmp_path / "undisturbed", keys)
