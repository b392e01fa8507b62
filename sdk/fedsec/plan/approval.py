"""Approvals: officers' signatures over one plan under one policy for one site, until a stated moment."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Collection, Iterable
from typing import Final, Literal

from fedsec.plan.document import canonical, parse_canonical
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, UtcSecond
from fedsec.plan.policy_checks import check_plan, check_signatures
from fedsec.plan.specs import Sha256Hex, SiteName, Strict
from fedsec.plan.withdrawal import Nonce, Notices
from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError, VerificationError
from fedsec_secure.identity import envelope
from fedsec_secure.identity.keys import PublicKey, SigningKey

APPROVAL_TYPE: Final = "application/vnd.fedsec.approval.v1+json"


class Approval(Strict):
    """What officers sign. Who did is in the envelope's signatures alone."""

    format: Literal[1] = 1
    plan_sha256: Sha256Hex
    """The plan, and with it the base model, the roster and every setting."""
    policy_sha256: Sha256Hex
    """The policy as it stood: a later or an older policy needs another approval."""
    site: SiteName
    expires: UtcSecond
    nonce: Nonce
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

    Where the policy asks for more officers it does not count yet; they follow with `add_officer`.

    Args:
        plan: the compiled plan.
        policy: the site's policy.
        site: the site's name in the plan's roster.
        key: the officer's key, one that the roster names for the site.
        expires: end of the approval, UTC to the second, not after the policy's own end.
        now: the present moment, with a time zone.

    Raises:
        ConfigError: the policy does not allow the plan (every violation is listed), the site or officer is not in the
            roster, the roster names too few officers, or the end lies before now or after the policy's.
    """
    officers = _roster_officers(plan, site)
    _require_officer(key, officers, site)
    if len(officers) < policy.approvals_required:
        raise ConfigError(
            f"the policy asks for the signatures of {policy.approvals_required} officers; the roster names "
            f"{len(officers)} for {site}: compile a plan whose roster has more co_officers there"
        )
    violations = check_plan(policy, plan, now)
    if violations:
        raise ConfigError(
            f"the policy of {site} does not allow plan {plan.name}:\n" + "\n".join(str(v) for v in violations)
        )
    if not now < expires <= policy.expires:
        raise ConfigError(
            f"the approval would end {expires:%Y-%m-%dT%H:%M:%SZ}; expected a moment after now (this machine's clock "
            f"says {now.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}) and not after the policy's end "
            f"{policy.expires:%Y-%m-%dT%H:%M:%SZ}"
        )
    approval = Approval(
        plan_sha256=plan.digest().hex(),
        policy_sha256=policy.digest().hex(),
        site=site,
        expires=expires,
        nonce=secrets.token_hex(16),
    )
    return envelope.sign_envelope(APPROVAL_TYPE, canonical(approval), key)


def verify_to_sign(
    data: bytes, plan: Plan, policy: Policy, site: str, now: datetime.datetime, notices: Notices
) -> tuple[Approval, frozenset[PublicKey]]:
    """What an officer looks at before adding a signature: the approval, and who has signed it so far.

    Everything that `verify_approval` checks, but for the number of signatures, and with the roster's officers in place
    of the pinned ones. Raises what that raises, and ConfigError where the roster has no such site.
    """
    return _verify(data, plan, policy, site, _roster_officers(plan, site), now, (), notices)


def add_officer(
    data: bytes, plan: Plan, policy: Policy, site: str, key: SigningKey, now: datetime.datetime, notices: Notices
) -> bytes:
    """The approval with one more officer's signature over the same words, after `verify_to_sign`.

    Raises:
        VerificationError: it does not hold.
        ConfigError: the roster does not name this key as an officer of the site, or it has signed already.
    """
    _, signers = verify_to_sign(data, plan, policy, site, now, notices)
    _require_officer(key, _roster_officers(plan, site), site)
    if key.public in signers:
        raise ConfigError(f"the key {key.public.fingerprint()} has signed this approval; expected another officer's")
    return envelope.add_signature(data, key)


def verify_approval(
    data: bytes,
    plan: Plan,
    policy: Policy,
    site: str,
    officers: Iterable[PublicKey],
    now: datetime.datetime,
    history: Iterable[frozenset[str]] = (),
    *,
    notices: Notices,
) -> Approval:
    """Check an approval at the site, before anything else happens there.

    Checks, each against one way to start what was not allowed: 1 signed by pinned officers alone (forgery); 2 form
    (another document of an officer); 3 site (another hospital's approval); 4 roster (a swapped or added officer); 5
    plan (another plan); 6 policy (rolled back or edited policy); 7 not expired (replay); 8 the policy allows the plan
    (an officer's tool that did not look); 9 no key of the roster was revoked (a stolen key); 10 the approval was not
    withdrawn (an old file put back); 11 as many officers signed as the policy asks for (one who errs).

    Args:
        data: the envelope.
        plan: the plan that is about to run.
        policy: the policy that stands at the site now.
        site: this site's name.
        officers: the keys pinned in ``site.toml``.
        now: the present moment, with a time zone.
        history: earlier rosters, see `check_plan`.
        notices: revocations and withdrawals that lie at the site now.

    Raises:
        VerificationError: with the number of the first check that failed.
    """
    approval, signers = _verify(data, plan, policy, site, tuple(officers), now, history, notices)
    missing = check_signatures(policy, len(signers))
    if missing is not None:
        raise _failed(11, str(missing))
    return approval


def open_approval(data: bytes, site: str, officers: Iterable[PublicKey]) -> tuple[Approval, tuple[str, ...]]:
    """What officers signed, and which of ``officers`` did (public keys, hex, sorted): checks 1 and 2 of
    `verify_approval`, which alone decides whether it holds now.
    """
    approval, signers = _open(data, site, tuple(officers))
    return approval, tuple(sorted(key.hex for key in signers))


def read_approval(data: bytes, site: str, officers: Iterable[PublicKey]) -> Approval:
    """What officers signed, as `open_approval` has it."""
    return open_approval(data, site, officers)[0]


def signers_of(data: bytes, site: str, officers: Iterable[PublicKey]) -> tuple[str, ...]:
    """Which of ``officers`` signed an approval, as `open_approval` has it."""
    return open_approval(data, site, officers)[1]


def _verify(
    data: bytes,
    plan: Plan,
    policy: Policy,
    site: str,
    officers: tuple[PublicKey, ...],
    now: datetime.datetime,
    history: Iterable[frozenset[str]],
    notices: Notices,
) -> tuple[Approval, frozenset[PublicKey]]:
    """Checks 1 to 10."""
    if now.tzinfo is None:
        raise LocalMisuseError("verify_approval needs a moment with a time zone")
    approval, signers = _open(data, site, officers)
    _verify_bindings(approval, plan, policy, site, officers)
    if not now < approval.expires <= policy.expires:
        raise _failed(7, _ended(approval, policy, now))
    # A site that rotated its key is the same site: renaming it must not make two rosters look further apart.
    violations = check_plan(policy, plan, now, [notices.newest(roster) for roster in history])
    if violations:
        raise _failed(8, "\n".join(str(v) for v in violations))
    require_unrevoked(plan, notices)
    withdrawn = notices.withdrawn.get(approval.nonce)
    if withdrawn is not None:
        raise _failed(10, f"an officer withdrew this approval on {withdrawn.at:%Y-%m-%d %H:%M:%SZ}; nothing runs")
    return approval, signers


def _ended(approval: Approval, policy: Policy, now: datetime.datetime) -> str:
    """With the machine's own time: where its clock is wrong, whoever reads this sees it."""
    ended = f"{approval.expires:%Y-%m-%dT%H:%M:%SZ}"
    if now < approval.expires:
        return f"expected an approval that ends with its policy, {policy.expires:%Y-%m-%dT%H:%M:%SZ}; found {ended}"
    clock = f"this machine's clock says {now.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"expected a valid approval; it ended {ended}, and {clock}; approve again, or set the clock if it is wrong"


def require_unrevoked(plan: Plan, notices: Notices) -> None:
    """Check 9 of `verify_approval`: nothing runs under a plan in whose roster a key was revoked."""
    revoked = notices.revoked_in(plan.roster)
    if revoked:
        found = "; ".join(f"{owner} on {by.said.at:%Y-%m-%d}" for owner, by in revoked)
        raise _failed(
            9, f"a key of the plan was revoked: {found}; compile a plan with another key there, approve that one"
        )


def _open(data: bytes, site: str, officers: Collection[PublicKey]) -> tuple[Approval, frozenset[PublicKey]]:
    """Checks 1 and 2."""
    try:
        opened = envelope.open_signed(data, APPROVAL_TYPE, officers)
    except (CodecError, VerificationError) as e:
        raise _failed(1, f"expected an approval signed by the pinned officer of {site}; {e}") from e
    try:
        return parse_canonical(opened.payload, Approval, "the approval"), opened.signers
    except CodecError as e:
        raise _failed(2, str(e)) from e


def _verify_bindings(
    approval: Approval, plan: Plan, policy: Policy, site: str, officers: Collection[PublicKey]
) -> None:
    """Checks 3 to 6."""
    if approval.site != site:
        raise _failed(3, f"expected an approval for {site}; found one for {approval.site}")
    member = plan.roster.sites.get(site)
    if member is None or set(member.officers) != {officer.hex for officer in officers}:
        raise _failed(4, f"the plan's roster does not name the pinned officers for {site}; ask who made this plan")
    if approval.plan_sha256 != plan.digest().hex():
        found = f"{approval.plan_sha256[:12]}…"
        raise _failed(5, f"expected plan {plan.digest().hex()[:12]}…; {found} was approved; approve this one")
    if approval.policy_sha256 != policy.digest().hex():
        found = f"{approval.policy_sha256[:12]}…"
        raise _failed(6, f"expected policy {policy.digest().hex()[:12]}…; approved under {found}; approve again")


def _roster_officers(plan: Plan, site: str) -> tuple[PublicKey, ...]:
    if site not in plan.roster.sites:
        raise ConfigError(f"plan {plan.name} has no site {site}; expected one of {', '.join(plan.roster.sites)}")
    return tuple(PublicKey.from_hex(key) for key in plan.roster.sites[site].officers)


def _require_officer(key: SigningKey, officers: Collection[PublicKey], site: str) -> None:
    if key.public not in officers:
        raise ConfigError(f"the roster names another officer for {site}; found the key {key.public.fingerprint()}")


def _failed(number: int, message: str) -> VerificationError:
    return VerificationError(f"approval check {number}: {message}")
