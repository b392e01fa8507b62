"""`fedsec keys`: make a signing key, and show the public half of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedsec.cli.output import Json, Quiet, err, out, print_json
from fedsec.plan.spoken import spoken
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import PublicKey, SigningKey

app = typer.Typer(help="Ed25519 keys of sites, officers and coordinators.", no_args_is_help=True)

PASSPHRASE_VARIABLE = "FEDSEC_PASSPHRASE"  # noqa: S105  # the name of a variable
"""Read instead of asking, for scripts; whoever reads the process's environment reads it too."""


@app.callback()
def _keys() -> None:
    """Ed25519 keys of sites, officers and coordinators."""


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="The key file to make (mode 0600); never overwritten.")],
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase/--no-passphrase",
            help="Encrypt the key (officers). A key that a service opens by itself has none (sites).",
        ),
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a key from the operating system's random source, encrypted under a passphrase unless told otherwise."""
    if path.exists():  # before asking for a passphrase twice
        raise ConfigError(f"{path} exists; a key is never overwritten: move it away or choose another name")
    key = SigningKey.generate()
    key.save(path, read_passphrase(path, confirm=True) if passphrase else None)
    _show(key.public, path, json=json, quiet=quiet)


@app.command("show")
def show(
    key: Annotated[str, typer.Argument(help="A key file, or a public key in hex.")],
    json: Json = False,
) -> None:
    """Show the public key, and the fingerprint to compare by telephone. Asks for a passphrase where there is one."""
    path = Path(key)
    if path.exists() or len(key) != 64:
        _show(open_key(path).public, path, json=json, quiet=False)
    else:
        _show(PublicKey.from_hex(key), None, json=json, quiet=False)


def open_key(path: Path) -> SigningKey:
    """Load a key, asking for its passphrase only where it has one."""
    try:
        encrypted = b"ENCRYPTED" in path.read_bytes()[:64]
    except OSError:
        encrypted = False  # load() says what is wrong
    return SigningKey.load(path, read_passphrase(path, confirm=False) if encrypted else None)


def read_passphrase(path: Path, *, confirm: bool) -> bytes:
    """From the environment or the terminal; never from the command line, which every user of the machine can list."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None:
        given = typer.prompt(f"passphrase of {path}", hide_input=True, confirmation_prompt=confirm, err=True)
    return str(given).encode("utf-8")


def _show(public: PublicKey, path: Path | None, *, json: bool, quiet: bool) -> None:
    if json:
        value = {"public_key": public.hex, "fingerprint": public.fingerprint(), "words": spoken(public)}
        print_json(value if path is None else {**value, "path": str(path)})
        return
    if quiet:
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    if path is not None:
        table.add_row("file", str(path))
    table.add_row("public key", public.hex)
    table.add_row("fingerprint", public.fingerprint())
    table.add_row("in words", spoken(public))
    out.print(table)
    err.print("Compare the words by telephone before you put a key into a roster.", style="dim")
