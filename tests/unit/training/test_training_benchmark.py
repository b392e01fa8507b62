"""The training benchmarks run, and compare like with like."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_it_runs_on_the_tiny_model_and_gives_every_row_a_ratio() -> None:
    options = ["--base", "tiny-random", "--train", "4", "--test", "1", "--repeats", "1", "--json"]
    command = [sys.executable, "-m", "benchmarks.training", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"].split(":")[0] for row in rows] == ["train"] * 3 + ["answer"] * 3
    assert rows[0]["ratio"] == rows[3]["ratio"] == 1.0
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_the_private_step_is_measured_beside_a_plain_one_and_the_reference() -> None:
    options = ["--base", "tiny-random", "--records", "2", "--tokens", "32", "--repeats", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dp", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    names = [row["name"] for row in rows]
    assert sum("peak memory over plain" in name for name in names) == sum(
        name.endswith(", over plain") for name in names
    )
    assert {"private step, own, over plain", "private step, own, peak memory over plain"} <= set(names)
    assert names[-3:] == [
        "a site's plain step, 8 notes",
        "a site's step with local noise over its plain one",
        "a site's step with distributed noise over its plain one",
    ]
    assert all(row["value"] > 0 for row in rows)
    assert [row["goal"] for row in rows if row["met"] is not None] == ["<= 1.03", "<= 1.05"]
