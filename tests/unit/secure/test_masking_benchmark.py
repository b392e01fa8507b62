"""The benchmark runs, checks its own sum, and prints the documented object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_masking_benchmark_prints_its_rows():
    command = [sys.executable, "-m", "benchmarks.masking", "--params", "3e4", "--sites", "4,5", "--dropped", "0,1"]
    environment = {k: v for k, v in os.environ.items() if k != "FEDSEC_PEER"}
    done = subprocess.run(
        [*command, "--repeat", "1", "--json"], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == {"name", "value", "unit", "goal", "met"} for row in rows)
    values = {row["name"]: row["value"] for row in rows}
    for sites in (4, 5):
        assert values[f"3e+04 coordinates, {sites} sites: upload"] == (8 * 1e4 + 8) / 3e4
        for dropped in (0, 1):
            assert values[f"3e+04 coordinates, {sites} sites: coordinator: sum, unmask, decode, {dropped} dropped"] > 0
    assert not any("Flower" in name for name in values)


def test_many_large_uploads_are_one_upload_read_often(tmp_path):
    for task in (["upload", "3e4", tmp_path, "one"], ["server", "3e4", "1", tmp_path, "1", "one"]):
        name, _, *more = map(str, task)
        command = [sys.executable, "-m", "benchmarks.tasks.masking", name, "30000", "40", "3x21", *more]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        assert name == "upload" or json.loads(done.stdout)["cpu"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["0"]
