"""Approvals: an officer's signature over one plan under one policy for one site, until a stated moment."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from fedsec.plan.document import canonical, parse_canonical
from fedsec.plan.model import Plan, Sha256Hex, SiteName, Strict
from fedsec.plan.policy import Policy, UtcSecond, check_plan
from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError, VerificationError
from fedsec_secure.identity.envelope import open_envelope, sign_envelope
from fedsec_secure.identity.keys import PublicKey, SigningKey

APPROVAL_TYPE: Final = "application/vnd.fedsec.approval.v1+json"


class Approval(Strict):
    """What an officer signs."""

    format: Literal[1] = 1
    plan_sha256: Sha256Hex
    """The plan, and with it the base model, the roster and every setting."""
    policy_sha256: Sha256Hex
    """The policy as it stood: a later or an older policy needs another approval."""
    site: SiteName
    officer: str
    """Fingerprint of the officer's public key, for people; the signature decides."""
    expires: UtcSecond
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    """Names this approval, so that it can be withdrawn and another of the same plan cannot pass for it."""


def approve(
    plan: Plan,
    policy: Policy,
    site: str,
    key: SigningKey,
    expires: datetime.datetime,
    now: datetime.datetime,
) -> bytes:
    """Sign an approval: a DSSE envelope, to be stored as the site's ``approval.json``.

    Args:
        plan: the compiled plan.
        policy: the site's policy.
        site: the site's name in the plan's roster.
        key: the officer's key, the one that the roster names for the site.
        expires: end of the approval, UTC to the second, not after the policy's own end.
        now: the present moment, with a time zone.

    Raises:
        ConfigError: the policy does not allow the plan (every violation is listed), the site or officer is not in the
            roster, or the end lies before now or after the policy's.
    """
    if site not in plan.roster.sites:
        raise ConfigError(f"plan {plan.name} has no site {site}; expected one of {', '.join(plan.roster.sites)}")
    if plan.roster.sites[site].officer != key.public.hex:
        raise ConfigError(f"the roster names another officer for {site}; found the key {key.public.fingerprint()}")
    violations = check_plan(policy, plan, now)
    if violations:
        raise ConfigError(
            f"the policy of {site} does not allow plan {plan.name}:\n" + "\n".join(str(v) for v in violations)
        )
    if not now < expires <= policy.expires:
        raise ConfigError(
            f"the approval would end {expires:%Y-%m-%dT%H:%M:%SZ}; expected a moment after now and not after the "
            f"policy's end {policy.expires:%Y-%m-%dT%H:%M:%SZ}"
        )
    approval = Approval(
        plan_sha256=plan.digest().hex(),
        policy_sha256=policy.digest().hex(),
        site=site,
        officer=key.public.fingerprint(),
        expires=expires,
        nonce=secrets.token_hex(16),
    )
    return sign_envelope(APPROVAL_TYPE, canonical(approval), key)


def verify_approval(
    data: bytes,
    plan: Plan,
    policy: Policy,
    site: str,
    officer: PublicKey,
    now: datetime.datetime,
    history: Iterable[frozenset[str]] = (),
) -> Approval:
    """Check an approval at the site, before anything else happens there.

    Checks, each against one way to start what was not allowed: 1 signature by the pinned officer key (forgery); 2 form
    (another document of the officer); 3 site (another hospital's approval); 4 roster (a swapped officer); 5 plan
    (another plan); 6 policy (rolled back or edited policy); 7 not expired (replay); 8 fingerprint; 9 the policy allows
    the plan (an officer's tool that did not look).

    Args:
        data: the envelope.
        plan: the plan that is about to run.
        policy: the policy that stands at the site now.
        site: this site's name.
        officer: the key pinned in ``site.toml``.
        now: the present moment, with a time zone.
        history: earlier rosters, see `check_plan`.

    Raises:
        VerificationError: with the number of the first check that failed.
    """
    if now.tzinfo is None:
        raise LocalMisuseError("verify_approval needs a moment with a time zone")
    approval = read_approval(data, site, officer)
    _verify_bindings(approval, plan, policy, site, officer)
    if not now < approval.expires <= policy.expires:
        raise _failed(7, f"expected a valid approval; it ended {approval.expires:%Y-%m-%dT%H:%M:%SZ}; approve again")
    if approval.officer != officer.fingerprint():
        raise _failed(8, "the fingerprint inside is not the signer's")
    violations = check_plan(policy, plan, now, history)
    if violations:
        raise _failed(9, "\n".join(str(v) for v in violations))
    return approval


def read_approval(data: bytes, site: str, officer: PublicKey) -> Approval:
    """What an officer signed: checks 1 and 2 of `verify_approval`, which alone decides whether it holds now."""
    try:
        payload = open_envelope(data, APPROVAL_TYPE, {officer})
    except (CodecError, VerificationError) as e:
        raise _failed(1, f"expected an approval signed by the pinned officer of {site}; {e}") from e
    try:
        return parse_canonical(payload, Approval, "the approval")
    except CodecError as e:
        raise _failed(2, str(e)) from e


def _verify_bindings(approval: Approval, plan: Plan, policy: Policy, site: str, officer: PublicKey) -> None:
    if approval.site != site:
        raise _failed(3, f"expected an approval for {site}; found one for {approval.site}")
    member = plan.roster.sites.get(site)
    if member is None or member.officer != officer.hex:
        raise _failed(4, f"the plan's roster does not name the pinned officer for {site}; ask who made this plan")
    if approval.plan_sha256 != plan.digest().hex():
        found = f"{approval.plan_sha256[:12]}…"
        raise _failed(5, f"expected plan {plan.digest().hex()[:12]}…; {found} was approved; approve this one")
    if approval.policy_sha256 != policy.digest().hex():
        found = f"{approval.policy_sha256[:12]}…"
        raise _failed(6, f"expected policy {policy.digest().hex()[:12]}…; approved under {found}; approve again")


def _failed(number: int, message: str) -> VerificationError:
    return VerificationError(f"approval check {number}: {message}")
