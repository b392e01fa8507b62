"""Attacks that get past every other check: whoever tries them holds a site's key, or stands between two checks.

Each is refused in the words of the one check that is there for it (numbers: docs/protocol.md).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from fedsec_secure.codec import Header, head_length, open_head, seal, seal_head
from fedsec_secure.errors import (
    AbortError,
    CodecError,
    ConfigError,
    LocalMisuseError,
    PeerViolationError,
    VerificationError,
)
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import Roster
from fedsec_secure.masking import coordinator_unmask, keys, site_shared
from fedsec_secure.masking.checks import verify_dealings
from fedsec_secure.masking.coordinator_collect import Confirmed, Masked
from fedsec_secure.masking.coordinator_unmask import Unmasked
from fedsec_secure.masking.messages import (
    Dealing,
    MaskRequest,
    Revealed,
    ShareReply,
    Statement,
    decode_packets,
    encode_packets,
)
from fedsec_secure.masking.parameters import Cohort, Group
from fedsec_secure.masking.vector import Encoder, IntegerEncoder, check_update, decode_sum
from fedsec_secure.secrets import SecretBytes
from tests.sim.network import SimNetwork, measure, parameters_for
from tests.sim.test_masked_round import make_updates
from tests.sim.test_tampering import LENGTH, VICTIM, flip, on, resign

HELPER = "site-03"
"""Colludes with the coordinator: signs what it is asked to."""


def make_network(sites: int = 5, threshold: int = 4) -> SimNetwork:
    updates = make_updates(np.random.default_rng(5), sites, LENGTH)
    network = SimNetwork(updates, parameters_for(sites, LENGTH), threshold=threshold)
    network.lenient = True
    return network


@pytest.fixture
def network() -> SimNetwork:
    return make_network()


def refused(network: SimNetwork, exchange: str, site: str = VICTIM) -> str:
    """Why; the round may end for lack of sites."""
    with suppress(AbortError, PeerViolationError):
        network.run()
    return network.refused[exchange, site]


def own_words(network: SimNetwork, site: str, change):
    """A site's reply with another body, signed by the site itself."""

    def lie(data: bytes) -> bytes:
        cut = head_length(data)
        header = Header.decode(data[6 : cut - 64])
        return seal(header.kind, site, header.context, change(data[cut:]), network.sites[site].key.sign)

    return lie


def packets_with(site: str, make):
    """The coordinator's request with one packet of its set exchanged."""

    def change(body: bytes) -> bytes:
        packets = decode_packets(body, "test")
        return encode_packets(packets | {site: make(packets)})

    return change


def test_a_party_that_is_not_on_the_roster_has_no_key(network):
    with pytest.raises(PeerViolationError, match="expected a party of the pinned roster"):
        network.group.roster.verifier("site-99")


def test_a_packet_of_another_kind_or_in_anothers_name_is_refused(network):
    key = network.sites[VICTIM].key
    verify, context = key.public.verify, network.context
    for kind, sender, why in (("confirm", VICTIM, "expected a 'statement'"), ("statement", HELPER, "names 'site-03'")):
        packet = seal(kind, sender, context, b"", key.sign)
        with pytest.raises(PeerViolationError, match=why):
            open_head(packet, kind="statement", sender=VICTIM, context=context, verify=verify)


def test_a_stranger_among_the_statements(network):
    stranger = SigningKey.generate()
    body = Statement(bytes([9]) * 32, bytes([10]) * 32, bytes(32)).encode()
    packet = seal("statement", "site-99", network.context, body, stranger.sign)
    network.tamper_request = on("share", resign(network, "share", packets_with("site-99", lambda _: packet)))
    assert "'site-99', which is not on the pinned roster" in refused(network, "share")


def test_a_helper_with_another_sites_keys_in_its_statement(network):
    """The coordinator would leave both out; one that does not finds the sites themselves refusing."""

    def copied(packets):
        first = packets["site-01"]
        return seal("statement", HELPER, network.context, first[head_length(first) :], network.sites[HELPER].key.sign)

    network.tamper_request = on("share", resign(network, "share", packets_with(HELPER, copied)))
    assert "two X25519 keys of the statements are the same" in refused(network, "share")


def test_ones_own_statement_with_other_keys(network):
    """Signed by the site's own key, as by a second instance of it."""
    body = Statement(bytes([9]) * 32, bytes([10]) * 32, bytes(32)).encode()
    packet = seal("statement", VICTIM, network.context, body, network.sites[VICTIM].key.sign)
    network.tamper_request = on("share", resign(network, "share", packets_with(VICTIM, lambda _: packet)))
    assert f"the statement of {VICTIM} came back changed" in refused(network, "share")


def test_a_dealing_by_a_site_without_a_statement(network):
    done = network.run()
    shared = done.stages["shared"]
    statements = {s: p for s, p in shared.statements.items() if s != HELPER}
    with pytest.raises(PeerViolationError, match=f"U2 names {HELPER}, which made no statement"):
        verify_dealings({HELPER: shared.dealings[HELPER]}, statements, network.context, network.group)


def changed_dealing(network: SimNetwork, site: str, packet: bytes) -> bytes:
    dealing = Dealing.decode(packet[head_length(packet) :])
    body = replace(dealing, self_seed=bytes(32)).encode()
    return seal("dealing", site, network.context, body, network.sites[site].key.sign)


def test_ones_own_dealing_with_another_seed_hash(network):
    def change(body: bytes) -> bytes:
        request = MaskRequest.decode(body)
        mine = changed_dealing(network, VICTIM, request.dealings[VICTIM])
        return MaskRequest({**request.dealings, VICTIM: mine}, request.sealed).encode()

    network.tamper_request = on("mask", resign(network, "mask", change))
    assert f"the dealing of {VICTIM} came back changed" in refused(network, "mask")


def test_shares_that_their_dealer_did_not_promise(network, monkeypatch):
    honest = keys.seal_dealt

    def seal_dealt(shared, dealt, dealer, recipient, context):
        if (dealer, recipient) == (HELPER, VICTIM):
            dealt = replace(dealt, self_share=flip(dealt.self_share))
        return honest(shared, dealt, dealer, recipient, context)

    monkeypatch.setattr(keys, "seal_dealt", seal_dealt)
    assert f"{HELPER} sealed other shares than it signed for {VICTIM}" in refused(network, "mask")


@pytest.mark.parametrize("update", [np.zeros(LENGTH, np.float64), np.zeros(LENGTH + 1, np.float32)])
def test_an_update_of_another_type_or_length(network, update):
    with pytest.raises(LocalMisuseError, match="expected an update of float32"):
        check_update(update, network.parameters)


@pytest.mark.parametrize("update", [np.zeros(LENGTH, np.int64), np.zeros(LENGTH + 1, np.int32)])
def test_integers_of_another_type_or_length(network, update):
    of_integers = replace(network.parameters, denominator=4)
    with pytest.raises(LocalMisuseError, match="expected integers int32"):
        IntegerEncoder(of_integers, update)
    with pytest.raises(LocalMisuseError, match="expected integers int32"):
        IntegerEncoder(network.parameters, np.zeros(LENGTH, np.int32))


def test_floats_without_noise_for_a_sum_of_integers(network):
    of_integers = replace(network.parameters, denominator=4)
    with pytest.raises(LocalMisuseError, match="expected integers with their noise in them"):
        Encoder(of_integers, np.zeros(LENGTH, np.float32), 1, SecretBytes.random())


@pytest.mark.parametrize("weight", [0, 2])
def test_a_weight_beyond_the_plans_bounds(network, weight):
    with pytest.raises(LocalMisuseError, match="expected a weight from 1 to 1"):
        Encoder(network.parameters, np.zeros(LENGTH, np.float32), weight, SecretBytes.random())


def other_head(network: SimNetwork, site: str, head: bytes) -> bytes:
    header = Header.decode(head[6 : head_length(head) - 64])
    length, digest = header.body_length, hashlib.sha256(b"another upload").digest()
    return seal_head("masked", site, header.context, length, digest, network.sites[site].key.sign)


def test_ones_own_upload_with_another_hash(network):
    swap = packets_with(VICTIM, lambda heads: other_head(network, VICTIM, heads[VICTIM]))
    network.tamper_request = on("confirm", resign(network, "confirm", swap))
    assert f"the upload of {VICTIM} came back with another hash" in refused(network, "confirm")


def test_a_survivor_whose_upload_nobody_signed(network):
    swap = packets_with(HELPER, lambda heads: flip(heads[HELPER]))
    network.tamper_request = on("confirm", resign(network, "confirm", swap))
    assert "VerificationError" in refused(network, "confirm")


def test_a_survivor_that_dealt_nothing():
    network = make_network(7, 5)
    network.sites["site-06"].drops_at = "share"
    forged = packets_with("site-06", lambda heads: other_head(network, "site-06", heads[VICTIM]))
    network.tamper_request = on("confirm", resign(network, "confirm", forged))
    assert "U3 names site-06, which is not in U2" in refused(network, "confirm")


def confirmation(network: SimNetwork, site: str, like: bytes, digest: bytes | None = None) -> bytes:
    cut = head_length(like)
    header = Header.decode(like[6 : cut - 64])
    return seal("confirm", site, header.context, digest or like[cut:], network.sites[site].key.sign)


def test_a_confirmation_by_a_site_that_is_no_survivor():
    network = make_network(7, 5)
    network.sites["site-06"].drops_at = "mask"
    forged = packets_with("site-06", lambda packets: confirmation(network, "site-06", packets[VICTIM]))
    network.tamper_request = on("unmask", resign(network, "unmask", forged))
    assert "a confirmation by site-06, which is not in U3" in refused(network, "unmask")


def test_a_confirmation_of_another_survivor_set(network):
    forged = packets_with(HELPER, lambda packets: confirmation(network, HELPER, packets[VICTIM], bytes(32)))
    network.tamper_request = on("unmask", resign(network, "unmask", forged))
    assert f"{HELPER} confirmed another survivor set" in refused(network, "unmask")


def test_a_sum_over_other_survivors_than_the_confirmed(network):
    done = network.run()
    state = network.sites[VICTIM].state
    heads = {s: h for s, h in state.confirmed.survivors.items() if s != HELPER}
    with pytest.raises(PeerViolationError, match="another survivor set than the confirmed"):
        state.check_sum(heads, done.total, done.tag, network.parameters, network.group)


def test_a_sum_of_another_length(network):
    with pytest.raises(PeerViolationError, match="expected a sum of 100 words, found 99"):
        decode_sum(network.parameters, np.zeros(99, np.uint64), 5, 5)


def test_a_total_weight_and_a_limb_that_are_not_possible():
    p = parameters_for(5, LENGTH, weight_max=40, hidden=True)
    words = np.zeros(p.words, np.uint64)
    with pytest.raises(PeerViolationError, match="summed weight is outside"):
        decode_sum(p, words, 5, None)
    words[0] = (1 << 21) - 1  # the lowest lane is -1
    with pytest.raises(PeerViolationError, match="limb outside"):
        decode_sum(p, words, 5, None)


# ---- at the coordinator


def test_too_few_sealed_pairs(network):
    def fewer(data: bytes) -> bytes:
        reply = ShareReply.decode(data)
        return ShareReply(reply.packet, reply.sealed[:-1]).encode()

    network.tamper_reply = on("share", fewer)
    assert "sealed 4 share pairs, 5 are due" in refused(network, "share")


def test_an_upload_of_another_length_that_its_site_signed(network):
    parameters = network.parameters

    def longer(data: bytes) -> bytes:
        return own_words(network, VICTIM, lambda body: body + bytes(8))(data)

    done = network.run()
    upload = longer(network.sites[VICTIM].sent["mask"])
    cut = head_length(upload)
    facts = replace(
        measure(network.sites[VICTIM].sent["mask"], parameters),
        head=upload[:cut],
        body_length=len(upload) - cut,
        body_sha256=hashlib.sha256(upload[cut:]).digest(),
    )
    honest = {s: measure(site.sent["mask"], parameters) for s, site in network.sites.items()}
    _, why = Masked.gather(done.stages["shared"], honest | {VICTIM: facts})
    assert f"has {parameters.masked_bytes + 8} bytes, {parameters.masked_bytes} are due" in why[VICTIM]


def test_replies_of_sites_that_are_out_of_the_round():
    """site-06 dealt nothing, site-05 uploaded nothing; both send what comes later, properly signed."""
    network = make_network(7, 5)
    network.sites["site-06"].drops_at, network.sites["site-05"].drops_at = "share", "mask"
    done = network.run()
    shared, masked, confirmed = (done.stages[n] for n in ("shared", "masked", "confirmed"))
    upload = network.sites[VICTIM].sent["mask"]
    facts = measure(upload, network.parameters)
    _, why = Masked.gather(shared, _uploads(network) | {"site-06": facts})
    assert "an upload by site-06, which is not in U2" in why["site-06"]
    signed = {s: network.sites[s].sent["confirm"] for s in masked.heads}
    late = confirmation(network, "site-05", signed[VICTIM])
    _, why = Confirmed.gather(masked, signed | {"site-05": late})
    assert "a confirmation by site-05, which is not in U3" in why["site-05"]
    reveals = {s: network.sites[s].sent["unmask"] for s in masked.heads}
    cut = head_length(reveals[VICTIM])
    late = seal("unmask", "site-05", shared.bound, reveals[VICTIM][cut:], network.sites["site-05"].key.sign)
    _, why = Unmasked.gather(confirmed, reveals | {"site-05": late})
    assert "a reveal by site-05, which is not in U3" in why["site-05"]


def test_a_reply_that_confirms_another_set(network):
    masked = network.run().stages["masked"]
    signed = {s: site.sent["confirm"] for s, site in network.sites.items()}
    other = confirmation(network, VICTIM, signed[VICTIM], bytes(32))
    _, why = Confirmed.gather(masked, signed | {VICTIM: other})
    assert f"{VICTIM} confirmed another survivor set" in why[VICTIM]


def _uploads(network: SimNetwork):
    return {s: measure(x.sent["mask"], network.parameters) for s, x in network.sites.items() if "mask" in x.sent}


def test_a_reveal_without_one_dealers_share(network):
    fewer = own_words(
        network,
        VICTIM,
        lambda body: Revealed({s: v for s, v in Revealed.decode(body).shares.items() if s != HELPER}).encode(),
    )
    network.tamper_reply = on("unmask", fewer)
    assert "revealed shares of another set of peers than U2" in refused(network, "unmask")


def test_fewer_shares_than_the_threshold(network):
    shared = network.run().stages["shared"]
    with pytest.raises(AbortError, match=f"3 shares of {VICTIM}'s secret, 4 are needed"):
        coordinator_unmask._recover(shared, VICTIM, dict.fromkeys(["site-00", "site-01", "site-04"], bytes(33)))


def test_a_dealer_that_advertised_the_hash_of_another_seed(network):
    def change(data: bytes) -> bytes:
        reply, site = ShareReply.decode(data), network.sites[HELPER]
        packet = changed_dealing(network, HELPER, reply.packet)
        site.state = replace(site.state, dealing=packet)
        return ShareReply(packet, reply.sealed).encode()

    network.tamper_reply = on("share", change, HELPER)
    with pytest.raises(PeerViolationError, match=f"{HELPER} dealt shares of another self-mask seed than it advertised"):
        network.run()


def test_a_dealer_that_dealt_shares_of_another_mask_key_and_dropped(monkeypatch):
    network = make_network(7, 5)
    network.sites["site-06"].drops_at = "mask"
    honest, made = site_shared.shamir.split, []

    def split(secret, threshold, count):
        state = network.sites["site-06"].state
        if secret == getattr(state, "mask_secret", None):
            made.append(True)
            secret = SecretBytes.random()
        return honest(secret, threshold, count)

    monkeypatch.setattr(site_shared.shamir, "split", split)
    with pytest.raises(PeerViolationError, match="site-06 dealt shares of another mask key than it advertised"):
        network.run()
    assert made


def test_a_packet_whose_body_is_not_the_signed_one_and_a_signature_that_does_not_hold(network):
    from fedsec_secure.codec import open_packet

    key = network.sites[VICTIM].key
    packet = seal("confirm", VICTIM, network.context, b"body", key.sign)
    options = {"kind": "confirm", "sender": VICTIM, "context": network.context, "verify": key.public.verify}
    with pytest.raises(CodecError, match="does not match its signed hash"):
        open_packet(packet[:-1] + b"x", **options)
    with pytest.raises(VerificationError):
        open_packet(flip(packet, 12), **options)


@pytest.mark.parametrize("minimum", [0, 6])
def test_a_floor_that_does_not_exist(network, minimum):
    with pytest.raises(ConfigError, match=f"expected a minimum cohort from 1 to the 5 sites, found {minimum}"):
        Cohort(network.group.roster, minimum)


@pytest.mark.parametrize(("sites", "minimum", "threshold"), [(2, 2, 2), (5, 2, 4)])
def test_a_masked_sum_of_two(sites, minimum, threshold):
    """Each of the two would know the other's update."""
    keys_of = {f"site-{i}": SigningKey.generate().public for i in range(sites)}
    roster = Roster(SigningKey.generate().public, keys_of)
    with pytest.raises(ConfigError, match="at least 3 sites and a minimum cohort of 3"):
        Group(roster, minimum, threshold)


@pytest.mark.parametrize("threshold", [3, 6])
def test_a_threshold_that_lets_two_survivor_sets_open(network, threshold):
    with pytest.raises(ConfigError, match=f"5 sites need a threshold from 4 to 5, found {threshold}"):
        Group(network.group.roster, 3, threshold)
