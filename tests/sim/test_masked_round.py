"""Honest sites that may crash at any exchange: the decoded sum is the sum of the encoded inputs, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec_secure.errors import AbortError
from fedsec_secure.masking.vector import decode_sum
from tests.sim.network import EXCHANGES, SimNetwork, parameters_for


def make_updates(rng: np.random.Generator, sites: int, length: int) -> dict[str, np.ndarray]:
    return {f"site-{i:02d}": rng.normal(0, 0.2, length).astype(np.float32) for i in range(sites)}


@pytest.mark.parametrize("stage", EXCHANGES)
def test_one_dropout_at_any_exchange_leaves_an_exact_sum(stage):
    network = SimNetwork(make_updates(np.random.default_rng(1), 5, 1000), parameters_for(5, 1000), threshold=4)
    network.sites["site-02"].drops_at = stage
    result = network.run()
    assert not network.refused
    assert ("site-02" in result.survivors) == (stage in ("confirm", "unmask"))
    expected = sum((network.sites[s].encoded(network.parameters) for s in result.survivors), np.uint64(0))
    np.testing.assert_array_equal(result.total, expected)


def test_two_dropouts_of_five_abort_and_nothing_is_summed():
    network = SimNetwork(make_updates(np.random.default_rng(1), 5, 10), parameters_for(5, 10), threshold=4)
    network.sites["site-00"].drops_at = "mask"
    network.sites["site-03"].drops_at = "share"
    with pytest.raises(AbortError, match="U3 has 3 sites, 4 are needed"):
        network.run()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sites=st.integers(3, 9),
    length=st.integers(1, 700),
    ring=st.sampled_from(["2x32", "3x21", "4x16"]),
    clip=st.sampled_from([0.01, 0.3, 0.5, 2.0]),
    hidden=st.booleans(),
    drops=st.lists(st.tuples(st.integers(0, 8), st.sampled_from(EXCHANGES)), max_size=2),
)
def test_the_sum_is_exact_and_the_mean_within_the_stated_bound(seed, sites, length, ring, clip, hidden, drops):
    rng = np.random.default_rng(seed)
    weight_max = 400 if hidden else 1
    parameters = parameters_for(sites, length, ring=ring, clip=clip, weight_max=weight_max, hidden=hidden)
    network = SimNetwork(make_updates(rng, sites, length), parameters, threshold=2 * sites // 3 + 1)
    for site in network.sites.values():
        site.weight = int(rng.integers(1, weight_max + 1)) if hidden else 1
    for index, stage in drops:
        if index < sites:
            list(network.sites.values())[index].drops_at = stage
    try:
        result = network.run()
    except AbortError:
        assert sum(s.drops_at is not None for s in network.sites.values()) > sites - network.group.floor
        return
    alive = [network.sites[s] for s in result.survivors]
    np.testing.assert_array_equal(result.total, sum((s.encoded(parameters) for s in alive), np.uint64(0)))
    decoded = decode_sum(parameters, result.total, len(alive), None if hidden else len(alive))
    total = sum(s.weight for s in alive)
    assert decoded.total_weight == total
    plain = sum(s.weight * np.clip(s.update.astype(np.float64), -clip, clip) for s in alive) / total
    assert np.abs(decoded.mean - plain).max() <= parameters.error_bound(len(alive), total)


def test_the_same_update_encodes_to_the_same_integers_and_another_to_other_coins():
    network = SimNetwork(make_updates(np.random.default_rng(3), 3, 50), parameters_for(3, 50), threshold=3)
    site = network.sites["site-00"]
    np.testing.assert_array_equal(site.encoded(network.parameters), site.encoded(network.parameters))
