"""A run in groups that is killed at any write and started again: one draw, one answer each, the adapter of a calm run.

Nonces are the operating system's, so each run has groups of its own. What it must end with is the adapter of an
undisturbed run with the same groups: sites there commit to the nonces that the killed run has on record.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.crash import ANSWERS, CrashLab

SITES, ROUNDS = 6, 2
PLAN = {"rule": "group-influence", "weighting": {"cap": 0.4}, "rounds": ROUNDS}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = CrashLab(tmp_path_factory.mktemp("lab"), SITES)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def calm(lab, quick_folder) -> Callable[[dict], dict]:
    """The result of an undisturbed run with the groups of another one: there are twenty draws of six sites."""
    results: dict[str, dict] = {}

    def like(other: dict) -> dict:
        (groups,) = other["groups"]
        if str(groups) not in results:
            calm = results[str(groups)] = lab.run(quick_folder / str(len(results)), nonces=other["nonces"], **PLAN)
            assert (calm["status"], calm["groups"]) == (0, [groups])
        return results[str(groups)]

    return like


@pytest.fixture(scope="module")
def moments(lab, quick_folder) -> list[str]:
    """What happens in an undisturbed run."""
    found = lab.run(quick_folder / "first", **PLAN)
    assert found["status"] == 0
    return found["moments"]


def second_answers(folder: Path) -> list[str]:
    """What a site answered in two ways; and what it should have answered and did not."""
    found = defaultdict(set)
    for line in (folder / ANSWERS).read_text().splitlines():
        site, name, number, digest = line.split()
        found[site, name, number].add(digest)
    once = SITES * (3 + 2 * ROUNDS)  # commit, reveal, draw; in each round sum and verdict
    missing = [] if len(found) == once else [f"{len(found)} answers, {once} are due"]
    return missing + [f"{name} of {site}, round {n}" for (site, name, n), said in found.items() if len(said) > 1]


def kill_and_resume(lab, calm, folder: Path, *kills: int | str) -> None:
    for kill in kills:
        killed = lab.run(folder, kill, **PLAN)
        assert killed == {"signal": signal.SIGKILL}, f"the run was not killed at {kill!r}: {killed.get('status')}"
    resumed = lab.run(folder, **PLAN)
    assert resumed["status"] == 0, f"killed at {kills}, the run does not resume"
    expected = calm(resumed)
    assert second_answers(folder) == [], f"killed at {kills}, a site answers twice"
    assert resumed["adapter"] == expected["adapter"], f"killed at {kills}, the run ends elsewhere"
    assert resumed["left"] == expected["left"], f"killed at {kills}, the run leaves other files or secrets"


@pytest.mark.parametrize(
    "text",
    [
        "site-c after commit",
        "site-c sql UPDATE draws SET opened",
        "journal sql INSERT OR IGNORE INTO draw",
        "site-b sql INSERT OR REPLACE INTO scores",
    ],
)
def test_killed_in_the_draw_and_before_the_scores_are_kept(lab, calm, runs, moments, text):
    kill_and_resume(lab, calm, runs / "killed", next(i for i, label in enumerate(moments) if text in label))


@pytest.mark.slow
@pytest.mark.parametrize(
    "exchange", ["commit", "reveal", "draw", "train", "mask", "confirm", "unmask", "sum", "verdict"]
)
def test_killed_before_inside_and_after_every_exchange(lab, calm, runs, exchange):
    for moment in (f"before {exchange}", f"site-a after {exchange}", f"site-e before {exchange}", f"after {exchange}"):
        for number in (1,) if exchange in ("commit", "reveal") else (1, 2):
            kill_and_resume(lab, calm, runs / f"{moment} {number}", f"{moment} #{number}")


@pytest.mark.slow
def test_killed_again_and_again(lab, calm, runs):
    kill_and_resume(lab, calm, runs / "often", 40, 31, 60, 45, 33)


@pytest.mark.slow
def test_killed_at_every_moment_of_a_run(lab, calm, runs, moments):
    """Some 2,600 of them: the better part of an hour."""
    for moment in range(len(moments)):
        kill_and_resume(lab, calm, runs / str(moment), moment)
