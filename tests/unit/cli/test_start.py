"""Every command pays for what its start imports, also the ones that only look at a file."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    *("bitsandbytes", "dp_accounting", "matplotlib", "nvflare", "peft"),
    *("scipy.stats", "tenseal", "torch", "transformers"),
}
"""A tenth of a second to several seconds each."""

LOADED = """
import json, sys
from fedsec.cli.app import run
try:
    run(sys.argv[1:])
except SystemExit:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "check", "--help"], ["keys", "show", "none.json"]])
def test_no_heavy_library_is_loaded_before_a_command_needs_it(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "fedsec.cli.plan" in loaded, "the commands are registered"
    assert loaded & HEAVY == set()
