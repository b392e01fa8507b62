"""`fedsec policy`: draft the tightest policy for a plan, read one in words, and see each rule."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedsec.cli.output import Json, Quiet, out, print_json
from fedsec.cli.statements import statements_table
from fedsec.plan.document import load_plan
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.policy_words import FIXED, describe, rules
from fedsec.plan.toml import read_toml, write_toml
from fedsec_secure.errors import ConfigError

app = typer.Typer(
    help="Site policies: draft, check, explain. What a policy does not name is refused.", no_args_is_help=True
)


@app.callback()
def _policy() -> None:
    """Site policies: draft, check, explain. What a policy does not name is refused."""


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="The TOML file to write; never overwritten.")],
    plan: Annotated[Path, typer.Option(help="A compiled plan (JSON): the draft allows it, and nothing beyond it.")],
    days: Annotated[int, typer.Option(min=1, max=3660, help="Days until it expires.")] = 90,
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Runs under one approval.")] = 1,
    max_exposure: Annotated[
        float | None, typer.Option(min=1.5, max=10, help="Bits: release no adapter that remembers canaries better.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the tightest policy that lets a plan run, every field commented: a start for an officer, not a decision."""
    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; choose another name")
    allowed = load_plan(plan)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    policy = draft_policy(allowed, now + datetime.timedelta(days=days), runs)
    if max_exposure is not None:
        policy = policy.model_copy(update={"max_exposure": max_exposure})
    heading = f"Policy drafted for the plan {allowed.name}: it allows that and nothing beyond. Read it before you sign."
    path.write_text(write_toml(policy, heading), encoding="utf-8")
    if not quiet:
        out.print(f"wrote {path}; next: read it, then fedsec policy check {path}", markup=False, soft_wrap=True)


@app.command("check")
def check(path: Annotated[Path, typer.Argument(help="A policy (TOML).")], json: Json = False) -> None:
    """Say in plain words what the policy lets plans do. Exit 1 where nothing can run under it."""
    policy = read_toml(path, Policy)
    statements = describe(policy, datetime.datetime.now(datetime.UTC))
    refused = any(s.level == "refused" for s in statements)
    if json:
        print_json({"ok": not refused, "sha256": policy.digest().hex(), "statements": [asdict(s) for s in statements]})
    else:
        out.print(statements_table(f"policy {path.name}", statements))
        out.print(f"sha256 {policy.digest().hex()}", soft_wrap=True)
    if refused:
        raise typer.Exit(1)


@app.command("explain")
def explain(
    path: Annotated[Path, typer.Argument(help="A policy (TOML).")],
    plan: Annotated[Path | None, typer.Option(help="A compiled plan (JSON): does it keep each rule?")] = None,
    json: Json = False,
) -> None:
    """Each rule by number: what it stops, what the policy says, whether a plan keeps it. Exit 1 where one does not."""
    policy = read_toml(path, Policy)
    found = rules(policy, load_plan(plan) if plan is not None else None)
    broken = any(rule.violation for rule in found)
    if json:
        print_json({"ok": not broken, "rules": [asdict(rule) for rule in found]})
    else:
        table = Table(title=f"policy {path.name}", title_justify="left")
        for name in ("no.", "rule", "stops", "this policy", *(["the plan"] if plan is not None else [])):
            table.add_column(name, overflow="fold")
        for rule in found:
            kept = Text(rule.violation, "bold red") if rule.violation else Text("keeps it", "green")
            judged = [kept] if plan is not None else []
            table.add_row(str(rule.number), rule.name, rule.stops, rule.says, *judged)
        out.print(table)
        if policy.budgets:
            out.print(FIXED)
    if broken:
        raise typer.Exit(1)
