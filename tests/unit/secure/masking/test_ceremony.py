"""The key ceremony: everybody comes to one key, and a coordinator that carries the packets to none of its own."""

from __future__ import annotations

import pytest

from fedsec_secure.codec import Reader, open_packet, seal
from fedsec_secure.errors import CodecError, LocalMisuseError, PeerViolationError, VerificationError
from fedsec_secure.identity.agreement import x25519_public
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import Roster, SiteId
from fedsec_secure.masking.ceremony import (
    SiteOffered,
    ceremony_context,
    deal,
    dealer_of,
    fingerprint,
    take,
    verify_offer,
)
from fedsec_secure.masking.messages import encode_packets, read_packets
from fedsec_secure.secrets import SecretBytes

SITES = tuple(SiteId(f"site-{c}") for c in "abcd")
A, B, C, D = SITES


@pytest.fixture(scope="module")
def keys() -> dict[str, SigningKey]:
    return {name: SigningKey.generate() for name in (*SITES, "coordinator")}


@pytest.fixture(scope="module")
def roster(keys) -> Roster:
    return Roster(keys["coordinator"].public, {s: keys[s].public for s in SITES})


@pytest.fixture(scope="module")
def context(roster) -> bytes:
    return ceremony_context(bytes(32), "run-1", roster.digest())


@pytest.fixture
def offered(keys, context) -> dict[SiteId, SiteOffered]:
    made = {s: SiteOffered.begin(s, context, keys[s].sign) for s in SITES}
    return {s: SiteOffered.restore(state.record()) for s, state in made.items()}


def packets(offered) -> dict[SiteId, bytes]:
    return {s: state.packet for s, state in offered.items()}


def test_every_site_comes_to_the_dealers_key(keys, roster, context, offered):
    assert dealer_of(roster) == A
    key, packet = deal(offered[A], packets(offered), roster, keys[A].sign)
    taken = {s: take(offered[s], packets(offered), packet, roster) for s in SITES}
    assert all(one == key for one in taken.values())
    assert key.reveal() not in packet
    assert fingerprint(key, context) in packet
    assert fingerprint(key, bytes(32)) != fingerprint(key, context)
    other, _ = deal(offered[A], packets(offered), roster, keys[A].sign)
    assert other != key, "drawn anew"


def test_a_run_another_plan_and_another_roster_have_contexts_of_their_own(context, roster):
    others = [
        ceremony_context(bytes(32), "run-2", roster.digest()),
        ceremony_context(bytes([1]) * 32, "run-1", roster.digest()),
        ceremony_context(bytes(32), "run-1", bytes(32)),
    ]
    assert len({context, *others}) == 4


def test_only_the_first_site_deals(keys, roster, offered):
    with pytest.raises(PeerViolationError, match="site-b makes no encryption keys in this run: site-a does"):
        deal(offered[B], packets(offered), roster, keys[B].sign)
    _, packet = deal(offered[A], packets(offered), roster, keys[A].sign)
    forged = seal("key-deal", B, offered[B].context, bytes(64), keys[B].sign)
    with pytest.raises(VerificationError, match="the signature does not hold"):
        take(offered[C], packets(offered), forged, roster)
    assert take(offered[C], packets(offered), packet, roster)


def test_offers_of_all_and_of_nobody_else(keys, roster, context, offered):
    some = packets(offered)
    del some[D]
    with pytest.raises(PeerViolationError, match="expected the offers of all 4 sites, found 3"):
        deal(offered[A], some, roster, keys[A].sign)
    with pytest.raises(PeerViolationError):
        verify_offer(SiteId("stranger"), packets(offered)[D], context, roster)


def test_an_offer_that_the_coordinator_made_is_refused(keys, roster, context, offered):
    """A key whose secret half it has, under any signature that it can make."""
    mine = SecretBytes.random()
    for signer in ("coordinator", B):
        swapped = packets(offered) | {D: seal("key-offer", D, context, x25519_public(mine), keys[signer].sign)}
        with pytest.raises(VerificationError, match="the signature does not hold"):
            deal(offered[A], swapped, roster, keys[A].sign)


def test_an_old_offer_of_a_site_is_noticed_by_that_site(keys, roster, context, offered):
    """Signed by it, for the same run, before its record was lost."""
    old = SiteOffered.begin(D, context, keys[D].sign)
    swapped = packets(offered) | {D: old.packet}
    _, packet = deal(offered[A], swapped, roster, keys[A].sign)
    with pytest.raises(PeerViolationError, match="the offer of site-d came back changed"):
        take(offered[D], swapped, packet, roster)
    with pytest.raises(PeerViolationError, match="another set of offers"):
        take(offered[D], packets(offered), packet, roster)


def redealt(keys, offered, packet, change) -> bytes:
    """The dealer's packet with other boxes, signed by it: a dealer that lies."""
    context = offered[A].context
    body = open_packet(packet, kind="key-deal", sender=A, context=context, verify=lambda m, s: None)
    r = Reader(body, "key deal")
    bound, announced = r.fixed(32), r.fixed(32)
    boxes = change(read_packets(r, "key deal"))
    return seal("key-deal", A, context, bound + announced + encode_packets(boxes), keys[A].sign)


def test_a_dealer_that_lies_is_named(keys, roster, offered):
    """Two keys for two parts of the roster, a box of nothing, a box that is left out."""
    _, packet = deal(offered[A], packets(offered), roster, keys[A].sign)
    _, other = deal(offered[A], packets(offered), roster, keys[A].sign)
    r = Reader(open_packet(other, kind="key-deal", sender=A, context=offered[A].context, verify=lambda m, s: None), "x")
    r.fixed(64)
    second = read_packets(r, "x")
    split = redealt(keys, offered, packet, lambda boxes: boxes | {C: second[C]})
    with pytest.raises(PeerViolationError, match="sealed another encryption key for site-c than it signed for all"):
        take(offered[C], packets(offered), split, roster)
    assert take(offered[B], packets(offered), split, roster)
    swapped = redealt(keys, offered, packet, lambda boxes: boxes | {C: boxes[B]})
    with pytest.raises(PeerViolationError, match="does not authenticate"):
        take(offered[C], packets(offered), swapped, roster)
    short = redealt(keys, offered, packet, lambda boxes: {s: b for s, b in boxes.items() if s != C})
    with pytest.raises(PeerViolationError, match="another set of offers"):
        take(offered[B], packets(offered), short, roster)


def test_a_record_of_another_stage_is_refused(offered):
    data = bytearray(offered[A].record())
    data[4] ^= 1
    with pytest.raises((LocalMisuseError, CodecError)):
        SiteOffered.restore(bytes(data))
    assert "redacted" in repr(offered[A].secret)
    assert offered[A].secret.reveal().hex() not in repr(offered[A])
