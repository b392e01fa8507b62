"""Draws of groups with every random byte fixed, and messages of a draw that must be refused, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec_secure.codec import seal
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.draw import commitment, draw_context, groups_digest, opened_context
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.masking.parameters import Cohort
from fedsec_secure.masking.site_draw import SiteCommitted, SiteDrawn, SiteOpened
from fedsec_secure.secrets import SecretBytes
from tests.vectors.transcript import PLAN, RUN, Fixed

SIZES = {6: 2, 7: 2, 10: 3}
"""Sites -> groups: even ones, one group larger, three."""
WRONGED = SiteId("site-c")
"""Whose message is altered, missing or its own."""
Case = tuple[str, str, bytes, str, str]
"""(message, what is wrong, bytes, error, some of what the error says)"""


class Drawing:
    """One draw, from fixed keys and nonces."""

    def __init__(self, sites: int) -> None:
        fixed, self.private = Fixed(f"fedsec draw vectors {sites}"), {}
        self.count = SIZES[sites]
        names = [SiteId(f"site-{chr(ord('a') + i)}") for i in range(sites)]
        self.keys = {party: self._key(party, fixed) for party in ("coordinator", *names)}
        publics = {name: self.keys[name].public for name in names}
        self.roster = Roster(self.keys["coordinator"].public, publics)
        self.cohort = Cohort(self.roster, 3)
        self.context = draw_context(PLAN, RUN, self.roster.digest())
        with mock.patch.object(SecretBytes, "random", fixed.secret):
            self.committed = {s: SiteCommitted.begin(s, self.context, self.keys[s].sign) for s in names}
        draw = Draw(self.roster, self.context, self.count, RUN, self.keys["coordinator"].sign)
        self.commit_request = draw.commit_request()
        draw = replace(draw, commitments={s: draw.accept_commit(s, c.packet) for s, c in self.committed.items()})
        self.reveal_request = draw.reveal_request()
        self.opened = {s: self.reveal(s, self.reveal_request) for s in names}
        self.draw = replace(draw, reveals={s: draw.accept_reveal(s, o.packet) for s, o in self.opened.items()})
        self.draw_request = self.draw.draw_request()
        self.drawn = {s: self.enter(s, self.draw_request) for s in names}
        for site, state in self.drawn.items():
            self.draw.accept_draw(site, state.packet)
        self.bound = opened_context(self.context, self.draw.commitments)

    def _key(self, party: str, fixed: Fixed) -> SigningKey:
        self.private[party] = fixed.bytes()
        return SigningKey(Ed25519PrivateKey.from_private_bytes(self.private[party]))

    def reveal(self, site: SiteId, request: bytes) -> SiteOpened:
        return SiteOpened.enter(self.committed[site], request, self.cohort, self.keys[site].sign)

    def enter(self, site: SiteId, request: bytes) -> SiteDrawn:
        return SiteDrawn.enter(self.opened[site], request, self.cohort, self.count, self.keys[site].sign)

    def receive(self, message: str, data: bytes) -> None:
        """What the receiver does: `WRONGED` for a request, the coordinator for a reply."""
        if message == "reveal-request":
            self.reveal(WRONGED, data)
        elif message == "second reveal-request":
            self.opened[WRONGED].require_same(data, self.cohort)
        elif message == "draw-request":
            self.enter(WRONGED, data)
        elif message == "reveal":
            self.draw.accept_reveal(WRONGED, data)
        else:
            self.draw.accept_draw(WRONGED, data)

    def json(self) -> dict[str, Any]:
        return {
            "round": {"plan": PLAN.hex(), "run": RUN},
            "groups": self.count,
            "coordinator": self.private["coordinator"].hex(),
            "sites": {
                name: {
                    "signing": self.private[name].hex(),
                    "nonce": committed.nonce.reveal().hex(),
                    "commit": committed.packet.hex(),
                    "reveal": self.opened[name].packet.hex(),
                    "draw": self.drawn[name].packet.hex(),
                }
                for name, committed in self.committed.items()
            },
            "requests": {
                "commit": self.commit_request.hex(),
                "reveal": self.reveal_request.hex(),
                "draw": self.draw_request.hex(),
            },
            "drawn": [list(group) for group in self.draw.groups],
        }


def draws() -> list[dict[str, Any]]:
    """A good one of each size."""
    return [Drawing(sites).json() for sites in SIZES]


def bad_draws() -> list[Case]:
    """Each made from the good draw of seven sites, altered in one place."""
    drawing = Drawing(7)
    return [*_reveal_requests(drawing), *_draw_requests(drawing), *_replies(drawing)]


def good_messages(drawing: Drawing) -> dict[str, bytes]:
    """What the bad ones were made from."""
    return {
        "reveal-request": drawing.reveal_request,
        "second reveal-request": drawing.reveal_request,
        "draw-request": drawing.draw_request,
        "reveal": drawing.opened[WRONGED].packet,
        "draw": drawing.drawn[WRONGED].packet,
    }


def _commit(d: Drawing, site: str, nonce: bytes, context: bytes | None = None) -> bytes:
    where = d.context if context is None else context
    return seal("commit", site, where, commitment(where, SiteId(site), nonce), d.keys[site].sign)


def _without(packets: dict[SiteId, bytes], site: str) -> dict[SiteId, bytes]:
    return {s: packet for s, packet in packets.items() if s != site}


def _reveal_requests(d: Drawing) -> Iterator[Case]:
    good, context = dict(d.draw.commitments), d.context

    def asked(packets: dict[SiteId, bytes], where: bytes = context) -> bytes:
        return seal("reveal-request", COORDINATOR, where, encode_packets(packets), d.keys["coordinator"].sign)

    name, peer = "reveal-request", SiteId("site-a")
    other_run = draw_context(PLAN, "run-2", d.roster.digest())
    short = seal("commit", peer, context, bytes(31), d.keys[peer].sign)
    forged = seal("commit", peer, context, bytes(32), d.keys["site-b"].sign)
    stranger = {SiteId("site-z"): good[peer]}
    peers = "PeerViolationError"
    yield name, "a commitment is missing", asked(_without(good, peer)), peers, "missing: site-a"
    yield name, "the receiver's commitment is missing", asked(_without(good, WRONGED)), peers, "missing: site-c"
    yield (
        name,
        "a site that is not on the roster",
        asked(good | stranger),
        peers,
        "of all 7 sites of the roster, found 8",
    )
    yield (
        name,
        "the receiver's commitment is another one",
        asked(good | {WRONGED: _commit(d, WRONGED, bytes(32))}),
        peers,
        "came back changed",
    )
    yield (
        name,
        "a commitment of another run",
        asked(good | {peer: _commit(d, peer, bytes(32), other_run)}),
        peers,
        "belongs to another plan, run",
    )
    yield name, "a commitment of 31 bytes", asked(good | {peer: short}), peers, "31 bytes"
    yield name, "a commitment under another site's key", asked(good | {peer: forged}), "VerificationError", "signature"
    yield (
        name,
        "one site's packet for another's",
        asked(good | {peer: good[SiteId("site-b")]}),
        "VerificationError",
        "signature",
    )
    yield name, "for another run", asked(good, other_run), peers, "belongs to another plan, run"
    yield (
        "second reveal-request",
        "another set, once the nonce is out",
        asked(good | {peer: _commit(d, peer, bytes(32))}),
        peers,
        "groups are drawn once a run",
    )


def _draw_requests(d: Drawing) -> Iterator[Case]:
    good, bound = dict(d.draw.reveals), d.bound

    def asked(packets: dict[SiteId, bytes], where: bytes = bound) -> bytes:
        return seal("draw-request", COORDINATOR, where, encode_packets(packets), d.keys["coordinator"].sign)

    def opens(site: SiteId, nonce: bytes, where: bytes = bound) -> bytes:
        return seal("reveal", site, where, nonce, d.keys[site].sign)

    name, peer, peers = "draw-request", SiteId("site-a"), "PeerViolationError"
    nonce = d.committed[peer].nonce.reveal()
    changed = bytes([nonce[0] ^ 1]) + nonce[1:]
    other_set = dict(d.draw.commitments) | {peer: _commit(d, peer, bytes(32))}
    other_bound = opened_context(d.context, other_set)
    yield name, "a nonce is missing", asked(_without(good, peer)), peers, "missing: site-a"
    yield name, "one bit of a nonce", asked(good | {peer: opens(peer, changed)}), peers, "opened other bytes"
    yield (
        name,
        "the nonce of another site",
        asked(good | {peer: opens(peer, d.committed[SiteId("site-b")].nonce.reveal())}),
        peers,
        "opened other bytes",
    )
    yield (
        name,
        "a nonce that was opened for another set",
        asked(good | {peer: opens(peer, nonce, other_bound)}),
        peers,
        "belongs to another plan, run",
    )
    yield name, "a nonce of 33 bytes", asked(good | {peer: opens(peer, nonce + b"\0")}), peers, "33 bytes"
    forged = seal("reveal", peer, bound, nonce, d.keys["site-b"].sign)
    yield name, "a nonce under another site's key", asked(good | {peer: forged}), "VerificationError", "signature"
    yield name, "bound to another set", asked(good, other_bound), peers, "belongs to another plan, run"


def _replies(d: Drawing) -> Iterator[Case]:
    nonce, sign = d.committed[WRONGED].nonce.reveal(), d.keys[WRONGED].sign
    changed = bytes([nonce[0] ^ 1]) + nonce[1:]
    first, second = d.draw.groups
    swapped = (tuple(sorted([second[0], *first[1:]])), tuple(sorted([first[0], *second[1:]])))
    peers = "PeerViolationError"
    yield "reveal", "one bit of the nonce", seal("reveal", WRONGED, d.bound, changed, sign), peers, "opened other bytes"
    for wrong, groups in (("other groups than drawn", swapped), ("the groups in another order", (second, first))):
        yield "draw", wrong, seal("draw", WRONGED, d.bound, groups_digest(groups), sign), peers, "drew other groups"
    right = groups_digest(d.draw.groups)
    yield (
        "draw",
        "for another set",
        seal("draw", WRONGED, d.context, right, sign),
        peers,
        "belongs to another plan, run",
    )
    yield (
        "draw",
        "under another site's key",
        seal("draw", WRONGED, d.bound, right, d.keys["site-a"].sign),
        "VerificationError",
        "signature",
    )
