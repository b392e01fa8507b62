"""Run the command line as a person does: one process state, exit codes and what stands on either stream."""

import json
from dataclasses import dataclass

import pytest

from fedsec.cli import output
from fedsec.cli.app import run


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def fedsec(capsys, monkeypatch, tmp_path):
    """``fedsec("keys", "show", path)`` → Result, in an empty folder: tables of 100 columns, errors of one line.

    An error names files in pytest's folder, whose name is as long as the machine likes: in a box it is cut anywhere.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.out, "_width", 100)
    monkeypatch.setattr(output.err, "_width", 2000)

    def call(*arguments) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(int(e.value.code or 0), captured.out, captured.err)

    return call
