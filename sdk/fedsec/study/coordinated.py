"""The run folder of a coordinator whose sites are on machines of their own: made, or found where a kill left it."""

from __future__ import annotations

import datetime
from pathlib import Path

from fedsec.plan.coordinatorfile import load_coordinator
from fedsec.plan.document import load_plan
from fedsec.plan.matrix import verify_supported
from fedsec.plan.model import Plan
from fedsec.study.coordinate import require_without_adapter, require_without_notes
from fedsec.study.coordinator_key import key_of_plan
from fedsec.study.evidence import read_approval
from fedsec.study.folder import RunFolder
from fedsec.study.prepare import new_run_id, require_new
from fedsec_secure.errors import ConfigError, FedsecError, VerificationError


def prepare_coordination(plan_path: Path, coordinator: Path, out: Path, run: str | None = None) -> RunFolder:
    """A fresh run folder, once everything that a run needs here holds; otherwise nothing is left behind.

    Args:
        plan_path: the compiled plan.json.
        coordinator: a coordinator.toml.
        out: the run folder, new or empty.
        run: the run's id, [a-z0-9-]; made up if None.

    Raises:
        VerificationError: an approval is missing or does not hold; each is named.
        ConfigError: not the plan's key, a plan that a coordinator without notes cannot run, a folder in use.
    """
    require_new(out)
    plan, files = load_plan(plan_path), load_coordinator(coordinator)
    verify_supported(plan)
    require_without_notes(plan)
    require_without_adapter(plan)
    key_of_plan(plan, files.key_path)
    approvals = approvals_in(files.approvals_path, plan, datetime.datetime.now(datetime.UTC))
    return RunFolder.create(out, run or new_run_id(plan.name), coordinator, plan, approvals, distributed=True)


def reopen_coordination(plan_path: Path, coordinator: Path, out: Path, run: str | None = None) -> RunFolder:
    """The run folder that `prepare_coordination` made. ConfigError where it is another run's, or of `fedsec run`."""
    folder, plan = RunFolder.open(out), load_plan(plan_path)
    if not folder.distributed:
        raise ConfigError(f"{out} is a run of sites on this machine: go on with `fedsec resume {out}`")
    if folder.plan != plan or run not in (None, folder.run):
        raise ConfigError(
            f"{out} holds run {folder.run} of the plan {folder.plan.digest().hex()[:12]}…; expected run "
            f"{run or folder.run} of {plan_path} ({plan.digest().hex()[:12]}…): choose another --out"
        )
    if folder.home.resolve() != coordinator.resolve():
        raise ConfigError(f"{out} was begun with {folder.home.resolve()}; expected it again, found {coordinator}")
    key_of_plan(plan, folder.coordinator.key_path)
    return folder


def coordination_folder(plan_path: Path, coordinator: Path, out: Path, run: str | None = None) -> RunFolder:
    """`reopen_coordination` where a run is there, else `prepare_coordination`: the same command after every kill."""
    make = reopen_coordination if RunFolder.is_at(out) else prepare_coordination
    return make(plan_path, coordinator, out, run)


def approvals_in(folder: Path, plan: Plan, now: datetime.datetime) -> dict[str, bytes]:
    """Every site's approval of this plan, by the officers whom the plan names, that has not ended.

    The coordinator has no site's policy: whether the approval was given under it, only the site can tell.
    VerificationError names each one that is missing or does not hold.
    """
    found, wrong = {}, []
    for site in plan.roster.sites:
        try:
            filed = read_approval(folder / f"{site}.json", site, plan)
        except OSError:
            wrong.append(f"{site}: expected {folder / f'{site}.json'}, which `fedsec plan approve` wrote at the site")
            continue
        except FedsecError as e:
            wrong.append(f"{site}: {e}")
            continue
        if now >= filed.said.expires:
            wrong.append(f"{site}: the approval ended {filed.said.expires:%Y-%m-%d %H:%M:%SZ}; expected one that lasts")
        found[site] = filed.raw
    if wrong:
        raise VerificationError(
            f"plan {plan.name} is not approved by {len(wrong)} of {len(plan.roster.sites)} sites, and nothing runs:\n"
            + "\n".join(wrong)
        )
    return found
