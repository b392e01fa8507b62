"""What a site says of its part in a run: read off its own record, its ledger and its policy, and signed."""

from __future__ import annotations

from fedsec.plan.attestation import Attestation, Exposed, SiteLogHead, VerifiedRound, floors_of, sign_attestation
from fedsec.plan.model import Plan
from fedsec.plan.versions import software_versions
from fedsec.site.identity import SiteIdentity
from fedsec.site.store import SiteStore
from fedsec.wire import core_roster
from fedsec_secure.codec import sha256
from fedsec_secure.errors import LocalMisuseError


def attest(
    identity: SiteIdentity, plan: Plan, store: SiteStore, run: str, approval: bytes, canaries: Exposed | None
) -> bytes:
    """The signed attestation of one run as the site's record has it now. ``approval``: the file that holds now."""
    own = core_roster(plan).sites[identity.me].hex
    confirmed = store.log.confirmed(run)
    verified = plan.secure.mode != "none"
    rounds = tuple(
        VerifiedRound(
            round=number,
            took_part=own in confirmed.get(number, frozenset()) if verified else True,
            adapter_sha256=result.hex(),
        )
        for number, result in sorted(store.log.results(run).items())
    )
    head = store.log.own_head()
    if head is None:
        raise LocalMisuseError("a site that attests has a log of its own")
    attestation = Attestation(
        run=run,
        plan_sha256=plan.digest().hex(),
        policy_sha256=identity.policy.digest().hex(),
        approval_sha256=sha256(approval).hex(),
        site=identity.me,
        sums="verified" if verified else "in the open",
        rounds=rounds,
        floors=floors_of(plan, identity.policy),
        privacy=identity.charges.privacy(run),
        canaries=canaries,
        exclusions_hmac_sha256=identity.exclusions_hmac_sha256,
        log=SiteLogHead(entries=head.size, root_sha256=head.root.hex()),
        versions=software_versions(),
    )
    return sign_attestation(attestation, identity.key)
