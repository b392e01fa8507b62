"""Rounds weighted by published scores, among honest parties and with a coordinator that wants other weights."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedsec_secure.codec import head_length, seal
from fedsec_secure.errors import AbortError, CodecError, PeerViolationError, VerificationError
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.checks import check_balance, verify_statements
from fedsec_secure.masking.messages import Statement, decode_packets, encode_packets
from fedsec_secure.masking.site_confirmed import SiteConfirmed
from fedsec_secure.numeric.score_levels import NO_SCORE
from fedsec_secure.weighting.influence import TABLE, Influence
from tests.sim.network import SimNetwork, parameters_for

SITES = [f"site-{i}" for i in range(7)]
LEVELS = dict(zip(SITES, [0, 12, 30, 5, NO_SCORE, 80, 19], strict=True))


def weighted_network(
    cap=Fraction(2, 5), bins=None, least=Fraction(1), levels=LEVELS, length=50, ring="3x21"
) -> SimNetwork:
    rng = np.random.default_rng(3)
    updates = {s: rng.uniform(-0.4, 0.4, length).astype(np.float32) for s in levels}
    rule = Influence(bins or {}, cap, least)
    network = SimNetwork(updates, parameters_for(len(levels), length, ring=ring), threshold=5, rule=rule)
    for site in network.sites.values():
        site.score = levels[site.me]
    return network


def body_of(packet: bytes) -> bytes:
    return packet[head_length(packet) :]


@pytest.mark.parametrize("ring", ["2x32", "3x21"])
@pytest.mark.parametrize("dropped", [None, "share", "mask", "confirm", "unmask"])
@pytest.mark.parametrize("bins", [None, {"site-3": 2, "site-5": 64}])
def test_the_sum_is_the_weighted_mean(dropped, bins, ring):
    network = weighted_network(bins=bins, ring=ring)
    network.sites["site-2"].drops_at = dropped
    done = network.run()
    weights = done.stages["stated"].weights
    heaviest = max(weights.values())
    assert heaviest <= Fraction(2, 5) * sum(weights.values())
    mean = np.average(
        [network.sites[s].update.astype(np.float64) for s in done.survivors],
        axis=0,
        weights=[weights[s] for s in done.survivors],
    )
    total = sum(weights[s] for s in done.survivors)
    for site in done.survivors:
        state = network.sites[site].state
        if network.sites[site].drops_at is not None:
            continue
        assert state.confirmed.masked.shared.weights(network.group) == weights
        decoded = state.check_sum(state.confirmed.survivors, done.total, done.tag, network.parameters, network.group)
        assert decoded.total_weight == total
        bound = network.parameters.weighted(weights).error_bound(len(done.survivors), total)
        assert np.abs(decoded.mean - mean).max() <= bound


def test_equal_scores_weigh_like_the_uniform_rule():
    """Down to the last bit: the same integers travel."""
    scored = weighted_network(levels=dict.fromkeys(SITES, 33))
    plain = SimNetwork({s: n.update for s, n in scored.sites.items()}, scored.parameters, threshold=5)
    for name, site in scored.sites.items():
        plain.sites[name].coins = site.coins
    assert np.array_equal(scored.run().total, plain.run().total)


def test_a_coordinator_that_changes_a_score_is_noticed():
    network = weighted_network()
    network.lenient = True

    def flattered(name, site, request):
        if name != "share" or site != "site-0":
            return request
        packets = dict(decode_packets(body_of(request), "test"))
        said = bytearray(packets["site-5"])
        said[-1] = 0
        packets["site-5"] = bytes(said)
        return seal("share-request", COORDINATOR, network.context, encode_packets(packets), network.coordinator.sign)

    network.tamper_request = flattered
    done = network.run()
    assert "site-0" not in done.survivors
    assert "does not match its signed hash" in network.refused["share", "site-0"]


def test_statements_without_the_score_that_is_due():
    network = weighted_network()
    network.sites["site-1"].score = None
    done = network.run()
    assert "site-1" not in done.survivors
    assert "statement: 1 more bytes expected" in network.refused["train", "site-1"]


def test_a_byte_that_the_plan_does_not_ask_for_is_refused():
    network = weighted_network()
    network.group = type(network.group)(network.group.roster, 3, 5)
    for name, site in network.sites.items():
        site.score = 3 if name == "site-1" else None
    done = network.run()
    assert "site-1" not in done.survivors
    assert "statement: 1 bytes too many" in network.refused["train", "site-1"]


@pytest.mark.parametrize("level", [81, 100, 254])
def test_a_score_that_is_no_level(level):
    body = Statement(bytes(32), bytes(32), bytes(32), 7).encode()
    with pytest.raises(CodecError, match="level from 0 to 80"):
        Statement.decode(body[:-1] + bytes([level]), scored=True)


def test_a_score_of_another_round_does_not_count():
    """A statement is signed over its round: an old one, with a better score, is no statement here."""
    network, old = weighted_network(), weighted_network()
    old.context = bytes(32)
    old.group = network.group
    packet = network.sites["site-5"].key.sign
    said = Statement(bytes([1]) * 32, bytes([2]) * 32, bytes(32), 0).encode()
    forged = seal("statement", "site-5", bytes(32), said, packet)
    with pytest.raises((VerificationError, PeerViolationError)):
        verify_statements({"site-5": forged}, network.context, network.group)


def isolating(network: SimNetwork, keep: list[str]) -> None:
    """The coordinator says that the others have dropped out."""

    def cut(name, site, reply):
        return reply

    def only(name, site, request):
        if name != "confirm":
            return request
        heads = {s: h for s, h in decode_packets(body_of(request), "test").items() if s in keep}
        bound = network.sites[site].state.bound
        return seal("confirm-request", COORDINATOR, bound, encode_packets(heads), network.coordinator.sign)

    network.tamper_reply, network.tamper_request = cut, only


def test_sites_refuse_survivors_among_whom_one_is_too_heavy():
    """Weights keep the cap over all seven; over five of them one site would be half of the sum."""
    levels = dict(zip(SITES, [0, 0, 0, 60, 60, 60, 60], strict=True))
    network = weighted_network(cap=Fraction(2, 5), levels=levels)
    network.lenient = True
    isolating(network, ["site-0", "site-3", "site-4", "site-5", "site-6"])
    with pytest.raises(AbortError):
        network.run()
    assert "would weigh" in network.refused["confirm", "site-0"]
    assert not any(isinstance(site.state, SiteConfirmed) for site in network.sites.values())


def test_the_coordinator_refuses_them_before_it_asks():
    levels = dict(zip(SITES, [0, 0, 0, 60, 60, 60, 60], strict=True))
    network = weighted_network(cap=Fraction(2, 5), levels=levels)
    network.sites["site-1"].drops_at = network.sites["site-2"].drops_at = "mask"
    with pytest.raises(AbortError, match="would weigh"):
        network.run()
    assert not any(name == "confirm" for name, _ in network.asked)


def test_too_small_an_effective_cohort_ends_before_anything_is_dealt():
    levels = dict(zip(SITES, [0, 0, 80, 80, 80, 80, 80], strict=True))
    network = weighted_network(cap=Fraction(1), least=Fraction(4), levels=levels)
    with pytest.raises(AbortError, match="equal sites"):
        network.run()
    assert not any(name == "share" for name, _ in network.asked)


def test_sites_do_not_leave_that_to_the_coordinator():
    """The same for a coordinator that goes on with it."""
    levels = dict(zip(SITES, [0, 0, 80, 80, 80, 80, 80], strict=True))
    network = weighted_network(cap=Fraction(1), least=Fraction(4), levels=levels)
    statements = {
        s: site.answer("train", b"", network.group, network.parameters, network.context)
        for s, site in network.sites.items()
    }
    request = seal("share-request", COORDINATOR, network.context, encode_packets(statements), network.coordinator.sign)
    with pytest.raises(AbortError, match="equal sites"):
        network.sites["site-0"].answer("share", request, network.group, network.parameters, network.context)


def test_without_a_rule_every_set_is_balanced():
    network = SimNetwork({s: np.zeros(4, np.float32) for s in SITES}, parameters_for(7, 4), threshold=5)
    check_balance(dict.fromkeys(network.sites, 1), network.sites, network.group, "U1")


def test_weights_follow_from_the_table():
    network = weighted_network(cap=Fraction(1))
    weights = network.run().stages["stated"].weights
    assert weights == {s: TABLE[80 if LEVELS[s] == NO_SCORE else LEVELS[s]] for s in SITES}
