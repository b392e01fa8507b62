"""Every `fedsec` command line in the documents is one that the parser knows, with options that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fedsec.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "threat_model/**/*.md", "deploy/*")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(fedsec [a-z][^`]*)`")
_LINE = re.compile(r"^(?:[A-Z_]+=\S+ +)*(?:\S*/)?fedsec ((?:-|[a-z]).*)$")
_OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def lines(text: str) -> Iterator[str]:
    """What stands after `fedsec` in each command of a document."""
    for block in _FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if found := _LINE.match(line.strip()):
                yield found[1]
    for inline in _INLINE.findall(_FENCED.sub("", text)):
        yield inline.removeprefix("fedsec ")


_MORE = re.compile(r" (?:#|&&|\||;|>) ")
_SEVERAL = re.compile(r"([a-z]+) ((?:[a-z]+, )+[a-z]+)")


def each(line: str) -> Iterator[str]:
    """Without what the shell makes of it; several where a table names them together (`keys new, show`)."""
    line = _MORE.split(line)[0].strip()
    found = _SEVERAL.fullmatch(line)
    yield from (f"{found[1]} {name}" for name in found[2].split(", ")) if found else (line,)


COMMANDS = sorted({command for path in DOCUMENTS for line in lines(path.read_text()) for command in each(line)})


@pytest.fixture(scope="module")
def root() -> Any:
    app._register()
    return typer.main.get_command(app.app)


def trouble(root: Any, line: str) -> str | None:
    """Why the parser would refuse the line; None where it would not for its names."""
    command, words = root, line.split()
    while (commands := getattr(command, "commands", {})) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in commands:
            return f"no command {name!r}"
        command = commands[name]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [name for name in _OPTION.findall(" ".join(words)) if name not in known | {"--help", "-h"}]
    return f"no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("line", COMMANDS)
def test_what_documents_say_is_what_the_parser_knows(root, line):
    assert trouble(root, line) is None, f"fedsec {line}"


def test_there_is_something_to_check_and_wrong_lines_are_found(root):
    assert len(COMMANDS) > 60
    assert trouble(root, "plans show plan.json") == "no command 'plans'"
    assert trouble(root, "plan shew plan.json") == "no command 'shew'"
    assert trouble(root, "plan show --jason plan.json") == "no option --jason"
