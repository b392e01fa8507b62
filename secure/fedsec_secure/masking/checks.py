"""Checks that several stages share. Verify the signature, then parse, then compare with what is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from fedsec_secure.codec import Writer, open_packet, sha256
from fedsec_secure.errors import AbortError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.messages import Dealing, Statement, set_digest
from fedsec_secure.masking.parameters import Cohort


def open_request(kind: str, data: bytes, context: bytes, group: Cohort) -> memoryview:
    """The body of a coordinator's request, its signature, kind and context checked first."""
    verify = group.roster.verifier(COORDINATOR)
    return open_packet(data, kind=f"{kind}-request", sender=COORDINATOR, context=context, verify=verify)


def check_members(members: Mapping[SiteId, object], me: SiteId, group: Cohort, name: str) -> None:
    """Every accepted set is within the roster, holds this site, and is not below the floor."""
    for site in members:
        # Check 7 (Sybil): no set holds a stranger.
        if site not in group.roster.sites:
            raise PeerViolationError(f"{name} names {site!r}, which is not on the pinned roster")
    # Check 8 (split views): no set that a site is asked about leaves it out.
    if me not in members:
        raise PeerViolationError(f"{name} leaves out this site, {me}")
    # Check 9 (small cohort): the floor is the site's own.
    if len(members) < group.floor:
        raise AbortError(f"{name} has {len(members)} sites; this site takes part from {group.floor} on")


def verify_statements(packets: Mapping[SiteId, bytes], context: bytes, group: Cohort) -> dict[SiteId, Statement]:
    """Every statement under its sender's pinned key; no X25519 key may stand twice (reflected or copied keys)."""
    statements = {}
    for site, packet in packets.items():
        body = open_packet(packet, kind="statement", sender=site, context=context, verify=group.roster.verifier(site))
        statements[site] = Statement.decode(body, scored=group.rule is not None)
    public = [k for s in statements.values() for k in (s.channel_key, s.mask_key)]
    # Check 10 (reflected keys): two pairs with one key would have one mask.
    if len(set(public)) != len(public):
        raise PeerViolationError("two X25519 keys of the statements are the same")
    return statements


def public_weights(statements: Mapping[SiteId, Statement], group: Cohort) -> dict[SiteId, int]:
    """What every site of U1 weighs, as a function of all statements: 1 where the plan does not weigh by scores."""
    if group.rule is None:
        return dict.fromkeys(statements, 1)
    scores = {site: statement.score for site, statement in statements.items() if statement.score is not None}
    return group.rule.weigh(scores)


def check_balance(weights: Mapping[SiteId, int], members: Iterable[SiteId], group: Cohort, name: str) -> None:
    """AbortError where the weights of these members are not within the plan's cap and effective cohort."""
    why = None if group.rule is None else group.rule.why_not([weights[site] for site in members])
    # Check 85 (weight isolation): no set that a site helps to sum is mostly one site's.
    if why is not None:
        raise AbortError(f"{name}: {why}")


def close_cohort(survivors: Set[str], history: Iterable[Set[str]], least: int) -> Set[str] | None:
    """An earlier cohort S' with 0 < |S △ S'| < ``least``, or None. The difference of two such sums is about few sites.

    A heuristic (combinations of more sums can isolate a site as well): only differential privacy bounds all of them.
    """
    return next((before for before in history if 0 < len(survivors ^ before) < least), None)


def commit(context: bytes, site: SiteId, nonce: bytes, update_sha256: bytes) -> bytes:
    """The commitment to the unweighted update: H(domain, context, site, 32-byte nonce, H(canonical float32))."""
    return sha256(Writer().text("fedsec commitment v1").text(site).done(), context, nonce, update_sha256)


def verify_dealings(
    packets: Mapping[SiteId, bytes], statements: Mapping[SiteId, bytes], context: bytes, group: Cohort
) -> dict[SiteId, Dealing]:
    """Every dealing under its dealer's pinned key, over the U1 that is known here, with a promise to each of U1."""
    u1 = set_digest("U1", statements)
    dealings = {}
    for site, packet in packets.items():
        # Check 11 (Sybil): nobody deals who made no statement.
        if site not in statements:
            raise PeerViolationError(f"U2 names {site}, which made no statement")
        body = open_packet(packet, kind="dealing", sender=site, context=context, verify=group.roster.verifier(site))
        dealing = Dealing.decode(body)
        # Check 12 (split views): every dealer was shown the same statements.
        if dealing.statements != u1 or set(dealing.promises) != set(statements):
            raise PeerViolationError(f"{site} was shown another set of statements (split view)")
        dealings[site] = dealing
    return dealings
