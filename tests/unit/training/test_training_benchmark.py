"""The training benchmark runs, and compares like with like."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_it_runs_on_the_tiny_model_and_gives_every_row_a_ratio() -> None:
    options = ["--base", "tiny-random", "--train", "4", "--test", "1", "--repeats", "1", "--json"]
    command = [sys.executable, "-m", "benchmarks.training", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"].split(":")[0] for row in rows] == ["train"] * 3 + ["answer"] * 3
    assert rows[0]["ratio"] == rows[3]["ratio"] == 1.0
    assert all(row["seconds"] > 0 for row in rows)
