"""The benchmark runs, checks its own sum, and prints the documented object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_masking_benchmark_prints_its_rows():
    command = [sys.executable, "-m", "benchmarks.masking", "--params", "3e4", "--sites", "4", "--repeat", "1", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], check=True, stdout=subprocess.PIPE, text=True)
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == {"name", "value", "unit", "goal", "met"} for row in rows)
    values = {row["name"]: row["value"] for row in rows}
    assert values["upload"] == (8 * 1e4 + 8) / 3e4
    assert [row["name"] for row in rows if row["goal"]] == [
        "site: encode, tag and mask",
        "coordinator: growth of memory with sites",
    ]
