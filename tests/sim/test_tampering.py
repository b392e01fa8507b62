"""Packets changed, swapped, replayed or re-signed on their way: named and refused, and the sum of the others exact."""

from __future__ import annotations

import numpy as np
import pytest

from fedsec_secure.codec import head_length, seal
from fedsec_secure.errors import AbortError, FedsecError, LocalMisuseError
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.messages import (
    MaskRequest,
    Revealed,
    ShareKind,
    Statement,
    decode_packets,
    encode_packets,
)
from fedsec_secure.masking.site_stated import SiteStated
from tests.sim.network import EXCHANGES, SimNetwork, parameters_for
from tests.sim.test_masked_round import make_updates

LENGTH = 300
VICTIM = "site-02"


@pytest.fixture
def network() -> SimNetwork:
    """Five sites, four needed."""
    return SimNetwork(make_updates(np.random.default_rng(5), 5, LENGTH), parameters_for(5, LENGTH), threshold=4)


def check_exact(network: SimNetwork, result) -> None:
    expected = sum((network.sites[s].encoded(network.parameters) for s in result.survivors), np.uint64(0))
    np.testing.assert_array_equal(result.total, expected)


def on(exchange: str, change, site: str = VICTIM):
    return lambda name, s, data: change(data) if (name, s) == (exchange, site) else data


def flip(data: bytes, at: int = -1) -> bytes:
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out)


@pytest.mark.parametrize(
    ("exchange", "at"), [(e, at) for e in EXCHANGES for at in (5, 40, -1) if (e, at) != ("share", -1)]
)
def test_a_reply_changed_on_its_way_is_set_aside_and_its_site_named(network, exchange, at):
    network.tamper_reply = on(exchange, lambda data: flip(data, at))
    result = network.run()
    assert list(network.refused) == [(exchange, VICTIM)]
    assert (VICTIM in result.survivors) == (exchange in ("confirm", "unmask"))
    check_exact(network, result)


def test_a_sealed_pair_changed_on_its_way_costs_its_recipient_and_no_one_else(network):
    """Only the recipient can tell; it takes no part in a sum that it could not help to open."""
    network.lenient = True
    network.tamper_reply = on("share", flip)  # the last ciphertext is site-04's
    result = network.run()
    assert list(network.refused) == [("mask", "site-04")]
    assert "not those that it signed" in network.refused["mask", "site-04"]
    assert "site-04" not in result.survivors
    check_exact(network, result)


@pytest.mark.parametrize("at", [5, 40, -1])
@pytest.mark.parametrize("exchange", EXCHANGES[1:])
def test_a_request_changed_on_its_way_is_refused_by_the_site(network, exchange, at):
    network.tamper_request = on(exchange, lambda data: flip(data, at))
    result = network.run()
    assert list(network.refused) == [(exchange, VICTIM)]
    check_exact(network, result)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_another_sites_reply_is_not_taken_for_ones_own(network, exchange):
    """site-01's packet arrives as site-02's."""
    network.tamper_reply = on(exchange, lambda _: network.sites["site-01"].sent[exchange])
    result = network.run()
    assert list(network.refused) == [(exchange, VICTIM)]
    check_exact(network, result)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_reply_of_an_earlier_attempt_is_refused(exchange):
    """The same sites and keys, the attempt before: every packet belongs to its context."""
    updates = make_updates(np.random.default_rng(5), 5, LENGTH)
    old, new = (SimNetwork(updates, parameters_for(5, LENGTH), threshold=4) for _ in range(2))
    for site in old.sites:
        old.sites[site].key = new.sites[site].key
    old.group, old.coordinator = new.group, new.coordinator
    old.context = bytes(32)
    old.run()
    new.tamper_reply = on(exchange, lambda _: old.sites[VICTIM].sent[exchange])
    result = new.run()
    assert list(new.refused) == [(exchange, VICTIM)]
    check_exact(new, result)


def resign(network: SimNetwork, kind: str, change):
    """The coordinator's own lie: another body, properly signed, over the right context."""

    def lie(data: bytes) -> bytes:
        from fedsec_secure.codec import Header

        cut = head_length(data)
        context = Header.decode(data[6 : cut - 64]).context
        return seal(f"{kind}-request", COORDINATOR, context, change(data[cut:]), network.coordinator.sign)

    return lie


def without(site: str):
    def change(body: bytes) -> bytes:
        packets = decode_packets(body, "test")
        del packets[site]
        return encode_packets(packets)

    return change


@pytest.mark.parametrize("exchange", ["share", "confirm"])
def test_a_set_without_the_site_itself_is_refused(network, exchange):
    network.tamper_request = on(exchange, resign(network, exchange, without(VICTIM)))
    network.run()
    assert "leaves out this site" in network.refused[exchange, VICTIM]


@pytest.mark.parametrize("exchange", ["share", "confirm", "unmask"])
def test_a_set_below_the_floor_is_refused(network, exchange):
    def fewer(body: bytes) -> bytes:
        packets = decode_packets(body, "test")
        return encode_packets({s: p for s, p in packets.items() if s in (VICTIM, "site-00", "site-01")})

    network.tamper_request = on(exchange, resign(network, exchange, fewer))
    network.run()
    assert "AbortError" in network.refused[exchange, VICTIM]
    assert "from 4 on" in network.refused[exchange, VICTIM]


def test_a_key_that_the_coordinator_swapped_stops_every_site(network):
    """It can sign as itself only: a statement with its own keys in site-00's name is no statement of site-00."""
    stranger = SigningKey.generate()

    def swap(body: bytes) -> bytes:
        packets = decode_packets(body, "test")
        forged = Statement(bytes([9]) + bytes(31), bytes([10]) + bytes(31), bytes(32))
        packets["site-00"] = seal("statement", "site-00", network.context, forged.encode(), stranger.sign)
        return encode_packets(packets)

    lie = resign(network, "share", swap)
    network.tamper_request = lambda name, site, data: lie(data) if name == "share" else data
    with pytest.raises(AbortError, match="U2 has 0 sites"):
        network.run()
    assert len(network.refused) == 5
    assert all("share" not in site.sent for site in network.sites.values())


def test_split_views_of_the_statements_give_no_sum(network):
    """One site sees four statements, the others five: its dealing is over another U1 and is set aside."""
    network.tamper_request = on("share", resign(network, "share", without("site-04")))
    result = network.run()
    assert "another set of statements" in network.refused["share", VICTIM]
    assert VICTIM not in result.survivors
    check_exact(network, result)


def test_ones_own_dealing_must_come_back_unchanged(network):
    def drop_me(body: bytes) -> bytes:
        request = MaskRequest.decode(body)
        dealings = {s: p for s, p in request.dealings.items() if s != VICTIM}
        return MaskRequest(dealings, {s: request.sealed[s] for s in dealings}).encode()

    network.tamper_request = on("mask", resign(network, "mask", drop_me))
    result = network.run()
    assert "leaves out this site" in network.refused["mask", VICTIM]
    check_exact(network, result)


def resealed(network: SimNetwork, change):
    """A site's own unmask reply with other shares, properly signed by it."""

    def lie(data: bytes) -> bytes:
        from fedsec_secure.codec import Header

        cut = head_length(data)
        context = Header.decode(data[6 : cut - 64]).context
        shares = change(dict(Revealed.decode(data[cut:]).shares))
        return seal("unmask", VICTIM, context, Revealed(shares).encode(), network.sites[VICTIM].key.sign)

    return lie


@pytest.mark.parametrize("dropped", [False, True])
def test_a_corrupted_share_is_named_and_the_round_completes(network, dropped):
    if dropped:
        network = SimNetwork(make_updates(np.random.default_rng(5), 7, LENGTH), parameters_for(7, LENGTH), threshold=5)
        network.sites["site-00"].drops_at = "mask"

    def corrupt(shares):
        kind, share = shares["site-00"]
        return shares | {"site-00": (kind, flip(share))}

    network.tamper_reply = on("unmask", resealed(network, corrupt))
    result = network.run()
    assert network.refused == {("unmask", VICTIM): f"{VICTIM} revealed a share of site-00's that site-00 did not deal"}
    assert ("site-00" in result.survivors) != dropped
    check_exact(network, result)


def test_the_wrong_kind_of_share_and_a_missing_one_are_set_aside(network):
    for change in (
        lambda shares: shares | {"site-00": (ShareKind.MASK_KEY, shares["site-00"][1])},
        lambda shares: {s: v for s, v in shares.items() if s != "site-00"},
    ):
        network.tamper_reply = on("unmask", resealed(network, change))
        network.refused.clear()
        check_exact(network, network.run())
        assert list(network.refused) == [("unmask", VICTIM)]


def test_two_sites_with_one_key_agreement_key_are_both_left_out():
    network = SimNetwork(make_updates(np.random.default_rng(5), 7, LENGTH), parameters_for(7, LENGTH), threshold=5)

    def copy_keys(data: bytes) -> bytes:
        first = network.sites["site-01"].sent["train"]
        stolen = Statement.decode(first[head_length(first) :])
        body = Statement(stolen.channel_key, stolen.mask_key, bytes(32)).encode()
        return seal("statement", VICTIM, network.context, body, network.sites[VICTIM].key.sign)

    network.tamper_reply = on("train", copy_keys)
    result = network.run()
    assert set(network.refused) == {("train", "site-01"), ("train", VICTIM)}
    assert len(result.survivors) == 5
    check_exact(network, result)


def test_uploads_of_another_length_or_content_are_never_added(network):
    for change in (lambda u: u[:-8], lambda u: u + bytes(8), lambda u: flip(u, len(u) // 2)):
        network.refused.clear()
        network.tamper_reply = on("mask", change)
        result = network.run()
        assert list(network.refused) == [("mask", VICTIM)]
        check_exact(network, result)


def test_an_update_that_is_not_finite_leaves_its_site_silent(network):
    network.sites[VICTIM].update[7] = np.nan
    with pytest.raises(LocalMisuseError, match="NaN or infinity"):
        network.run()
    assert "mask" not in network.sites[VICTIM].sent


def test_a_stage_is_restored_from_its_own_record_only(network):
    network.run()
    record = network.sites[VICTIM].state.record()
    with pytest.raises(FedsecError):
        SiteStated.restore(record)


@pytest.mark.parametrize("place", [0, 32])
def test_a_key_of_small_order_costs_its_owner_and_no_one_else(network, place):
    def small(data: bytes) -> bytes:
        body = bytearray(data[head_length(data) :])
        body[place : place + 32] = bytes(32)
        return seal("statement", VICTIM, network.context, body, network.sites[VICTIM].key.sign)

    network.tamper_reply = on("train", small)
    result = network.run()
    assert network.refused == {("train", VICTIM): f"the X25519 key of {VICTIM} has small order"}
    check_exact(network, result)


def test_the_commitment_hides_and_binds_the_update(network):
    """Two statements of one update share nothing; the site's nonce and update open each."""
    import hashlib

    from fedsec_secure.masking.checks import commit

    site = network.sites[VICTIM]
    digest = hashlib.sha256(site.update.tobytes()).digest()
    states = [SiteStated.begin(site.me, network.context, digest, site.key.sign) for _ in range(2)]
    bodies = [Statement.decode(s.statement[head_length(s.statement) :]) for s in states]
    assert bodies[0].commitment != bodies[1].commitment
    for state, body in zip(states, bodies, strict=True):
        opened = commit(network.context, site.me, state.nonce.reveal(), digest)
        assert opened == body.commitment
        assert commit(network.context, site.me, state.nonce.reveal(), bytes(32)) != body.commitment
        assert commit(network.context, "site-03", state.nonce.reveal(), digest) != body.commitment
