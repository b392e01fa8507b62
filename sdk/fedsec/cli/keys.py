"""`fedsec keys`: make a signing key, show the public half of one, take one out of use, put another in its place."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedsec.cli import keys_he
from fedsec.cli.output import Json, Quiet, err, out, print_json
from fedsec.plan.document import write_private
from fedsec.plan.revocation import Revoked, read_revocation
from fedsec.plan.revocation import revoke as sign_revocation
from fedsec.plan.spoken import spoken
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import PublicKey, SigningKey

app = typer.Typer(help="Ed25519 keys of sites, officers and coordinators.", no_args_is_help=True)
app.add_typer(keys_he.app, name="he")

PASSPHRASE_VARIABLE = "FEDSEC_PASSPHRASE"  # noqa: S105  # the name of a variable
"""Read instead of asking, for scripts; whoever reads the process's environment reads it too."""

Encrypt = typer.Option(
    "--passphrase/--no-passphrase",
    help="Encrypt the key (officers). A key that a service opens by itself has none (sites).",
)


@app.callback()
def _keys() -> None:
    """Ed25519 keys of sites, officers and coordinators."""


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="The key file to make (mode 0600); never overwritten.")],
    passphrase: Annotated[bool, Encrypt] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a key from the operating system's random source, encrypted under a passphrase unless told otherwise."""
    require_new(path)  # before asking for a passphrase twice
    key = SigningKey.generate()
    key.save(path, read_passphrase(path, confirm=True) if passphrase else None)
    _show(key.public, path, json=json, quiet=quiet)


@app.command("show")
def show(
    key: Annotated[str, typer.Argument(help="A key file, a public key in hex, or a signed revocation.")],
    json: Json = False,
) -> None:
    """Show the public key, and the fingerprint to compare by telephone. Asks for a passphrase where there is one.

    Of a revocation: which key it takes out of use, what follows it, and who says so.
    """
    path = Path(key)
    if _is_envelope(path):
        _show_revoked(read_revocation(path.read_bytes()), json=json)
    elif path.exists() or len(key) != 64:
        _show(open_key(path).public, path, json=json, quiet=False)
    else:
        _show(PublicKey.from_hex(key), None, json=json, quiet=False)


@app.command("rotate")
def rotate(
    key: Annotated[Path, typer.Argument(help="The key to replace. The file stays as it is.")],
    output: Annotated[Path, typer.Option("--out", help="The new key's file (mode 0600); never overwritten.")],
    reason: Annotated[str, typer.Option(help="One line for the partners.")] = "rotation",
    passphrase: Annotated[bool | None, Encrypt] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the key that follows this one, and beside it OUT.rotation.json: the old key's revocation, signed by both."""
    statement = output.with_name(f"{output.name}.rotation.json")
    if output.exists() and not statement.exists():
        raise ConfigError(
            f"{output} exists; a key is never overwritten: choose another name. If a rotation was interrupted, finish "
            f"it: fedsec keys revoke {key} --replaced-by {output} --out {statement} --reason rotation"
        )
    for path in (output, statement):
        require_new(path)
    encrypt = _is_encrypted(key) if passphrase is None else passphrase
    old, new_key = open_key(key), SigningKey.generate()
    data = sign_revocation(old.public, (old, new_key), reason=reason, at=_now(), replaced_by=new_key.public)
    # The key first: a statement without it would send partners after a key that nobody has.
    new_key.save(output, read_passphrase(output, confirm=True) if encrypt else None)
    write_private(statement, data)
    if json:
        print_json({**_revoked_json(read_revocation(data)), "path": str(output), "statement": str(statement)})
    elif not quiet:
        _show(new_key.public, output, json=False, quiet=False)
        _say_what_follows(statement, read_revocation(data))


@app.command("revoke")
def revoke(
    reason: Annotated[str, typer.Option(help="One line for the partners; no names, no secrets.")],
    output: Annotated[Path, typer.Option("--out", help="The signed revocation to write; never overwritten.")],
    key: Annotated[Path | None, typer.Argument(help="The key to take out of use, where you still have it.")] = None,
    public: Annotated[
        str | None, typer.Option(help="Where it was lost: its public half in hex; with --officer.")
    ] = None,
    officer: Annotated[Path | None, typer.Option(help="Key of an officer whom your site.toml pins.")] = None,
    replaced_by: Annotated[
        str | None, typer.Option(help="What follows it: a public key in hex, or a key file, which signs as well.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a key out of use for good: no plan that names it runs where this statement lies.

    Signed by the key itself it counts everywhere. One by an officer counts at the sites that pin this officer.
    """
    if (key is None) == (public is None) or (public is None) != (officer is None):
        raise ConfigError("expected the key's file, or for a lost key --public HEX with --officer KEY, and not both")
    require_new(output)
    signer = open_key(key or officer or Path())
    subject = signer.public if public is None else PublicKey.from_hex(public)
    signers, successor = [signer], None
    if replaced_by is not None:
        if Path(replaced_by).exists():
            signers.append(open_key(Path(replaced_by)))
            successor = signers[-1].public
        else:
            successor = PublicKey.from_hex(replaced_by)
    if len({s.public for s in signers}) < len(signers):
        raise ConfigError(f"{replaced_by} is the key that signs already; expected another one to follow it")
    data = sign_revocation(subject, signers, reason=reason, at=_now(), replaced_by=successor)
    write_private(output, data)
    if json:
        print_json({**_revoked_json(read_revocation(data)), "statement": str(output)})
    elif not quiet:
        _show_revoked(read_revocation(data), json=False)
        _say_what_follows(output, read_revocation(data))


def open_key(path: Path) -> SigningKey:
    """Load a key, asking for its passphrase only where it has one."""
    return SigningKey.load(path, read_passphrase(path, confirm=False) if _is_encrypted(path) else None)


def read_passphrase(path: Path, *, confirm: bool) -> bytes:
    """From the environment or the terminal; never from the command line, which every user of the machine can list."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None:
        given = typer.prompt(f"passphrase of {path}", hide_input=True, confirmation_prompt=confirm, err=True)
    return str(given).encode("utf-8")


def _is_encrypted(path: Path) -> bool:
    return b"ENCRYPTED" in _start(path)


def _is_envelope(path: Path) -> bool:
    return _start(path).startswith(b"{")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""  # load() says what is wrong


def require_new(path: Path) -> None:
    """ConfigError where ``path`` exists, or cannot be made because its folder does not."""
    if path.exists():
        raise ConfigError(f"{path} exists; it is never overwritten: move it away or choose another name")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _show(public: PublicKey, path: Path | None, *, json: bool, quiet: bool) -> None:
    if json:
        value = {"public_key": public.hex, "fingerprint": public.fingerprint(), "words": spoken(public)}
        print_json(value if path is None else {**value, "path": str(path)})
        return
    if quiet:
        return
    table = _table()
    if path is not None:
        table.add_row("file", str(path))
    table.add_row("public key", public.hex)
    table.add_row("fingerprint", public.fingerprint())
    table.add_row("in words", spoken(public))
    out.print(table)
    err.print("Compare the words by telephone before you put a key into a roster.", style="dim")


def _table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table


def _revoked_json(revoked: Revoked) -> dict[str, object]:
    said = revoked.said
    return {
        "revoked": said.key,
        "at": said.at.isoformat(),
        "reason": said.reason,
        "replaced_by": said.replaced_by,
        "by_owner": revoked.by_owner,
        "rotation": revoked.is_rotation,
        "signers": sorted(revoked.signers),
    }


def _show_revoked(revoked: Revoked, *, json: bool) -> None:
    if json:
        print_json(_revoked_json(revoked))
        return
    said, table = revoked.said, _table()
    table.add_row("out of use", said.key)
    table.add_row("in words", spoken(PublicKey.from_hex(said.key)))
    table.add_row("reason", said.reason)
    table.add_row("written", f"{said.at:%Y-%m-%d %H:%M} UTC")
    if said.replaced_by is not None:
        table.add_row("followed by", said.replaced_by)
        table.add_row("in words", spoken(PublicKey.from_hex(said.replaced_by)))
    if revoked.by_owner:
        table.add_row("signed by", "the old key and the new one" if revoked.is_rotation else "the key itself")
    else:
        others = ", ".join(sorted(revoked.signers - {said.replaced_by}))
        table.add_row("signed by", f"another key, so it counts only at sites that pin it as an officer's: {others}")
    out.print(table)
    if said.replaced_by is not None:
        err.print("A thief of the old key could name a successor too: compare its words by telephone.", style="dim")


def _say_what_follows(statement: Path, revoked: Revoked) -> None:
    when = "when no run needs the old key any more" if revoked.is_rotation else "at once"
    folder = "the folder `revocations` beside"
    if revoked.by_owner:
        first = f"1. Send it to every partner, for {folder} the site.toml of each site."
    else:
        first = f"1. Put it into {folder} your site.toml; other officers sign their own."
    text = (
        f"wrote {statement}; next, {when}:\n{first}\n"
        "   A site that has it there answers nothing more under a plan that names the old key.\n"
        "2. Compile a plan with another key there. An officer's is pinned in site.toml as well.\n"
        "3. Have the officers of all sites approve that plan."
    )
    out.print(text, markup=False, soft_wrap=True)
