"""A coordinator that hands out another sum than that of the uploads, and what the sites say to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedsec_secure.errors import PeerViolationError
from fedsec_secure.masking import keys, site_masked, site_revealed
from fedsec_secure.masking.tag import PRIME, LinearTag
from fedsec_secure.numeric.lanes import Lanes, Words, pack_into, unpack
from fedsec_secure.secrets import SecretBytes
from tests.sim.network import SimNetwork, SimRound, parameters_for, words_of

SITES = ["site-a", "site-b", "site-c", "site-d", "site-e"]
LENGTH = 9000
RING = Lanes.named("3x21")


def network(**drops: str) -> SimNetwork:
    rng = np.random.default_rng(7)
    updates = {s: (rng.standard_normal(LENGTH) * 0.05).astype(np.float32) for s in SITES}
    net = SimNetwork(updates, parameters_for(len(SITES), LENGTH), 4)
    for site, where in drops.items():
        net.sites[site.replace("_", "-")].drops_at = where
    return net


def judge(net: SimNetwork, done: SimRound, words: Words, tag: int) -> dict[str, str]:
    """Every survivor's check of a claimed sum; site -> refusal, empty where it accepts."""
    refusals = {}
    for site in done.survivors:
        state = net.sites[site].state
        assert isinstance(state, site_revealed.SiteRevealed)
        try:
            state.check_sum(state.confirmed.survivors, words, tag, net.parameters, net.group)
        except PeerViolationError as e:
            refusals[site] = str(e)
    return refusals


def scaled(words: Words, factor: int) -> Words:
    out = np.empty_like(words)
    pack_into(RING, [(plane * factor).astype(np.int32) for plane in unpack(RING, words)], out)
    return out


def altered(words: Words, at: int, by: int) -> Words:
    planes = unpack(RING, words)
    planes[0][at] += by
    out = np.empty_like(words)
    pack_into(RING, planes, out)
    return out


def swapped(words: Words) -> Words:
    out = words.copy()
    out[[0, 1]] = out[[1, 0]]
    return out


@pytest.mark.parametrize(
    "drops", [{}, {"site_b": "mask"}, {"site_e": "share"}, {"site_a": "train"}, {"site_c": "confirm"}]
)
def test_honest_sum_is_accepted_by_every_site_with_and_without_dropouts(drops):
    net = network(**drops)
    done = net.run()
    alive = [s for s in done.survivors if net.sites[s].drops_at is None]
    assert len(alive) >= 4
    for site in alive:
        state = net.sites[site].state
        decoded = state.check_sum(state.confirmed.survivors, done.total, done.tag, net.parameters, net.group)
        mean = np.mean([net.sites[s].update for s in done.survivors], axis=0)
        bound = net.parameters.error_bound(len(done.survivors), len(done.survivors))
        assert np.abs(decoded.mean - mean).max() <= bound


FORGERIES: dict[str, Callable[[Words, int], tuple[Words, int]]] = {
    "one coordinate altered": lambda s, t: (altered(s, 17, 1), t),
    "one coordinate altered, tag guessed": lambda s, t: (altered(s, 17, 1), (t + 1) % PRIME),
    "two words swapped": lambda s, t: (swapped(s), t),
    "scaled, tag kept": lambda s, t: (scaled(s, 2), t),
    "scaled, tag scaled as well": lambda s, t: (scaled(s, 2), 2 * t % PRIME),
    "negated, tag negated": lambda s, t: (scaled(s, -1), -t % PRIME),
    "nothing at all": lambda s, t: (np.zeros_like(s), 0),
    "right sum, another tag": lambda s, t: (s, (t + 1) % PRIME),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_every_site_refuses_a_forged_sum(name):
    net = network()
    done = net.run()
    assert not judge(net, done, done.total, done.tag)
    refusals = judge(net, done, *FORGERIES[name](done.total, done.tag))
    assert set(refusals) == set(SITES)
    assert all("its tag does not fit" in why for why in refusals.values())


def test_sums_that_leave_out_double_or_add_an_upload_are_refused():
    """What a coordinator can do with the encoded inputs themselves, were it to learn them from somewhere."""
    net = network()
    done = net.run()
    one = net.sites["site-a"].encoded(net.parameters)
    for words in (done.total - one, done.total + one):
        assert set(judge(net, done, words, done.tag)) == set(SITES)


def test_masked_upload_of_another_round_is_no_input_here():
    net, other = network(), network()
    done, uploads = net.run(), other.run()
    foreign = words_of(other.sites["site-a"].sent["mask"], other.parameters)
    assert len(uploads.survivors) == len(SITES)
    assert set(judge(net, done, done.total + foreign, done.tag)) == set(SITES)


@pytest.mark.parametrize("name", ["scaled, tag scaled as well", "negated, tag negated", "nothing at all"])
def test_without_the_pads_these_forgeries_would_pass(name, monkeypatch):
    """The control: tags without a_i are linear in the sum, so a scaled sum fits the scaled tag."""
    monkeypatch.setattr("fedsec_secure.masking.site_masked.pads", lambda key, sites: 0)
    monkeypatch.setattr("fedsec_secure.masking.site_revealed.pads", lambda key, sites: 0)
    net = network()
    done = net.run()
    assert not judge(net, done, *FORGERIES[name](done.total, done.tag))


def test_one_site_that_hands_out_the_key_lets_the_coordinator_forge():
    """The stated limit: the tag is against the coordinator alone."""
    net = network()
    done = net.run()
    key = net.sites["site-e"].state.confirmed.masked.tag_key
    forged = altered(done.total, 17, 1000)
    before, after = LinearTag(key, RING), LinearTag(key, RING)
    before.add(unpack(RING, done.total))
    after.add(unpack(RING, forged))
    assert not judge(net, done, forged, (done.tag - before.value + after.value) % PRIME)


def test_a_dealer_that_seals_two_tag_seeds_is_named_by_the_site_that_got_the_other_one(monkeypatch):
    honest = keys.seal_dealt

    def seal_dealt(shared, dealt, dealer, recipient, context):
        if (dealer, recipient) == ("site-e", "site-a"):
            dealt = keys.Dealt(dealt.self_share, dealt.key_share, SecretBytes.random())
        return honest(shared, dealt, dealer, recipient, context)

    monkeypatch.setattr(keys, "seal_dealt", seal_dealt)
    net = network()
    net.lenient = True
    done = net.run()
    assert "site-e sealed another tag seed than it signed for all" in net.refused["mask", "site-a"]
    assert not net.sites["site-a"].sent.get("mask")
    assert set(done.survivors) == set(SITES) - {"site-a"}
    assert not judge(net, done, done.total, done.tag)


def test_a_site_with_a_wrong_tag_stops_the_round_and_passes_nothing(monkeypatch):
    """One bad site can do that, as it can by not answering; who it was, the retained uploads tell."""
    honest = site_masked.pads
    monkeypatch.setattr(site_masked, "pads", lambda key, sites: honest(key, sites) + (sites == ["site-c"]))
    net = network()
    done = net.run()
    assert set(judge(net, done, done.total, done.tag)) == set(SITES)
    assert not judge(net, done, done.total, (done.tag - 1) % PRIME)
