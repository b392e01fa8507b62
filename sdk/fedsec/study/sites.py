"""From a site file to a site agent: key, policy, approval, record and ledger, as they lie at the site."""

from __future__ import annotations

import datetime
import hmac
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing

from fedsec.logfile import read_entries
from fedsec.plan.approval import verify_approval
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.plan.policy_checks import check_plan
from fedsec.plan.sitefile import Site
from fedsec.plan.toml import read_toml
from fedsec.plan.withdrawal import notices_of
from fedsec.site.agent import SiteAgent
from fedsec.site.agents import agent_for
from fedsec.site.charges import LedgerCharges, require_room, rooms
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.ledger import Ledger
from fedsec.site.ledger_file import require_unshared
from fedsec.site.own_log import FOLDER, require_head, require_ledger
from fedsec.site.store import RECORD, SiteStore
from fedsec.site.store_log import read_own_head
from fedsec.spool import private_folder
from fedsec.storage import explained
from fedsec.study.accounts import charged_to
from fedsec_secure.accounting.chain import EMPTY
from fedsec_secure.errors import ConfigError, PrivacyBudgetExceededError, VerificationError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.record.entries import Entry
from fedsec_secure.record.tree import MerkleTree


def open_agent(site: Site, plan: Plan, work: SiteWork, stack: ExitStack) -> SiteAgent:
    """The site's agent for one plan; ``stack`` closes record and ledger.

    FedsecError where anything is missing or does not hold: approval, policy, keys, record, ledger.
    """
    with explained(f"the disk of site {site.name}", "Make room there, then start again"):
        return _opened(site, plan, work, stack)


def _opened(site: Site, plan: Plan, work: SiteWork, stack: ExitStack) -> SiteAgent:
    store = SiteStore(site.state_path)
    stack.callback(store.close)
    policy = read_toml(site.policy_path, Policy)
    private_folder(site.ledger_path.parent)
    ledger = Ledger(site.ledger_path, site.population, plan.dp.unit, expected=store.ledger_head())
    stack.callback(ledger.close)
    require_ledger(site.state_path, ledger.head())
    key = SigningKey.load(site.key_path)

    def authorise() -> bytes:
        name = site.policy_path.name  # what is refused is told to the coordinator: paths of this machine are not
        if read_toml(site.policy_path, Policy, name) != policy:
            raise VerificationError(f"{name} of site {site.name} was changed since it started: start the site again")
        return authorise_site(site, plan, policy, store.runs.cohorts())

    identity = SiteIdentity(
        me=SiteId(site.name),
        key=key,
        authorise=authorise,
        policy=policy,
        charges=LedgerCharges(ledger, plan, store, policy),
        exclusions_hmac_sha256=exclusions_hmac(site, key),
        newest=lambda keys: notices_of(site).newest(keys),
    )
    return agent_for(identity, plan, store, work)


def require_approved(plan: Plan, sites: Mapping[str, Site]) -> None:
    """VerificationError unless each of these sites that takes part has an approval that holds now.

    To be asked before anything large is loaded or made. The agent asks again, with the record that it opens.
    """
    for name in plan.roster.sites:
        if name in sites:
            authorise_site(sites[name], plan, read_toml(sites[name].policy_path, Policy))


def require_startable(plan: Plan, sites: Mapping[str, Site], run: str) -> None:
    """FedsecError where a site's record or ledger would refuse this run id of this plan, or its roster beside those of
    earlier runs, or the ledger is gone, or open to others.

    The agent asks again at its first answer. There each attempt would be refused by every site in turn, and the run
    would say at its end that the same command goes on.
    """
    for site in sites.values():
        policy = read_toml(site.policy_path, Policy)
        require_unshared(site.ledger_path)
        if not site.state_path.is_dir():
            _require_room(site, plan, policy)
            continue
        with ExitStack() as stack, explained(f"the disk of site {site.name}", "Make room there, then start again"):
            store = SiteStore(site.state_path)
            stack.callback(store.close)
            started = store.runs.started(plan.digest())
            if run in started:
                continue
            _require_allowed(site, plan, policy, store.runs.cohorts())
            if len(started) >= policy.max_runs:
                raise ConfigError(
                    f"site {site.name}: its policy has max_runs = {policy.max_runs} for one plan, and {len(started)} "
                    "of this plan began there. Go on with what began (`fedsec resume`); for another run its officer "
                    "raises max_runs and approves again, or another plan is compiled and approved"
                )
            if not site.ledger_path.is_file():
                require_ledger(site.state_path, EMPTY)
                continue
            ledger = Ledger(site.ledger_path, site.population, plan.dp.unit, expected=store.ledger_head())
            stack.callback(ledger.close)
            require_ledger(site.state_path, ledger.head())
            try:
                LedgerCharges(ledger, plan, store, policy).require_room()
            except PrivacyBudgetExceededError as e:
                raise PrivacyBudgetExceededError(f"site {site.name}: {e}") from e


def _require_allowed(site: Site, plan: Plan, policy: Policy, history: Iterable[frozenset[str]]) -> None:
    """VerificationError for a roster too close to that of an earlier run: the record alone knows these."""
    broken = check_plan(policy, plan, datetime.datetime.now(datetime.UTC), history)
    if broken:
        raise VerificationError("\n".join(f"site {site.name}: {violation}" for violation in broken))


def _require_room(site: Site, plan: Plan, policy: Policy) -> None:
    """The same of a site that has no record yet, and whose patients may have a ledger all the same."""
    if not site.ledger_path.is_file():
        return
    try:
        require_room(rooms(plan, policy, site.population, charged_to(site, plan.dp.unit)), plan)
    except PrivacyBudgetExceededError as e:
        raise PrivacyBudgetExceededError(f"site {site.name}: {e}") from e


def authorise_site(site: Site, plan: Plan, policy: Policy, history: Iterable[frozenset[str]] = ()) -> bytes:
    """The officers' approval of this plan under this policy, which holds now; raises otherwise. Approval, withdrawals
    and revocations are read anew every time, so that a file that comes or goes stops the site before its next answer.
    ``history``: the rosters (site keys, hex) of earlier runs.
    """
    try:
        approval = site.approval_path.read_bytes()
    except OSError:
        raise VerificationError(f"site {site.name} has no approval ({site.approval_path.name}): nothing runs") from None
    now = datetime.datetime.now(datetime.UTC)
    try:
        verify_approval(approval, plan, policy, site.name, site.officers, now, history, notices=notices_of(site))
    except VerificationError as e:
        raise VerificationError(f"site {site.name}: {e}") from e
    return approval


def exclusions_hmac(site: Site, key: SigningKey) -> str | None:
    """Which list of patients is left out at this site (hex): the site can show it later, and nobody can guess it."""
    excluded = site.file.data.excluded_patients(site.folder)
    if excluded is None:
        return None
    secret = key.derive_secret("fedsec v1 exclusion list")
    return hmac.digest(secret.reveal(), "\n".join(sorted(excluded)).encode(), "sha256").hex()


def read_own_log(site: Site) -> list[Entry]:
    """The site's own log, without disturbing an agent that runs.

    VerificationError where it does not go through the head that the site's record knows.
    """
    entries = read_entries(site.state_path / FOLDER)
    record = site.state_path / RECORD
    if not record.is_file():
        if entries:
            raise VerificationError(f"{site.state_path} has a log and no record: one of them was taken away")
        return []
    with closing(sqlite3.connect(f"{record.resolve().as_uri()}?mode=ro", uri=True)) as db:
        known = read_own_head(db)
    require_head(MerkleTree(entry.leaf_hash() for entry in entries), known, site.name)
    return entries
