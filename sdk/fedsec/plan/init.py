"""A complete working set from a draft and site folders: real keys, made on the spot, real policies, real approvals.

For a first study on one machine. It makes what is missing and overwrites no key, no policy and no site file's text.
In a deployment each site makes its own key and each officer signs on a machine of their own; here the officers' keys
lie beside the sites', so whoever holds the folder holds every role.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import tomlkit

from fedsec.plan.approval import approve, read_approval, require_unrevoked, verify_approval
from fedsec.plan.coordinatorfile import COORDINATOR_FILE, IN_WORKING_SET, load_coordinator
from fedsec.plan.document import compile_plan, write_private
from fedsec.plan.matrix import verify_supported
from fedsec.plan.model import Draft, Plan, Roster, RosterSite
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.sitefile import Site, SiteTemplate, load_site
from fedsec.plan.toml import read_toml, write_toml
from fedsec.plan.withdrawal import Notices, notices_of
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.keys import PublicKey, SigningKey

SITE_FILE: Final = "site.toml"
OFFICER_KEY: Final = "officer.key"
PLAN_FILE: Final = "plan.json"
VALID_FOR: Final = datetime.timedelta(days=90)
RUNS_PER_APPROVAL: Final = 1
"""Two runs of one plan whose survivors differ by one site nearly open that site's update; `resume` is no new run."""


def complete_working_set(
    draft: Draft, site_dirs: Mapping[str, Path], coordinator_dir: Path, now: datetime.datetime
) -> Plan:
    """Make keys, roster, plan, policies and approvals where they are missing, so that the plan can run.

    Each site folder holds a ``site.toml`` already, with or without the officer's key (`SiteTemplate`). What is there
    is kept: a policy that does not allow the plan stops everything rather than be replaced.

    Args:
        draft: the study, with the base model's weights pinned.
        site_dirs: one folder a site, by site name.
        coordinator_dir: where the coordinator's file, its key and ``plan.json`` go.
        now: the present moment, with a time zone.

    Returns:
        The compiled plan, which every site's officer has approved.

    Raises:
        ConfigError: the plan does not hold together, a key file is not private, or an existing policy refuses it.
    """
    verify_supported(draft)
    officers: dict[str, SigningKey] = {}
    members: dict[str, RosterSite] = {}
    for name, folder in sorted(site_dirs.items()):
        template = _template(name, folder)
        officers[name] = load_or_make_key(folder / OFFICER_KEY)
        if template.officer is not None and template.officer != officers[name].public.hex:
            raise ConfigError(
                f"{folder / SITE_FILE} pins another officer than {OFFICER_KEY} beside it; that officer has to approve "
                "(`fedsec plan approve`)"
            )
        site_key = load_or_make_key(folder / template.key)
        members[name] = RosterSite(
            key=site_key.public.hex, officer=officers[name].public.hex, co_officers=template.co_officers
        )
    about = _private_folder(coordinator_dir) / COORDINATOR_FILE
    if not about.exists():
        write_private(about, write_toml(IN_WORKING_SET, "The coordinator").encode())
    coordinator = load_or_make_key(load_coordinator(about).key_path)
    plan = compile_plan(draft, Roster(coordinator=coordinator.public.hex, sites=members))
    for name, folder in sorted(site_dirs.items()):
        _pin_officer(folder / SITE_FILE, officers[name].public)
        _approve_once(load_site(folder / SITE_FILE), plan, officers[name], now)
    write_private(coordinator_dir / PLAN_FILE, plan.canonical())
    return plan


def load_or_make_key(path: Path) -> SigningKey:
    """The key at ``path``, made if nothing is there (without a passphrase, mode 0600)."""
    if not path.exists():
        _private_folder(path.parent)
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _template(name: str, folder: Path) -> SiteTemplate:
    template = read_toml(folder / SITE_FILE, SiteTemplate)
    if template.name != name:
        raise ConfigError(f"{folder / SITE_FILE}: expected the name {name}, found {template.name}")
    return template


def _pin_officer(path: Path, officer: PublicKey) -> None:
    """Write the officer's key into a site file that has none; every other byte of it stays as its owner wrote it."""
    text = path.read_text(encoding="utf-8")
    if "officer" in tomlkit.parse(text):
        return
    rows = text.splitlines(keepends=True)
    # Before the first table: what follows a table's heading belongs to that table.
    place = next((i for i, row in enumerate(rows) if row.startswith("[")), len(rows))
    line = f'# {SiteTemplate.model_fields["officer"].description}\nofficer = "{officer.hex}"\n\n'
    write_private(path, "".join([*rows[:place], line, *rows[place:]]).encode())


def _approve_once(site: Site, plan: Plan, officer: SigningKey, now: datetime.datetime) -> None:
    expires = now.astimezone(datetime.UTC).replace(microsecond=0) + VALID_FOR
    if not site.policy_path.exists():
        policy = draft_policy(plan, expires, RUNS_PER_APPROVAL)
        heading = (
            f"What the officer of {site.name} allows. Read before you widen anything; an edit needs a new approval."
        )
        write_private(site.policy_path, write_toml(policy, heading).encode())
    policy = read_toml(site.policy_path, Policy)
    notices = notices_of(site)
    if site.approval_path.exists():
        data = site.approval_path.read_bytes()
        try:
            verify_approval(data, plan, policy, site.name, site.officers, now, notices=notices)
            return
        except VerificationError:
            # An approval of another plan, or an expired one: approve() decides whether this one may have one.
            _require_not_withdrawn(site, data, notices)
    if policy.approvals_required > 1:
        raise ConfigError(
            f"the policy of {site.name} asks for the signatures of {policy.approvals_required} officers, and one is "
            "made here; they approve with `fedsec plan approve`, all but the first with --add"
        )
    require_unrevoked(plan, notices)
    ends = min(expires, policy.expires)
    write_private(site.approval_path, approve(plan, policy, site.name, officer, ends, now))


def _require_not_withdrawn(site: Site, approval: bytes, notices: Notices) -> None:
    """What an officer withdrew by hand is not approved again by a program."""
    try:
        nonce = read_approval(approval, site.name, site.officers).nonce
    except VerificationError:
        return  # nobody here signed it
    if nonce in notices.withdrawn:
        raise ConfigError(
            f"{site.approval_path} was withdrawn; take it away, or approve anew with `fedsec plan approve`, if the "
            f"officer of {site.name} agrees"
        )
