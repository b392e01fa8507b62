"""`fedsec keys he`: a site's encryption keys, one a run. They are made in a run, and only ever shown by fingerprint."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedsec.cli.output import Json, err, out, print_json
from fedsec.plan.sitefile import Site, load_site
from fedsec.plan.spoken import spoken_bytes
from fedsec_secure.errors import ConfigError, FedsecError

if TYPE_CHECKING:
    from fedsec.site.store_key import KeyState

HELP = "A site's homomorphic-encryption keys: one a run, made in it and shared by its sites."
app = typer.Typer(help=HELP, no_args_is_help=True)
SitePath = Annotated[Path, typer.Option("--site", help="The site's site.toml, or the folder that has it.")]

_WHAT_IT_MEANS = (
    "Without it this site encrypts nothing more of the run and opens no more of its sums, those that are on their way "
    "included: the run cannot go on here, and the adapter of a sum that was not opened is never had here. Other sites "
    "keep theirs. It does not come back; another run makes another key."
)


@app.callback()
def _he() -> None:
    """A site's homomorphic-encryption keys: one a run, made in it and shared by its sites."""


@app.command("show")
def show(site: SitePath, json: Json = False) -> None:
    """List the runs for which this site has, had or waits for a key, with the fingerprint to compare by telephone."""
    from fedsec.study.site_keys import key_states

    found = _site(site)
    states = key_states(found)
    if json:
        print_json({"site": found.name, "rows": [_plain(state) for state in states]})
        return
    if not states:
        out.print(f"{found.name} was in no run whose sums are encrypted.", markup=False)
        return
    for state in states:
        out.print(_table(state))
        out.print()
    if any(state.state == "held" for state in states):
        text = "Whoever has the key of a run and what its coordinator received opens all of the run's sums."
        err.print(text, style="dim", soft_wrap=True)


@app.command("destroy")
def destroy(
    run: Annotated[str, typer.Argument(help="The run's id, as `fedsec keys he show` lists it.")],
    site: SitePath,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Destroy the key of a run for good: this site opens no more of its sums, and the run cannot go on here."""
    from fedsec.study.site_keys import destroy_key, known_state

    found = _site(site)
    if known_state(found, run).state != "destroyed" and not yes:
        _ask(run, found)
    before, after = destroy_key(found, run)
    if json:
        print_json({"site": found.name, "was": before.state, **_plain(after)})
        return
    if before.state == "destroyed":
        out.print(f"The key of run {run} was destroyed here before: {_when(after)}.", markup=False, soft_wrap=True)
        return
    what = "The key" if before.state == "held" else "What this site waited for the key with"
    out.print(f"{what} of run {run} is destroyed at {found.name}. {_WHAT_IT_MEANS}", markup=False, soft_wrap=True)


def _site(path: Path) -> Site:
    return load_site(path / "site.toml" if path.is_dir() else path)


def _ask(run: str, site: Site) -> None:
    """FedsecError for a no; ConfigError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigError(
            f"expected a yes to destroying the key of run {run} at {site.name}, found no terminal to ask on: add --yes"
        )
    err.print(f"This destroys the key of run {run} at {site.name}. {_WHAT_IT_MEANS}", markup=False, soft_wrap=True)
    if not typer.confirm("Destroy it?", err=True):
        raise FedsecError(f"the key of run {run} was left as it is")


def _plain(state: KeyState) -> dict[str, object]:
    """For JSON. Fingerprints are of what everybody may see."""
    return {
        "run": state.run,
        "plan_sha256": state.plan.hex(),
        "dealer": state.dealer,
        "fingerprint": None if state.fingerprint is None else state.fingerprint.hex(),
        "words": None if state.fingerprint is None else spoken_bytes(state.fingerprint),
        "state": state.state,
        "since": _when(state),
    }


def _when(state: KeyState) -> str:
    return datetime.datetime.fromtimestamp(state.since, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _table(state: KeyState) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("run", state.run)
    table.add_row("plan", f"{state.plan.hex()[:12]}…")
    table.add_row("dealt by", state.dealer)
    if state.fingerprint is not None:
        digits = state.fingerprint.hex()[:40]
        table.add_row("fingerprint", " ".join(digits[i : i + 4] for i in range(0, 40, 4)))
        table.add_row("in words", spoken_bytes(state.fingerprint))
    table.add_row("state", f"{state.state} since {_when(state)} UTC")
    return table
