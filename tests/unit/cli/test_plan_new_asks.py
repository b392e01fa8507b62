"""`fedsec plan new` on a terminal: it asks for what it was not told."""

import os
import pty
import subprocess
import sys

import pytest

from fedsec.plan.model import Draft
from fedsec.plan.toml import read_toml


@pytest.fixture
def answer(fedsec, monkeypatch):
    """``answer(["ward", ""], …)``: run `plan new` with these lines typed; the questions that were asked come back."""

    def call(lines, *options):
        typed = iter(lines)

        def line(question):
            return next(typed)

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("typer._click.termui.visible_prompt_func", line)
        result = fedsec("plan", "new", "plan.toml", *options)
        asked = [part for part in result.err.splitlines() if part]
        assert next(typed, None) is None, "not every line was asked for"
        return result, asked

    return call


def test_enter_takes_every_default(answer, tmp_path):
    result, asked = answer(["", "", "Drug, Problem", "", "", ""])
    assert result.code == 0
    draft = read_toml(tmp_path / "plan.toml", Draft)
    assert (draft.name, draft.secure.threshold, draft.model.base) == ("study", 4, "smollm2-135m")
    assert (draft.task.kind, draft.task.entity_types) == ("entities", ("Drug", "Problem"))
    assert draft.training.learning_rate == 2e-4
    text = " ".join(asked)
    for default in ("[study]", "[5]", "[smollm2-135m]", "[paper]"):
        assert default in text


def test_answers_count(answer, tmp_path):
    assert answer(["ward-7", "3", "Drug", "treats, causes", "tiny-random", "demo"])[0].code == 0
    draft = read_toml(tmp_path / "plan.toml", Draft)
    assert (draft.name, draft.secure.threshold, draft.model.base) == ("ward-7", 3, "tiny-random")
    assert (draft.task.kind, draft.task.relation_types) == ("both", ("treats", "causes"))
    assert draft.training.learning_rate == 1.5e-3


def test_what_was_given_is_not_asked_for(answer, tmp_path):
    given = ("--sites", 4, "--name", "ward", "--base", "tiny-random", "--relation", "treats", "--set", "rounds=3")
    assert answer(["Drug", "demo"], *given)[0].code == 0
    draft = read_toml(tmp_path / "plan.toml", Draft)
    assert (draft.name, draft.rounds, draft.task.entity_types) == ("ward", 3, ("Drug",))


def test_nothing_is_asked_where_nothing_is_missing(answer):
    assert answer([], "--sites", 3, "--entity", "Drug")[0].code == 0


def test_a_number_that_is_none_is_asked_for_again(answer, tmp_path):
    result, asked = answer(["", "many", "0", "-2", "6", "Drug", "", "", ""])
    assert result.code == 0
    assert read_toml(tmp_path / "plan.toml", Draft).secure.threshold == 5
    assert sum("expected a whole number" in line for line in asked) == 3


@pytest.mark.parametrize(("given", "missing"), [((), "--sites"), (("--sites", 3), "--entity")])
def test_without_a_terminal_it_says_what_is_missing_and_waits_for_nothing(fedsec, tmp_path, given, missing):
    result = fedsec("plan", "new", "plan.toml", *given)
    assert (result.code, result.out) == (2, "")
    assert f"{missing} is missing" in result.err
    assert not (tmp_path / "plan.toml").exists()


def test_a_file_that_is_there_is_found_before_the_first_question(answer, tmp_path):
    (tmp_path / "plan.toml").write_text("mine")
    result, _ = answer([])
    assert (result.code, (tmp_path / "plan.toml").read_text()) == (2, "mine")


def test_on_a_real_terminal(tmp_path):
    controller, terminal = pty.openpty()
    command = [sys.executable, "-c", "from fedsec.cli import main; main()", "plan", "new", "plan.toml", "--sites", "3"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.write(controller, b"\nDrug\n\n\n\n")
    try:
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        os.close(controller)
    assert read_toml(tmp_path / "plan.toml", Draft).task.entity_types == ("Drug",)
