"""`fedsec plan`: write a draft, read it in plain words, compile it with a roster, approve it, withdraw that."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedsec.cli.approve import Revocations, approve, find_notices, withdraw
from fedsec.cli.interview import Answers, complete
from fedsec.cli.output import Json, Quiet, err, out, print_json
from fedsec.cli.statements import statements_table
from fedsec.plan.document import compile_plan, load_plan, write_private
from fedsec.plan.explain import explain
from fedsec.plan.matrix import verify_supported
from fedsec.plan.model import Draft, Plan, Roster
from fedsec.plan.policy import Policy
from fedsec.plan.policy_checks import Violation, check_plan
from fedsec.plan.specs import CanarySpec, ModelSpec, SecureSpec, TaskSpec
from fedsec.plan.statement import Statement
from fedsec.plan.toml import override, read_toml, validate, write_toml
from fedsec_secure.errors import ConfigError

app = typer.Typer(help="Study plans: write, show, check, compile, approve, withdraw.", no_args_is_help=True)

Assignments = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE of the draft; repeatable.")]


@app.callback()
def _plan() -> None:
    """Study plans: write, show, check, compile, approve, withdraw."""


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="The TOML file to write; never overwritten.")],
    sites: Annotated[int | None, typer.Option(min=1, help="How many sites will take part: sets the threshold.")] = None,
    entity: Annotated[list[str] | None, typer.Option(help="An entity type to extract; repeatable.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="A relation type to extract; repeatable.")] = None,
    title: Annotated[bool, typer.Option("--title", help="Learn to write a text's title; without types.")] = False,
    name: Annotated[str | None, typer.Option(help="The study's name, [a-z0-9-]; study if left out.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Base model: a name, a folder, a GGUF file, or an id; smollm2-135m if left out.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Training settings: paper or demo; paper if left out.")] = None,
    assignments: Assignments = None,
    quiet: Quiet = False,
) -> None:
    """Write a commented draft that holds together, ready to be edited.

    On a terminal, asks for what is left out where --sites or --entity is.
    """
    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; choose another name")
    answers = complete(sites, entity, relation, name, base, preset, title)
    draft = override(_draft(answers, path), assignments or ())
    heading = f"Draft of the study {draft.name}: edit, then `fedsec plan check {path.name}`."
    path.write_text(write_toml(draft, heading), encoding="utf-8")
    if not quiet:
        out.print(f"wrote {path}; next: edit it, then fedsec plan check {path}", markup=False, soft_wrap=True)
        if draft.secure.mode == "none":
            err.print("Fewer than three sites: masks could not hide anything, so secure.mode is none.", style="yellow")


_CANARIES = 8
"""Of each site, in a new draft: enough to tell an adapter that knows them by heart from chance."""


def _draft(answers: Answers, path: Path) -> Draft:
    from fedsec.training.presets import PRESETS

    if answers.preset not in PRESETS:
        raise ConfigError(f"expected a preset of {', '.join(PRESETS)}; found {answers.preset}")
    lora, training = PRESETS[answers.preset]
    kind = "title" if answers.title else "both" if answers.relation else "entities"
    sites = answers.sites
    labels = {"entity_types": answers.entity, "relation_types": answers.relation}
    task = validate({"kind": kind, **labels}, TaskSpec, "task")
    masked = sites >= 3
    secure = SecureSpec(threshold=2 * sites // 3 + 1) if masked else SecureSpec(mode="none", minimum_cohort=sites)
    model = ModelSpec(base=answers.base)
    canaries = CanarySpec(per_site=_CANARIES)
    fields = {"model": model, "canaries": canaries, "lora": lora, "training": training, "task": task, "secure": secure}
    value = {"name": answers.name, **{k: v.model_dump(mode="json") for k, v in fields.items()}}
    if not masked:
        value["weighting"] = {"cap": 1.0}
    return validate(value, Draft, str(path))


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A draft (TOML) or a compiled plan (JSON).")],
    assignments: Assignments = None,
    json: Json = False,
) -> None:
    """The page that an officer reads: every field of the plan, its digest and its roster."""
    draft = read_plan(path, assignments)
    if json:
        value = draft.model_dump(mode="json")
        print_json({"plan": value, "sha256": draft.digest().hex() if isinstance(draft, Plan) else None})
        return
    table = Table(title=f"plan {draft.name}", title_justify="left")
    table.add_column("field")
    table.add_column("value", overflow="fold")
    for field, text in _flat(draft.model_dump(mode="json", exclude={"roster"})):
        table.add_row(field, text)
    out.print(table)
    if isinstance(draft, Plan):
        _show_roster(draft)
    else:
        out.print("A draft: no roster, so nobody can approve it yet.")


@app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="A draft (TOML) or a compiled plan (JSON).")],
    policy: Annotated[Path | None, typer.Option(help="A site's policy: list what the plan goes beyond.")] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="How many sites, where the plan is a draft.")] = None,
    coordinates: Annotated[int | None, typer.Option(min=1, help="Adapter coordinates: shows bytes a round.")] = None,
    revocations: Revocations = None,
    site: Annotated[str | None, typer.Option(help="With --revocations: whose officers' word counts there.")] = None,
    assignments: Assignments = None,
    json: Json = False,
) -> None:
    """Say in plain words what the plan risks, and whether it can run. Exit 1 when it cannot, or a policy refuses it."""
    draft = read_plan(path, assignments)
    statements = [*explain(draft, sites, coordinates), *_revoked(draft, revocations, site)]
    violations = _violations(draft, policy)
    refused = bool(violations) or any(s.level == "refused" for s in statements)
    if json:
        broken = [asdict(v) for v in violations]
        print_json({"ok": not refused, "statements": [asdict(s) for s in statements], "violations": broken})
    else:
        _show_statements(draft, statements, sites)
        for violation in violations:
            out.print(Text(str(violation), style="bold red"))
        if policy is not None and not violations:
            out.print(f"The policy {policy} allows this plan.", style="green", markup=False)
    if refused:
        raise typer.Exit(1)


@app.command("compile")
def compile_(
    path: Annotated[Path, typer.Argument(help="A draft (TOML).")],
    roster: Annotated[Path, typer.Option(help="TOML: coordinator, and [sites.NAME] with key, officer, co_officers.")],
    output: Annotated[Path, typer.Option("--out", help="The plan.json to write; never overwritten.")],
    sites: Annotated[Path, typer.Option(help="Folder whose public/ holds the public test sets.")] = Path(),
    assignments: Assignments = None,
    quiet: Quiet = False,
) -> None:
    """Pin the base model's weights and the public tests, add the roster: the document that officers approve."""
    from fedsec.study.prepare import pin

    if output.exists():
        raise ConfigError(f"{output} exists and is not overwritten; choose another name")
    draft = override(read_toml(path, Draft), assignments or ())
    verify_supported(draft)
    pinned = read_toml(roster, Roster)
    plan = compile_plan(pin(draft, sites), pinned)
    write_private(output, plan.canonical())
    if not quiet:
        out.print(f"wrote {output}\nplan sha256 {plan.digest().hex()}", markup=False, soft_wrap=True)


app.command("approve")(approve)
app.command("withdraw")(withdraw)


def read_plan(path: Path, assignments: list[str] | None) -> Draft:
    """A draft from TOML or a plan from canonical JSON, by the file's ending."""
    if path.suffix == ".toml":
        return override(read_toml(path, Draft), assignments or ())
    if assignments:
        raise ConfigError(f"--set changes a draft; {path} is compiled, and what is approved does not change")
    return load_plan(path)


def _violations(draft: Draft, policy: Path | None) -> list[Violation]:
    if policy is None:
        return []
    if not isinstance(draft, Plan):
        raise ConfigError("a policy is checked against a compiled plan (plan.json); a draft pins no keys or weights")
    return check_plan(read_toml(policy, Policy), draft, datetime.datetime.now(datetime.UTC))


def _revoked(draft: Draft, folder: Path | None, site: str | None) -> list[Statement]:
    """Keys of the roster that were revoked: nothing runs under such a plan."""
    if folder is None:
        return []
    if not isinstance(draft, Plan):
        raise ConfigError("revocations are checked against a compiled plan (plan.json); a draft names no keys")
    revoked = find_notices(folder, draft, site).revoked_in(draft.roster)
    return [
        Statement("refused", "keys", f"{owner.removeprefix('roster.')} was revoked on {by.said.at:%Y-%m-%d}.")
        for owner, by in revoked
    ]


def _show_statements(draft: Draft, statements: list[Statement], sites: int | None) -> None:
    out.print(statements_table(f"plan {draft.name}", statements))
    if sites is None and not isinstance(draft, Plan):
        out.print("A draft: give --sites N to see who could conspire, who may drop out, and how coarse the sum is.")


def _show_roster(plan: Plan) -> None:
    from fedsec.plan.spoken import spoken
    from fedsec_secure.identity.keys import PublicKey

    table = Table(title="roster: compare each key's words with its owner, by telephone", title_justify="left")
    table.add_column("who")
    table.add_column("words of its key (fingerprint)", overflow="fold")
    for owner, text in plan.roster.everyone():
        key = PublicKey.from_hex(text)
        table.add_row(owner.removeprefix("roster."), f"{spoken(key)}\n[dim]{key.fingerprint()}[/dim]")
    out.print(table)
    out.print(f"sha256 {plan.digest().hex()}", soft_wrap=True)


def _flat(value: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, inner in value.items():
        if isinstance(inner, dict):
            rows += _flat(inner, f"{prefix}{name}.")
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for i, item in enumerate(inner):
                rows += _flat(item, f"{prefix}{name}[{i}].")
        elif isinstance(inner, list):
            rows.append((prefix + name, ", ".join(str(i) for i in inner) or "none"))
        else:
            rows.append((prefix + name, "not set" if inner is None else str(inner)))
    return rows
