"""`fedsec budget`: what a site's privacy ledger says, what a plan would cost, and the arithmetic of epsilon."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from fedsec.cli.output import Json, out, print_json
from fedsec.plan.cost import BASELINE, RELATION, SPARE_DELTA, cost, releases
from fedsec.plan.document import load_plan
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, PrivacyBudget
from fedsec.plan.policy_checks import check_plan
from fedsec.plan.sitefile import Site, load_site
from fedsec.plan.statement import plural
from fedsec.plan.toml import read_toml
from fedsec.privacy.accountant import RdpFilter
from fedsec.privacy.shown import shown_epsilon
from fedsec.privacy.words import in_words
from fedsec.site.charges import Room, require_room, rooms
from fedsec.study.accounts import charged_to, other_populations
from fedsec_secure.accounting.chain import Reservation
from fedsec_secure.accounting.events import NEIGHBOURS, Event, Neighbours, Unit, is_private
from fedsec_secure.accounting.rules import composed_epsilon
from fedsec_secure.errors import ConfigError, PrivacyBudgetExceededError

app = typer.Typer(help="A site's privacy ledger: what was charged, and what a plan would cost.", no_args_is_help=True)
SiteFile = Annotated[Path, typer.Argument(help="The site's site.toml.")]
_UNITS: tuple[Unit, ...] = ("patient", "record")


@app.callback()
def _budget() -> None:
    """A site's privacy ledger: what was charged, and what a plan would cost."""


@app.command("show")
def show(path: SiteFile, json: Json = False) -> None:
    """What was charged to the patients of this site so far, by unit, beside what its policy allows."""
    site = load_site(path)
    policy = read_toml(site.policy_path, Policy)
    rows: list[dict[str, object]] = []
    for unit in _UNITS:
        limit = policy.budget(unit, site.population)
        history = charged_to(site, unit)
        delta = SPARE_DELTA if limit is None else limit.max_delta
        spent = _composed(history, (), delta, unit)
        told = {"epsilon": spent, "delta": delta, "allowed": _allowed(limit)}
        rows.append({"unit": unit, "releases": len(history), **told})
    by_record, by_patient = (_private_releases(site, unit) for unit in ("record", "patient"))
    patient = next(row for row in rows if row["unit"] == "patient")
    if by_record and patient["epsilon"] != math.inf:
        patient["epsilon"] = _NOT_BOUNDED
    if json:
        plain = [{**row, "epsilon": _plain(row["epsilon"])} for row in rows]
        others = {"other_populations": other_populations(site), "record_level_releases": by_record}
        print_json({"population": site.population, **others, "rows": plain})
        return
    out.print(_accounts(site.population, rows, by_record))
    _remark_on_others(site)
    if any(row["epsilon"] == math.inf for row in rows):
        out.print(
            "ε = ∞: something was released without differential privacy. That is never undone, and no budget over all "
            "that was ever released about these patients can hold any more."
        )
    if by_record:
        out.print(_ONE_WINDOW)
    if by_patient:
        out.print(
            "What was charged to patients counts for their records too: without one of their records they are still "
            "there, with other notes, which can show more than if they were not."
        )


_ONE_WINDOW = (
    "A record is one window of a note: what was charged to each record says nothing of a patient with several, and no "
    "budget per patient counts it."
)
_NOT_BOUNDED = "not bounded"
_NO_BOUND = "no bound"
"""Of a mechanism with noise: infinity only says there that nothing is proved."""


def _accounts(population: str, rows: Sequence[dict[str, object]], by_record: int) -> Table:
    table = Table(title=f"privacy ledger of {population}", title_justify="left")
    for name in ("unit", "releases", "ε charged", "the policy allows"):
        table.add_column(name, justify="right" if name in ("releases", "ε charged") else "left")
    for row in rows:
        epsilon = row["epsilon"]
        told = shown_epsilon(epsilon) if isinstance(epsilon, float) else f"{epsilon}: {_record_level(by_record)}"
        table.add_row(str(row["unit"]), str(row["releases"]), told, str(row["allowed"]))
    return table


def _remark_on_others(site: Site) -> None:
    """A plan may call the site something else, and the name stands for the population where the file gives none."""
    others = other_populations(site)
    if others:
        which = " or ".join(f'"{name}"' for name in others)
        out.print(
            f"The ledger also has charges to {', '.join(others)}, which count for other patients only. If these are "
            f"the same patients, the site file needs population = {which}.",
            markup=False,
        )


def _record_level(count: int) -> str:
    return plural(count, "record-level release")


def _private_releases(site: Site, unit: Unit) -> int:
    """How many were made with noise for this unit. All of them count against records."""
    private = (r.charge.unit for r in charged_to(site, "record") if is_private(r.charge.event))
    return sum(charged == unit for charged in private)


@app.command("history")
def history(path: SiteFile, json: Json = False) -> None:
    """Every charge, in order; a charge stays where its release did not leave: there is no refund."""
    site = load_site(path)
    found: dict[int, Reservation] = {}
    for unit in _UNITS:
        found |= {r.sequence: r for r in charged_to(site, unit)}
    rows = [
        {
            "number": r.sequence,
            "at": datetime.datetime.fromtimestamp(r.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "run": r.charge.run,
            "round": r.charge.round,
            "purpose": r.charge.purpose,
            "unit": r.charge.unit,
            "event": in_words(r.charge.event),
            "released": r.released is not None,
        }
        for _, r in sorted(found.items())
    ]
    if json:
        print_json({"population": site.population, "rows": rows})
        return
    table = Table(title=f"charges of {site.population}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("entry", justify="right")
    for name in ("at (UTC)", "run", "round", "what", "unit", "with", "left"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("run", "with"), max_width=30)
    for row in rows:
        number, at, *cells, _ = map(str, row.values())
        cells[1] = "end" if row["purpose"] == BASELINE else str(int(cells[1]) + 1)
        table.add_row(number, at[:-3], *cells, "yes" if row["released"] else "no")
    out.print(table)


@app.command("simulate")
def simulate(
    plan: Annotated[Path, typer.Argument(help="A compiled plan (JSON).")],
    site: Annotated[Path, typer.Option(help="The site's site.toml.")],
    json: Json = False,
) -> None:
    """What one run of a plan would charge here, and whether the policy allows it. Charges nothing. Exit 1 if not."""
    wanted, here = load_plan(plan), load_site(site)
    policy, planned = read_toml(here.policy_path, Policy), cost(wanted)
    events = [event for _, _, event in releases(wanted)]
    history = charged_to(here, wanted.dp.unit)
    spent, after = (_composed(history, more, planned.delta, wanted.dp.unit) for more in ((), events))
    found, refusals = _judged(wanted, policy, here.population, history)
    uncounted = _private_releases(here, "record") if wanted.dp.unit == "patient" else 0
    if json:
        value = {"releases": len(events), "before": _plain(spent), "after": _plain(after), "delta": planned.delta}
        value |= {"record_level_releases": uncounted, "allowed": not refusals}
        word = "infinity" if wanted.dp.mode == "none" else _NO_BOUND
        value |= {"epsilon": _plain(planned.epsilon), "replace_one": _plain(planned.replace_one, word)}
        limits = [
            {"limit": name, "delta": room.budget.delta, "most": room.budget.epsilon}
            | {"before": _plain(room.before), "after": _plain(room.after)}
            for name, room in found
        ]
        print_json(value | {"limits": limits, "refusals": refusals})
    else:
        kind = "without" if wanted.dp.mode == "none" else "with"
        out.print(
            f"One run of {wanted.name} makes {plural(len(events), 'release')} {kind} differential privacy.",
            markup=False,
        )
        if wanted.dp.mode != "none":
            out.print(
                f"It costs each {wanted.dp.unit} ε = {shown_epsilon(planned.epsilon)} at δ = {planned.delta:g} "
                f"({shown_epsilon(planned.replace_one, infinite=_NO_BOUND)} where the content is exchanged)."
            )
        now, afterwards = shown_epsilon(spent), shown_epsilon(after)
        out.print(f"ε charged to each {wanted.dp.unit} at δ = {planned.delta:g}: {now} now, {afterwards} afterwards.")
        if uncounted:
            out.print(f"Not in it: {_record_level(uncounted)}. {_ONE_WINDOW}")
        if found:
            out.print(_limits(found))
        _remark_on_others(here)
        for refusal in refusals:
            out.print(f"Refused: {refusal}.", markup=False)
        if not refusals:
            out.print("The policy and the ledger allow it.")
    if refusals:
        raise typer.Exit(1)


_LIMITS = ("the plan's target", "the policy, one study", "the policy, all studies")
"""What each of `budgets_of` is, in its order."""


def _judged(
    plan: Plan, policy: Policy, population: str, history: Sequence[Reservation]
) -> tuple[list[tuple[str, Room]], list[str]]:
    """Each limit and its room; and why a site would not run the plan: by the functions that it asks itself."""
    now = datetime.datetime.now(datetime.UTC)
    refusals = [str(violation) for violation in check_plan(policy, plan, now)]
    try:
        found = rooms(plan, policy, population, history)
    except PrivacyBudgetExceededError as e:
        return [], [*refusals, f"privacy ledger: {e}"]
    try:
        require_room(found, plan)
    except PrivacyBudgetExceededError as e:
        refusals.append(f"privacy ledger: {e}")
    return list(zip(_LIMITS, found, strict=True)) if found else [], refusals


def _limits(found: Sequence[tuple[str, Room]]) -> Table:
    table = Table()
    for name in ("limit", "δ", "ε now", "afterwards", "at most"):
        table.add_column(name, justify="left" if name == "limit" else "right")
    for name, room in found:
        low, high, most = shown_epsilon(room.before), shown_epsilon(room.after), room.budget.epsilon
        style = "bold red" if room.after > most else ""
        table.add_row(name, f"{room.budget.delta:g}", low, Text(high, style), f"{most:g}")
    return table


@app.command("epsilon")
def epsilon(
    sampling_rate: Annotated[float, typer.Option(help="Chance of each unit to be in a batch; above 0, at most 1.")],
    steps: Annotated[int, typer.Option(help="Steps, those on empty batches included.")],
    delta: Annotated[float, typer.Option(help="Between 0 and 1; well below one over the number of units.")],
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise's deviation over the clipping norm.")] = None,
    target: Annotated[float | None, typer.Option(help="Find the noise multiplier for this ε instead.")] = None,
    records: Annotated[
        int, typer.Option(min=1, max=256, help="Records of one patient, where records are sampled and clipped.")
    ] = 1,
    neighbours: Annotated[str, typer.Option(help="add-or-remove or replace-one.")] = "add-or-remove",
    json: Json = False,
) -> None:
    """What steps of DP-SGD with real Poisson sampling cost, or the noise that a target takes. Arithmetic only."""
    from fedsec.privacy.accountant import PldAccountant, RdpFilter, RenyiAccountant, calibrate, steps_of

    if (noise_multiplier is None) == (target is None):
        found = "neither" if target is None else "both"
        raise ConfigError(
            f"expected --noise-multiplier or --target, found {found}: give one, and the other is computed"
        )
    relation = _relation(neighbours)
    noise = noise_multiplier if target is None else calibrate(target, delta, sampling_rate, steps, relation, records)
    assert noise is not None
    events = [steps_of(sampling_rate, noise, steps, records)]

    def costs(asked: Neighbours) -> dict[str, str | float]:
        kinds = {"epsilon": PldAccountant, "rdp": RenyiAccountant, "filter": RdpFilter}
        return {
            "neighbours": asked,
            **{name: kind(asked).epsilon(events, delta) for name, kind in kinds.items()},
        }

    if json:
        given = {
            "sampling_rate": sampling_rate,
            "noise_multiplier": noise,
            "steps": steps,
            "delta": delta,
            "records": records,
        }
        figures = {name: _plain(value, _NO_BOUND) for name, value in costs(relation).items()}
        print_json(figures | given | ({} if target is None else {"target": target}))
        return
    rows = [costs(asked).values() for asked in NEIGHBOURS]
    each = "" if records == 1 else f", {records} records of each patient"
    of = f"{plural(steps, 'step')}, sampling rate {sampling_rate:g}{each}"
    out.print(f"{of}, noise multiplier {noise:.15g}, δ = {delta:g}")
    table = Table("neighbours", "ε (PLD, reported)", "ε (best Rényi order)", "ε (filter, the ledger's)")
    for row in rows:
        table.add_row(*(shown_epsilon(v, decimals=3, infinite=_NO_BOUND) if isinstance(v, float) else v for v in row))
    out.print(table)
    if any(value == math.inf for row in rows for value in row):
        out.print(
            f"{_NO_BOUND.capitalize()}: none is known at so large an ε. Replacing a patient is counted as removing one "
            "and adding another. Noise is added all the same."
        )
    if target is not None:
        # With all its digits: one less would be a noise that misses the target.
        kept = f"whose filter stays within {target:.15g} by {relation}"
        out.print(f"{noise:.15g} is the smallest noise multiplier, to 3 decimals, {kept}.")


def _relation(name: str) -> Neighbours:
    for known in NEIGHBOURS:
        if name == known:
            return known
    raise ConfigError(f"--neighbours: expected {' or '.join(NEIGHBOURS)}, found {name!r}: use one of them")


def _composed(history: Sequence[Reservation], events: Sequence[Event], delta: float, unit: Unit) -> float:
    return composed_epsilon(history, events, RdpFilter(RELATION), delta, unit)


def _allowed(limit: PrivacyBudget | None) -> str:
    if limit is None:
        return f"no budget; ε is at δ = {SPARE_DELTA:g}"
    return f"ε ≤ {limit.total:g} ({limit.max_epsilon:g} by one study) at δ = {limit.max_delta:g}"


def _plain(value: object, infinite: str = "infinity") -> object:
    """JSON has no infinity."""
    return infinite if value == math.inf else value
