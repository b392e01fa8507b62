"""The averaged adapter against a plain average: shapes, ranks, sites, dropouts, weights, strategies and rings."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.training.adapter import AdapterState
from fedsec.training.strategies import apply_update, local_update, shared_names
from fedsec_secure.masking.vector import decode_sum
from tests.sim.network import EXCHANGES, SimNetwork, parameters_for

SHAPE = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    layers=st.lists(SHAPE, min_size=1, max_size=4),
    rank=st.integers(1, 5),
    sites=st.integers(3, 7),
    dropped=st.tuples(st.integers(0, 6), st.sampled_from([None, *EXCHANGES])),
    hidden=st.booleans(),
    strategy=st.sampled_from(["fedit", "ffa", "rolora", "fedsa"]),
    round_index=st.integers(0, 3),
    ring=st.sampled_from(["2x32", "3x21", "4x16"]),
    spread=st.sampled_from([1e-4, 0.05, 1.0]),
)
def test_the_adapter_is_the_plain_average_within_the_bound(
    seed, layers, rank, sites, dropped, hidden, strategy, round_index, ring, spread
):
    rng = np.random.default_rng(seed)
    shapes = {}
    for i, (wide, high) in enumerate(layers):
        shapes[f"layers.{i}.q_proj.lora_A.weight"] = (rank, wide)
        shapes[f"layers.{i}.q_proj.lora_B.weight"] = (high, rank)
    before = AdapterState({n: rng.normal(0, 0.1, s).astype(np.float32) for n, s in shapes.items()})
    moving = set(shared_names(strategy, before, round_index))
    after = [
        AdapterState(
            {n: before[n] + rng.normal(0, spread, s).astype(np.float32) * (n in moving) for n, s in shapes.items()}
        )
        for _ in range(sites)
    ]
    updates = {f"site-{i}": local_update(strategy, before, a, round_index) for i, a in enumerate(after)}
    length, weight_max = len(updates["site-0"]), 37 if hidden else 1
    parameters = parameters_for(sites, length, ring=ring, weight_max=weight_max, hidden=hidden)
    network = SimNetwork(updates, parameters, threshold=2 * sites // 3 + 1)
    for site in network.sites.values():
        site.weight = int(rng.integers(1, weight_max + 1))
    if network.group.floor < sites and dropped[0] < sites:
        list(network.sites.values())[dropped[0]].drops_at = dropped[1]
    result = network.run()

    survivors = [network.sites[s] for s in result.survivors]
    total = sum(s.weight for s in survivors)
    decoded = decode_sum(parameters, result.total, len(survivors), None if hidden else total)
    new = apply_update(strategy, before, decoded.mean, round_index)
    start = before.select(moving).astype(np.float64)
    clipped = [np.clip(s.update.astype(np.float64), -0.5, 0.5) for s in survivors]
    plain = start + np.average(clipped, axis=0, weights=[s.weight for s in survivors])
    rounding = np.spacing(np.abs(plain).astype(np.float32))
    difference = np.abs(new.select(moving) - plain)
    assert (difference <= parameters.error_bound(len(survivors), total) + rounding).all()
    assert all(np.array_equal(new[n], before[n]) for n in before if n not in moving)
    assert decoded.total_weight == total
