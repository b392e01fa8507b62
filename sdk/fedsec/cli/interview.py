"""What `fedsec plan new` asks where it was not told, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import typer

from fedsec_secure.errors import ConfigError

T = TypeVar("T")

NAME: Final = "study"
BASE: Final = "smollm2-135m"
PRESET: Final = "paper"
SITES: Final = 5


@dataclass(frozen=True)
class Answers:
    """What a draft starts from."""

    sites: int
    entity: list[str]
    relation: list[str]
    name: str
    base: str
    preset: str
    title: bool = False
    """Titles are to be written, and no labels asked for."""


def complete(
    sites: int | None,
    entity: list[str] | None,
    relation: list[str] | None,
    name: str | None,
    base: str | None,
    preset: str | None,
    title: bool = False,
) -> Answers:
    """The answers with nothing open (None): asked for on a terminal where sites or entity types are, else defaults.

    Raises:
        ConfigError: sites or entity types are missing, and nobody is there to ask; or types for a study of titles.
    """
    if title and (entity or relation):
        raise ConfigError("--title asks for no labels: leave --entity and --relation out")
    if sites is not None and (entity or title):
        return Answers(sites, entity or [], relation or [], name or NAME, base or BASE, preset or PRESET, title)
    if not sys.stdin.isatty():
        missing = "--sites" if sites is None else "--entity"
        raise ConfigError(f"{missing} is missing, and there is no terminal to ask on; see fedsec plan new --help")
    typer.echo("Enter takes what stands in brackets. Everything can be edited in the file afterwards.", err=True)
    return Answers(
        name=name or _ask("The study's name", NAME, str),
        sites=sites or _ask("How many sites take part", SITES, _positive),
        entity=[] if title else entity or _ask("Entity types to extract, with commas between them", None, _words),
        relation=[]
        if title
        else relation or _ask("Relation types, with commas between them (none: leave empty)", "", _words),
        base=base or _ask("Base model: a name, a folder, a GGUF file, or an id", BASE, str),
        preset=preset or _ask("Training settings, paper or demo", PRESET, str),
        title=title,
    )


def _ask(question: str, default: object, read: Callable[[str], T]) -> T:
    def checked(text: object) -> T:
        try:
            return read(str(text))
        except ValueError as e:
            raise typer.BadParameter(str(e)) from None  # asks again

    found: T = typer.prompt(question, default=default, value_proc=checked, show_default=default != "", err=True)
    return found


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"expected a whole number from 1; found {text}")
    return int(text)


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]
