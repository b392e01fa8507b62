"""The benchmark runs, its decrypted sum is the plain one, and a peer's figures become ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import he
from fedsec_secure.he.parameters import SEED_BYTES, STANDARD

ROOT = Path(__file__).parents[3]


def test_the_encryption_benchmark_prints_its_rows():
    command = [sys.executable, "-m", "benchmarks.he", "--params", "2e4", "--sites", "2,3", "--repeat", "1", "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "FEDSEC_HE_PEER"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == {"name", "value", "unit", "goal", "met"} for row in rows)
    assert all(row["goal"] is None for row in rows), "three ciphertexts are nothing to judge by"
    values = {row["name"]: row["value"] for row in rows}
    for sites in (2, 3):
        title = f"2e+04 parameters, {sites} sites"
        assert values[f"{title}: upload"] == 3 * (SEED_BYTES + STANDARD.c0_bytes) / 2e4
        assert values[f"{title}: download"] == 3 * (sites * SEED_BYTES + STANDARD.c0_bytes) / 2e4
        assert values[f"{title}: the decrypted sum is the plain one"] == 1
        assert values[f"{title}: site: encrypt"] > values[f"{title}: coordinator: sum, each site"] > 0
    assert not any("NVFlare" in name for name in values)


def peer(folder: Path, script: str) -> str:
    """A command that stands for a Python with NVFlare."""
    (folder / "peer").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "peer").chmod(0o700)
    return str(folder / "peer")


def test_a_peers_figures_become_ratios_and_what_it_cannot_do_is_said(tmp_path):
    figures = {"up": 58.0, "down": 32.0, "encrypt": 0.7, "coordinator": 0.2, "decrypt": 0.1, "error": 1e-8}
    said = "[libprotobuf ERROR message_lite.cc:487] exceeded maximum protobuf size"
    script = f"case $2 in round) echo '{json.dumps(figures)}';; *) echo '{said}' >&2; echo Traceback >&2; exit 1;; esac"
    own = {"up": 4.0, "down": 4.0, "encrypt": 0.1, "coordinator": 0.01, "decrypt": 0.2}
    rows = {r.name: r for r in he.peer_rows(he.Case(42_000_000, 10, 1), peer(tmp_path, script), own)}
    title = "4.2e+07 parameters, 10 sites"
    assert rows[f"{title}: NVFlare over ours: up"].value == 14.5
    assert rows[f"{title}: NVFlare over ours: up"].met is True
    assert rows[f"{title}: NVFlare over ours: coordinator"].value == pytest.approx(20)
    assert rows[f"{title}: NVFlare over ours: coordinator"].met is False
    assert rows[f"{title}: NVFlare over ours: decrypt"].met is None
    tried = rows[f"{title}: NVFlare: the update as one vector, encrypted and serialised"]
    assert (tried.value, tried.unit) == (0, "1: yes. It said: exceeded maximum protobuf size")


def test_a_peer_that_fails_ends_the_benchmark_with_what_it_said(tmp_path):
    with pytest.raises(SystemExit, match="ended with 3:\nno such module"):
        list(he.peer_rows(he.Case(1000, 2, 1), peer(tmp_path, "echo no such module >&2; exit 3"), {}))
