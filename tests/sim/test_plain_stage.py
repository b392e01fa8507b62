"""A site without masks: whose statement counts for it, and over whom a sum may be."""

from __future__ import annotations

import numpy as np
import pytest

from fedsec_secure.codec import head_length, seal
from fedsec_secure.errors import AbortError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.messages import Statement, encode_packets
from fedsec_secure.masking.site_plain import SitePlain
from fedsec_secure.masking.site_stated import SiteStated
from tests.sim.test_weighted_round import LEVELS, weighted_network

ME = SiteId("site-0")


@pytest.fixture
def network():
    return weighted_network()


def begun(network) -> dict[SiteId, SiteStated]:
    return {
        s: SiteStated.begin(s, network.context, bytes(32), site.key.sign, LEVELS[s])
        for s, site in network.sites.items()
    }


def request(network, packets) -> bytes:
    return seal("plain-request", COORDINATOR, network.context, encode_packets(packets), network.coordinator.sign)


def entered(network) -> SitePlain:
    stated = begun(network)
    return SitePlain.enter(stated[ME], request(network, {s: x.statement for s, x in stated.items()}), network.group)


def test_its_record_is_what_it_was(network):
    state = entered(network)
    assert SitePlain.restore(state.record()) == state
    assert state.weights(network.group)[ME] > 0


def test_another_statement_of_its_own_does_not_count(network):
    """Signed by the same site for the same attempt, with a better score."""
    stated = begun(network)
    packets = {s: x.statement for s, x in stated.items()}
    said = Statement.decode(packets[ME][head_length(packets[ME]) :], scored=True)
    better = Statement(said.channel_key, said.mask_key, said.commitment, 5).encode()
    packets[ME] = seal("statement", ME, network.context, better, network.sites[ME].key.sign)
    with pytest.raises(PeerViolationError, match="came back changed"):
        SitePlain.enter(stated[ME], request(network, packets), network.group)


def test_a_sum_is_over_sites_that_made_a_statement_and_has_no_tag(network):
    stated = begun(network)
    known = {s: x.statement for s, x in stated.items() if s != "site-6"}
    state = SitePlain.enter(stated[ME], request(network, known), network.group)
    words = np.zeros(network.parameters.words, np.uint64)
    heads = dict.fromkeys(known, b"")
    assert state.check_sum(heads, words, 0, network.parameters, network.group).total_weight > 0
    with pytest.raises(PeerViolationError, match="has no tag, and one came with it"):
        state.check_sum(heads, words, 1, network.parameters, network.group)
    with pytest.raises(PeerViolationError, match="over sites that made a statement"):
        state.check_sum(dict.fromkeys(network.sites, b""), words, 0, network.parameters, network.group)
    with pytest.raises(AbortError):
        state.check_sum(dict.fromkeys(list(known)[:3], b""), words, 0, network.parameters, network.group)
