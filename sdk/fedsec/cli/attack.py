"""`fedsec attack`: the known attacks, performed on what is installed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from rich.progress import track
from rich.table import Table
from rich.text import Text

from fedsec.cli.output import Json, err, out, print_json

if TYPE_CHECKING:
    from fedsec.attacks.lab import Target
    from fedsec.attacks.outcome import Attack

T = TypeVar("T")
_LONGEST = 100
"""Letters of what an attack got, in the table; `--json` has all of them, and what was expected."""

_HELD = {"defence": ("yes", "green"), "stated": ("stated", "yellow"), "control": ("control", "")}
_SUCCEED = {"stated": "succeeds as the plan's warning states", "control": "succeeds as a control"}
app = typer.Typer(help="Perform the known attacks on this build, and say what they got.", no_args_is_help=True)


class Against(StrEnum):
    """Whom to attack."""

    BUILD = "build"
    NAIVE = "naive"


@app.callback()
def attack() -> None:
    """Perform the known attacks on this build, and say what they got."""


@app.command()
def masking(
    against: Annotated[
        Against,
        typer.Option(help="naive: a deliberately weak aggregator, on which every attack has to succeed."),
    ] = Against.BUILD,
    json: Json = False,
) -> None:
    """Masked aggregation: hostile coordinators and sites, through real bytes. Exit code 1 where an attack got through.

    Five site agents with fresh keys and records in a temporary folder; nothing of yours is read.
    """
    from fedsec.attacks.masking import ATTACKS

    target = _aggregator(against)
    _show(ATTACKS, target, target.name, json=json)


@app.command()
def weighting(
    against: Annotated[
        Against,
        typer.Option(help="naive: an aggregator that weighs as it is told, where every attack has to succeed."),
    ] = Against.BUILD,
    json: Json = False,
) -> None:
    """Weights by published scores: forged, replayed, lied about. Exit code 1 where one gets more than the plan allows.

    Five site agents with fresh keys and records in a temporary folder; nothing of yours is read.
    """
    from fedsec.attacks.weighting import ATTACKS

    target = _aggregator(against)
    _show(ATTACKS, target, target.name, json=json)


@app.command()
def governance(
    against: Annotated[
        Against,
        typer.Option(help="naive: sites that ask no officer and keep no books, where every attack has to succeed."),
    ] = Against.BUILD,
    json: Json = False,
) -> None:
    """Approvals, policies, keys, ledgers and logs: forged, swapped, set back. Exit code 1 where an attack got through.

    Sites with fresh keys, policies and approvals in a temporary folder; nothing of yours is read.
    """
    from fedsec.attacks.governance import ATTACKS
    from fedsec.attacks.office import Governed

    target = Governed(careless=against is Against.NAIVE)
    _show(ATTACKS, target, target.name, json=json)


@app.command()
def he(
    against: Annotated[
        Against,
        typer.Option(help="naive: sites that share a key and open what comes, where every attack has to succeed."),
    ] = Against.BUILD,
    json: Json = False,
) -> None:
    """Encrypted sums, modes he-mask and he: forged, replayed, oversized, opened with one site's key. Exit code 1 where
    an attack got through, or a plan's warning is not what happens.

    Five site agents with fresh keys and records in a temporary folder, and worker processes; nothing of yours is read.
    """
    from fedsec.attacks.he import ATTACKS
    from fedsec.attacks.sealed_build import SealedBuild
    from fedsec.attacks.sealed_naive import SealedNaive

    if against is Against.BUILD:
        with SealedBuild() as build:
            _show(ATTACKS, build, build.name, json=json)
    naive = SealedNaive()
    _show([a for a in ATTACKS if a.kind != "control"], naive, naive.name, json=json)


def _aggregator(against: Against) -> Target:
    from fedsec.attacks.build import ThisBuild
    from fedsec.attacks.naive import Naive

    return ThisBuild() if against is Against.BUILD else Naive()


def _counted(done: Sequence[tuple[str, bool]]) -> str:
    """(kind, held) of each row -> one line: a row that is there to succeed is not counted among those that held."""
    through = sum(not held for _, held in done)
    as_said = {kind: sum(held and k == kind for k, held in done) for kind in _SUCCEED}
    rest = len(done) - sum(as_said.values())
    parts = [f"{rest - through} of {rest} attacks held"]
    parts += [f"{through} got through"] if through else []
    parts += [f"{count} {_SUCCEED[kind]}" for kind, count in as_said.items() if count]
    return ", ".join(parts)


def _show(attacks: Sequence[Attack[T]], target: T, name: str, *, json: bool) -> NoReturn:
    """Perform them, print what each got, and exit: 1 where one got through."""
    from fedsec.attacks.outcome import perform

    steps = track(
        perform(attacks, target), f"attacking {name}", len(attacks), console=err, transient=True, disable=json
    )
    done = list(steps)
    through = sum(not got.held for _, got in done)
    if json:
        rows = [
            {
                "attack": a.name,
                "attacker": a.attacker,
                "source": a.source,
                "expected": a.expected,
                "got": got.what,
                "held": got.held,
            }
            for a, got in done
        ]
        print_json({"target": name, "rows": rows})
    else:
        table = Table(title=f"Attacks on {name}", title_justify="left")
        for column in ("attack", "by", "got", "held"):
            table.add_column(column)
        for a, got in done:
            word = Text(*_HELD[a.kind]) if got.held else Text("NO", "bold red")
            table.add_row(a.name, a.attacker, Text(shorten(got.what, _LONGEST, placeholder=" …")), word)
        out.print(table)
        out.print(_counted([(a.kind, got.held) for a, got in done]))
    raise typer.Exit(1 if through else 0)
