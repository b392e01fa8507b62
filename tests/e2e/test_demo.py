"""On three seeds the demonstration's federated adapter beats the best single site, beyond chance of the examples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsec.study.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.real_model]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_federated_beats_the_best_single_site_on_all_five_test_sets(seed: int, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).with_name("fedsec"),
        "demo",
        "--seed",
        str(seed),
        "--out",
        tmp_path / "run",
        "--quiet",
    ]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = RunFolder.open(tmp_path / "run").results()
    assert len(results.singles()) == 5
    gain = results.gain("entities", "strict")
    assert gain is not None
    assert gain[1].low > 0, f"federated minus {gain[0]}: {gain[1]}"
