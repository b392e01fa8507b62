"""`fedsec plan approve` and `fedsec plan withdraw`: what officers sign."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.keys import open_key, require_new
from fedsec.cli.output import Json, Quiet, err, out, print_json
from fedsec.plan import approval
from fedsec.plan.document import load_plan, parse_canonical, write_private
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.plan.spoken import spoken
from fedsec.plan.toml import read_toml
from fedsec.plan.withdrawal import Notices, read_notices
from fedsec.plan.withdrawal import withdraw as sign_withdrawal
from fedsec_secure.errors import ConfigError, VerificationError
from fedsec_secure.identity.envelope import open_claimed
from fedsec_secure.identity.keys import PublicKey

DAYS = 30

Revocations = Annotated[
    Path | None, typer.Option(help="Folder of revocations: a plan with a revoked key in its roster is refused.")
]


def approve(
    path: Annotated[Path, typer.Argument(help="The compiled plan (JSON).")],
    policy: Annotated[Path, typer.Option(help="The site's policy (TOML).")],
    key: Annotated[Path, typer.Option(help="The officer's key.")],
    site: Annotated[str, typer.Option(help="The site's name in the plan's roster.")],
    output: Annotated[Path, typer.Option("--out", help="The approval to write; never overwritten.")],
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3660, help=f"Valid for so many days, not beyond the policy; {DAYS} if left out."),
    ] = None,
    add: Annotated[Path | None, typer.Option(help="Another officer's approval: add your signature to it.")] = None,
    revocations: Revocations = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sign an approval of this plan under this policy for one site; refused where the policy does not allow it."""
    require_new(output)
    plan, allowed = load_plan(path), read_toml(policy, Policy)
    now = datetime.datetime.now(datetime.UTC)
    notices = find_notices(revocations, plan, site)
    approval.require_unrevoked(plan, notices)
    if add is None:
        expires = min(now.replace(microsecond=0) + datetime.timedelta(days=days or DAYS), allowed.expires)
        data = approval.approve(plan, allowed, site, open_key(key), expires, now)
    else:
        if days is not None:
            raise ConfigError("--days goes with a new approval; with --add the end is in the approval that you add to")
        earlier = _read(add)
        said, signers = approval.verify_to_sign(earlier, plan, allowed, site, now, notices)
        _show_before_signing(said, signers, quiet=quiet or json)
        data = approval.add_officer(earlier, plan, allowed, site, open_key(key), now, notices)
    said, signers = approval.verify_to_sign(data, plan, allowed, site, now, notices)
    write_private(output, data)
    missing = max(0, allowed.approvals_required - len(signers))
    if not quiet or json:
        _report(said, signers, missing, output, json=json)
    if missing and not (quiet or json):
        again = f"fedsec plan approve {path} --policy {policy} --site {site} --add {output} --key KEY --out FILE"
        out.print(f"Another officer signs the same approval with\n{again}", markup=False, soft_wrap=True)


def withdraw(
    path: Annotated[Path, typer.Argument(help="The approval to withdraw.")],
    key: Annotated[Path, typer.Option(help="The key of an officer of the site; one is enough.")],
    output: Annotated[Path, typer.Option("--out", help="The withdrawal to write; never overwritten.")],
    reason: Annotated[str, typer.Option(help="One line; no names, no secrets.")] = "no reason given",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sign a withdrawal of an approval: in the site's folder `revocations` it stops that site."""
    if not output.parent.exists() and output.parent.parent.is_dir():
        # In a hurry, on the site's own machine: the folder is named before it was ever needed.
        output.parent.mkdir(mode=0o700)
    require_new(output)
    opened = open_claimed(_read(path), approval.APPROVAL_TYPE)
    said = parse_canonical(opened.payload, approval.Approval, str(path))
    officer = open_key(key)
    now = datetime.datetime.now(datetime.UTC)
    data = sign_withdrawal(said.nonce, said.plan_sha256, said.site, officer, reason=reason, at=now)
    write_private(output, data)
    if json:
        value = {"withdrawal": str(output), "site": said.site, "nonce": said.nonce, "plan_sha256": said.plan_sha256}
        print_json(value)
        return
    if officer.public not in opened.signers:
        text = "This key did not sign the approval; it counts where site.toml pins it as an officer's."
        err.print(text, style="yellow")
    if not quiet:
        text = (
            f"withdrawn: the approval of plan {said.plan_sha256[:12]}… for {said.site}\n"
            f"wrote {output}; it counts in the folder `revocations` beside the site.toml of {said.site}:\n"
            "the site stops before its next answer, and the approval does not count again."
        )
        out.print(text, markup=False, soft_wrap=True)


def find_notices(folder: Path | None, plan: Plan, site: str | None) -> Notices:
    """What lies in a folder that the user named; a folder that is not there is a mistake here."""
    if folder is None:
        return Notices()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; expected one with revocations")
    member = None if site is None else plan.roster.sites.get(site)
    if site is not None and member is None:
        raise ConfigError(f"plan {plan.name} has no site {site}; expected one of {', '.join(plan.roster.sites)}")
    if member is not None:
        return read_notices(folder, site, [PublicKey.from_hex(key) for key in member.officers])
    try:
        return read_notices(folder, None, [])
    except VerificationError as e:
        raise VerificationError(f"{e}. If the folder is a site's own, name the site: --site NAME") from e


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ConfigError(f"cannot read the approval {path}: {e.strerror}") from e


def _show_before_signing(said: approval.Approval, signers: frozenset[PublicKey], *, quiet: bool) -> None:
    """On standard error, before a passphrase is asked for."""
    if quiet:
        return
    who = "\n".join(f"  {spoken(signer)}" for signer in sorted(signers))
    text = (
        f"You add your signature to an approval for {said.site}:\n"
        f"plan {said.plan_sha256}\npolicy {said.policy_sha256}\n"
        f"until {said.expires:%Y-%m-%d %H:%M} UTC, signed so far by the key\n{who}"
    )
    err.print(text, markup=False, soft_wrap=True)


def _report(said: approval.Approval, signers: frozenset[PublicKey], missing: int, output: Path, *, json: bool) -> None:
    if json:
        digests = {"plan_sha256": said.plan_sha256, "policy_sha256": said.policy_sha256}
        people = {"signed_by": sorted(s.hex for s in signers), "signatures_missing": missing}
        about = {"approval": str(output), "site": said.site, "expires": said.expires.isoformat()}
        print_json({**about, **digests, **people})
        return
    what = f"plan {said.plan_sha256[:12]}… until {said.expires:%Y-%m-%d %H:%M} UTC"
    condition = f", once {missing} more of its officers signed" if missing else ""
    out.print(f"{said.site} may run {what}{condition}\nwrote {output}", markup=False, soft_wrap=True)
