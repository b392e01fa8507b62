"""The officer's afternoon: every command of its README runs, in order, and prints what stands there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from fedsec.cli.app import _register, app

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "officer"


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"officer_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


afternoon, make_notes = script("afternoon"), script("make_notes")
TEXT = (EXAMPLE / "README.md").read_text(encoding="utf-8")
STEPS = afternoon.read_page(TEXT)
FEDSEC = re.compile(r"(?:^|[;|]|\bdo\b)\s*fedsec ([^&|;>\n]*)", re.MULTILINE)
WORDS = re.compile(r"in words +(.*)")


def fedsec_commands() -> list[str]:
    return [call.strip() for step in STEPS for call in FEDSEC.findall(step.command.replace("\\\n", " "))]


def output_of(start: str, steps=STEPS) -> str:
    (found,) = [step.output for step in steps if step.command.startswith(start)]
    return found


# ---- the page


@pytest.mark.parametrize("line", dict.fromkeys(fedsec_commands()))
def test_every_command_of_the_page_exists_with_these_options(line):
    _register()
    command, words = typer.main.get_command(app), shlex.split(line)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    assert not command.make_context(line, words).args  # raises for an option or argument that it does not take


def test_every_fedsec_of_the_page_was_looked_at():
    calls = sum(len(re.findall(r"(?<![\w$.\"/])fedsec (?=[a-z])", step.command)) for step in STEPS)
    assert len(fedsec_commands()) == calls > 30


def test_the_page_shows_refusals_with_their_exit_code():
    codes = [step.output for step in STEPS if step.command == "echo $?"]
    assert codes == ["1", "2", "1", "1", "1", "1", "1", "3"]


def test_the_page_as_it_stands_has_nothing_to_rewrite():
    assert afternoon.write_page(TEXT, [step.output for step in STEPS]) == TEXT


def test_the_words_that_are_compared_on_the_page_are_the_same():
    (words,) = WORDS.findall(output_of("fedsec keys show"))
    roster = re.sub(r"[\s│]+", " ", output_of("fedsec plan show"))
    assert f"sites.cedar.officer {words}" in roster


def test_patients_have_several_notes(tmp_path):
    make_notes.main(tmp_path)
    for name in make_notes.STYLES:
        notes = [json.loads(line) for line in (tmp_path / name / "notes.jsonl").read_text().splitlines()]
        assert len(notes) > 2 * len({note["patient_id"] for note in notes}) > 20
        assert len({note["document_id"] for note in notes}) == len(notes)


# ---- what compares it


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("plan sha256 " + "a1" * 32, "plan sha256 " + "0b" * 32),
        (
            "may run plan d8108c1999bf… until 2026-12-21 20:25 UTC",
            "may run plan 000000000000… until 2027-01-02 09:01 UTC",
        ),
        (
            "  train    3 sites answered, 256 B each at most, 6.7 s",
            "  train    3 sites answered, 9 B each at most, 0.1 s",
        ),
        ("│ a │ " + "zoo " * 11 + "│\n│   │ zoo │", "│ a │ " + "abandon " * 11 + "abandon │"),
        ("site.key " + "zoo " * 12, "site.key " + "key " * 12),
        ("fingerprint" + " 0123" * 10, "fingerprint" + " abcd" * 10),
        ("lost brook in train: why", "lost brook in share: why"),
        ("withdrew this approval on 2026-11-21 20:29:03Z;", "withdrew this approval on 2026-11-22 08:15:44Z;"),
    ],
)
def test_what_varies_is_passed_over(one, other):
    assert afternoon.normalised(one) == afternoon.normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("policy check 12: expected dp.mode of local", "policy check 13: expected dp.mode of local"),
        ("ε charged to each patient: 3.998 now", "ε charged to each patient: 4.394 now"),
        ("│ 4 │ every file is there │ failed │", "│ 4 │ every file is there │ held │"),
        ("lost brook in train: why", "lost cedar in train: why"),
        ("1 of 3 rounds", "2 of 3 rounds"),
        ("zoo " * 11, "abandon " * 11),
    ],
)
def test_anything_else_is_a_difference(one, other):
    assert afternoon.normalised(one) != afternoon.normalised(other)


PAGE = """Before.

```console
$ word=hello
$ shout() {
>   echo "$1!"
> }
$ shout "$word"
hello!
> quoted
$ (exit 3)
$ echo $?
3
```

```
$ not a console
```
"""


def test_commands_share_a_shell_and_see_the_exit_code_before(tmp_path):
    steps = afternoon.read_page(PAGE)
    assert [step.command for step in steps] == [
        "word=hello",
        'shout() {\n  echo "$1!"\n}',
        'shout "$word"',
        "(exit 3)",
        "echo $?",
    ]
    played = afternoon.play(steps, tmp_path)
    assert [was.code for was in played] == [0, 0, 0, 3, 0]
    (found,) = afternoon.problems(steps, played)
    assert "-> quoted" in found
    written = afternoon.write_page(PAGE, [was.output for was in played])
    assert written == PAGE.replace("> quoted\n", "")
    assert afternoon.problems(afternoon.read_page(written), played) == []


def test_a_failure_whose_exit_code_is_not_shown_is_a_problem(tmp_path):
    steps = [afternoon.Step("false", ""), afternoon.Step("true", "")]
    (found,) = afternoon.problems(steps, afternoon.play(steps, tmp_path))
    assert "exit code 1" in found


# ---- the afternoon


@pytest.mark.slow
def test_the_afternoon_prints_what_the_page_shows(tmp_path):
    played = afternoon.play(STEPS, tmp_path)
    assert "\n\n".join(afternoon.problems(STEPS, played)) == ""
    now = [afternoon.Step(step.command, was.output) for step, was in zip(STEPS, played, strict=True)]
    (words,) = WORDS.findall(output_of("fedsec keys show", now))
    assert f"sites.cedar.officer {words}" in re.sub(r"[\s│]+", " ", output_of("fedsec plan show", now))
    assert words != WORDS.findall(output_of("fedsec keys show"))[0]  # the page's key is nobody's any more
    assert (tmp_path / "cedar-officer" / "adverse-events.html").read_bytes() == (
        tmp_path / "run-2" / "report.html"
    ).read_bytes()
    assert not any((tmp_path / run / "certificate.json").exists() for run in ("run-1", "run-3", "run-4"))
