"""Groups of sites for a whole run, drawn by all of them together: commit and reveal (Blum 1983), then a shuffle.

Each site commits to 32 random bytes, sees the commitments of the whole roster, and opens its own for that one set. The
permutation follows from all that was opened, so it is uniform as long as one site is honest, and nobody who likes
another one better can have it: of one set of commitments nothing else follows. Whoever stays away when the others have
opened theirs ends the run id; how many of those a site takes part in is its policy's to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from fedsec_secure.codec import DIGEST_BYTES, Writer, open_packet, sha256
from fedsec_secure.errors import ConfigError, PeerViolationError
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.messages import KEY_BYTES, set_digest

SMALLEST_GROUP = 3
"""With two sites in a sum, each subtracts its own update and holds the other's."""
Drawn = tuple[tuple[SiteId, ...], ...]
"""The groups; in each the sites stand sorted."""


def draw_context(plan: bytes, run: str, roster: bytes) -> bytes:
    """What commitments bind: the run and nothing else, for groups are drawn once. ``plan``, ``roster``: digests."""
    out = Writer().text("fedsec draw v1").fixed(plan, DIGEST_BYTES).text(run).fixed(roster, DIGEST_BYTES)
    return sha256(out.done())


def commitment(context: bytes, site: SiteId, nonce: bytes) -> bytes:
    """H(domain, site, context, 32-byte nonce); ``context`` names plan, run and roster."""
    return sha256(Writer().text("fedsec draw commitment v1").text(site).done(), context, nonce)


def opened_context(context: bytes, commitments: Mapping[SiteId, bytes]) -> bytes:
    """What is opened binds every commitment: nonces that were opened for another set do not count in this one."""
    return sha256(Writer().text("fedsec draw set v1").done(), context, set_digest("commitments", commitments))


def verify_commitments(packets: Mapping[SiteId, bytes], context: bytes, roster: Roster) -> dict[SiteId, bytes]:
    """The whole roster's commitments, each under its owner's key."""
    _require_all(packets, roster, "commitments")
    return {site: verify_commitment(site, packet, context, roster) for site, packet in packets.items()}


def verify_commitment(site: SiteId, packet: bytes, context: bytes, roster: Roster) -> bytes:
    """One site's, 32 bytes."""
    return _digest_of("commit", site, packet, context, roster)


def verify_reveal(site: SiteId, packet: bytes, commitments: Mapping[SiteId, bytes], context: bytes, r: Roster) -> bytes:
    """The nonce that a site opens. ``commitments``: the packets of all; ``context``: of the draw."""
    nonce = _digest_of("reveal", site, packet, opened_context(context, commitments), r)
    # Check 88 (redrawn groups): what is opened is what was committed to, before anybody's was known.
    if commitment(context, site, nonce) != verify_commitment(site, commitments[site], context, r):
        raise PeerViolationError(f"{site} opened other bytes than it committed to: this run id ends here")
    return nonce


def drawn_groups(
    reveals: Mapping[SiteId, bytes], commitments: Mapping[SiteId, bytes], context: bytes, roster: Roster, count: int
) -> Drawn:
    """The groups that follow from everybody's nonces. PeerViolationError where one is missing or wrong."""
    _require_all(reveals, roster, "opened commitments")
    nonces = {s: verify_reveal(s, packet, commitments, context, roster) for s, packet in reveals.items()}
    out = Writer().text("fedsec draw seed v1").fixed(opened_context(context, commitments), DIGEST_BYTES)
    for site in roster.ids:
        out.text(site).fixed(nonces[site], KEY_BYTES)
    return deal(shuffled(roster.ids, sha256(out.done())), count)


def deal(order: Sequence[SiteId], count: int) -> Drawn:
    """Sites in ``order``, dealt one by one into ``count`` groups: their sizes differ by one at most."""
    require_sizes(len(order), count)
    return tuple(tuple(sorted(order[number::count])) for number in range(count))


def require_sizes(sites: int, count: int) -> None:
    """ConfigError unless there are at least two groups, none of them smaller than three sites."""
    if count < 2 or sites < count * SMALLEST_GROUP:
        raise ConfigError(
            f"{sites} sites in {count} groups: expected at least two groups of {SMALLEST_GROUP} sites or more, so "
            f"{max(count, 2) * SMALLEST_GROUP} sites at least"
        )


def shuffled(sites: Sequence[SiteId], seed: bytes) -> tuple[SiteId, ...]:
    """A permutation; for a uniform 32-byte ``seed`` each has the same chance (Fisher and Yates; Durstenfeld 1964).

    For i from the last place down to the second: swap with place ``word mod (i + 1)``, words from :func:`_words`, those
    from the largest multiple of i + 1 below 2^64 on left out.
    """
    order, words = list(sites), _words(seed)
    for i in range(len(order) - 1, 0, -1):
        limit = (1 << 64) - (1 << 64) % (i + 1)
        j = next(word for word in words if word < limit) % (i + 1)
        order[i], order[j] = order[j], order[i]
    return tuple(order)


def _words(seed: bytes) -> Iterator[int]:
    """The first 8 bytes, big-endian, of H(domain, seed, u32 k) for k = 0, 1, 2, ..."""
    domain, k = Writer().text("fedsec draw word v1").fixed(seed, DIGEST_BYTES).done(), 0
    while True:
        yield int.from_bytes(sha256(domain, k.to_bytes(4, "big"))[:8], "big")
        k += 1


def groups_digest(groups: Drawn) -> bytes:
    """Over all groups with their sites, in order."""
    out = Writer().text("fedsec draw groups v1").uint(len(groups), 2)
    for group in groups:
        out.uint(len(group), 2)
        for site in group:
            out.text(site)
    return sha256(out.done())


def group_roster(groups: Drawn, site: SiteId, roster: Roster) -> Roster:
    """The part of the roster that is this site's group: the roster of its group's sums."""
    return roster_of_group(next(group for group in groups if site in group), roster)


def roster_of_group(group: Collection[SiteId], roster: Roster) -> Roster:
    """The same coordinator, and these sites."""
    return Roster(roster.coordinator, {site: roster.sites[site] for site in group})


def least_threshold(sites: int) -> int:
    """The smallest Shamir threshold that a group of so many sites may have (Bonawitz et al. 2017, section 6)."""
    return 2 * sites // 3 + 1


def _require_all(packets: Mapping[SiteId, bytes], roster: Roster, name: str) -> None:
    # Check 89 (redrawn groups): of the whole roster: a draw among those whose bytes suit somebody is none.
    if set(packets) != set(roster.sites):
        missing = sorted(set(roster.sites) - set(packets))
        raise PeerViolationError(
            f"expected the {name} of all {len(roster.sites)} sites of the roster, found {len(packets)}; missing: "
            f"{', '.join(missing) or 'none'}"
        )


def _digest_of(kind: str, site: SiteId, packet: bytes, context: bytes, roster: Roster) -> bytes:
    body = open_packet(packet, kind=kind, sender=site, context=context, verify=roster.verifier(site))
    # Check 90 (malformed commitment): 32 bytes, and none that could hide a choice.
    if len(body) != KEY_BYTES:
        raise PeerViolationError(f"{site} sent {len(body)} bytes to {kind}; expected {KEY_BYTES}")
    return bytes(body)
