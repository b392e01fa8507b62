"""Which agent answers the exchanges of a plan."""

from __future__ import annotations

from fedsec.plan.group_checks import is_grouped
from fedsec.plan.model import Plan
from fedsec.site.agent import SiteAgent
from fedsec.site.ahead import AheadAgent
from fedsec.site.groups import GroupAgent
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.masked import MaskedAgent
from fedsec.site.masked_encrypted import MaskedEncryptedAgent
from fedsec.site.plain import PlainAgent
from fedsec.site.shared_key import SharedKeyAgent
from fedsec.site.store import SiteStore
from fedsec.wire import is_encrypted, shares_ahead


def agent_for(identity: SiteIdentity, plan: Plan, store: SiteStore, work: SiteWork) -> SiteAgent:
    """The agent that answers the exchanges of this plan."""
    return _kind(plan)(identity, plan, store, work)


def _kind(plan: Plan) -> type[SiteAgent]:
    if is_grouped(plan):
        return GroupAgent
    if is_encrypted(plan):
        return MaskedEncryptedAgent if plan.secure.is_masked else SharedKeyAgent
    if not plan.secure.is_masked:
        return PlainAgent
    return AheadAgent if shares_ahead(plan) else MaskedAgent
