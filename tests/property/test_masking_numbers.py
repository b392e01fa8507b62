"""Fixed point, lanes, limbs and the range check of a sum: exact at their bounds, refused one step beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsec_secure.errors import ConfigError, LocalMisuseError, PeerViolationError
from fedsec_secure.masking.parameters import SumParameters
from fedsec_secure.masking.vector import Encoder, check_update, count_limbs, decode_sum
from fedsec_secure.numeric.keystream import CHUNK_WORDS, Keystream
from fedsec_secure.numeric.lanes import RINGS, FixedPoint, Lanes, pack_into, round_stochastic, unpack
from fedsec_secure.secrets import SecretBytes

RING = st.sampled_from(sorted(RINGS))
CLIP = st.one_of(st.floats(2.0**-64, 2.0**64), st.sampled_from([0.1, 0.3, 0.5, 1.0, 1e6]))


def encode_all(parameters: SumParameters, update: np.ndarray, weight: int, coins: bytes = bytes(32)) -> np.ndarray:
    encoder = Encoder(parameters, update, weight, SecretBytes(coins))
    out = np.empty(parameters.words, dtype="<u8")
    for start in range(0, len(out), CHUNK_WORDS):
        encoder.read_into(out[start : start + CHUNK_WORDS])
    return out


def packed(lanes: Lanes, planes: list[np.ndarray]) -> np.ndarray:
    out = np.empty(len(planes[0]), dtype=np.uint64)
    pack_into(lanes, planes, out)
    return out


def rounded(fixed: FixedPoint, values: np.ndarray, ratio: float, coins: np.ndarray) -> np.ndarray:
    out = np.empty(len(values), dtype=np.int32)
    round_stochastic(fixed, values, ratio, coins.copy(), np.empty(len(values), np.float32), out)
    return out


# ---- lanes


@given(data=st.data(), ring=RING, size=st.integers(1, 40))
def test_lanes_hold_every_value_up_to_their_bound(data, ring, size):
    lanes = Lanes.named(ring)
    edge = lanes.largest_sum
    value = st.one_of(st.integers(-edge, edge), st.sampled_from([-edge, -1, 0, 1, edge]))
    planes = [data.draw(hnp.arrays(np.int32, size, elements=value)) for _ in range(lanes.count)]
    words = packed(lanes, planes)
    by_definition = [sum(int(p[j]) << (lanes.bits * i) for i, p in enumerate(planes)) % (1 << 64) for j in range(size)]
    assert words.tolist() == by_definition
    for expected, found in zip(planes, unpack(lanes, words), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(data=st.data(), ring=RING, sites=st.integers(1, 12))
def test_sums_of_words_are_sums_of_lanes(data, ring, sites):
    lanes = Lanes.named(ring)
    edge = lanes.largest_sum // sites
    value = st.one_of(st.integers(-edge, edge), st.sampled_from([-edge, edge]))
    total, expected = np.zeros(3, dtype=np.uint64), np.zeros((lanes.count, 3), dtype=np.int64)
    for _ in range(sites):
        planes = [data.draw(hnp.arrays(np.int32, 3, elements=value)) for _ in range(lanes.count)]
        total += packed(lanes, planes)
        expected += planes
    np.testing.assert_array_equal(unpack(lanes, total), expected)


@pytest.mark.parametrize("ring", sorted(RINGS))
def test_one_beyond_the_bound_of_a_lane_is_misread(ring):
    """The bound is sharp: it is not caution that could be dropped. (The top lane of 3x21 has a bit to spare.)"""
    lanes = Lanes.named(ring)
    beyond = np.array([lanes.largest_sum + 1], dtype=np.int64)
    words = np.zeros(1, dtype=np.uint64)
    words.view(np.int64)[:] = beyond
    assert unpack(lanes, words)[0][0] == -beyond[0]


def test_only_known_rings():
    with pytest.raises(ConfigError, match="2x32, 3x21, 4x16"):
        Lanes.named("8x8")


# ---- fixed point


@given(ring=RING, sites=st.integers(1, 1000), clip=CLIP)
def test_no_sum_of_encoded_values_can_leave_its_lane(ring, sites, clip):
    lanes = Lanes.named(ring)
    try:
        fixed = FixedPoint.choose(lanes, sites, clip)
    except ConfigError:
        assert lanes.largest_sum // sites < 16
        return
    assert math.frexp(fixed.scale)[0] == 0.5, "a power of two"
    assert sites * fixed.largest <= lanes.largest_sum
    assert fixed.clip * fixed.scale <= fixed.largest < 2 * 2 * fixed.clip * fixed.scale
    edges = np.array([clip, -clip, np.inf, -np.inf, 3e38, -3e38, 0.0], dtype=np.float32)
    for coins in (np.zeros(7, np.uint32), np.full(7, 2**32 - 1, np.uint32)):
        assert np.abs(rounded(fixed, edges, 1.0, coins)).max() <= fixed.largest


@pytest.mark.parametrize("ring", sorted(RINGS))
@pytest.mark.parametrize("sites", [3, 5, 7])
def test_a_clip_that_float32_rounds_up_cannot_overflow(ring, sites):
    lanes = Lanes.named(ring)
    whole = float(FixedPoint.choose(lanes, sites, 1.0).largest)
    for candidate in (whole * (1 - 2.0**-40), np.nextafter(whole, 0), whole, np.nextafter(whole, np.inf)):
        fixed = FixedPoint.choose(lanes, sites, float(candidate))
        top = np.full(1, candidate, dtype=np.float32)
        q = rounded(fixed, top, 1.0, np.full(1, 2**32 - 1, np.uint32))
        assert q[0] <= fixed.largest


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 1e-30, 1e30])
def test_impossible_clips_are_refused(clip):
    with pytest.raises(ConfigError, match="clip"):
        FixedPoint.choose(Lanes.named("3x21"), 5, clip)


def test_a_ring_too_narrow_for_the_sites_is_refused():
    with pytest.raises(ConfigError, match="choose a wider ring"):
        FixedPoint.choose(Lanes.named("4x16"), 4096, 0.5)


# ---- stochastic rounding


@given(
    ring=RING,
    sites=st.integers(1, 100),
    clip=st.sampled_from([0.01, 0.3, 0.5, 4.0]),
    weight=st.integers(1, 1000),
    values=hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-8, 8, width=32)),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounding_moves_less_than_one_step(ring, sites, clip, weight, values, seed):
    fixed = FixedPoint.choose(Lanes.named(ring), sites, clip)
    coins = np.random.default_rng(seed).integers(0, 2**32, len(values), dtype=np.uint32)
    q = rounded(fixed, values, weight / 1000, coins)
    exact = np.clip(values.astype(np.float64), -fixed.clip, fixed.clip) * (weight / 1000) * fixed.scale
    slack = 2.0 ** -(fixed.coin_bits + 1) + fixed.largest * 2.0**-22  # the coin's grain, and float32 in the fold
    assert (np.abs(q - exact) < 1 + slack).all()


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.25, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_is_unbiased(fraction, sign):
    """The mean of 2^18 roundings is within four standard errors; the coins are a fixed keystream."""
    fixed = FixedPoint.choose(Lanes.named("3x21"), 10, 0.5)
    target = sign * (1234 + fraction)
    values = np.full(CHUNK_WORDS, target / fixed.scale, dtype=np.float32)
    stream, drawn = Keystream(SecretBytes(bytes([7]) * 32)), np.empty(CHUNK_WORDS // 2, dtype="<u8")
    total, count = 0, 0
    for _ in range(32):
        stream.read_into(drawn)
        total += int(rounded(fixed, values, 1.0, drawn.view(np.uint32)).sum())
        count += len(values)
    exact = float(values[0]) * fixed.scale
    part = abs(exact) % 1
    error = 4 * math.sqrt(part * (1 - part) / count) + 2.0 ** -(fixed.coin_bits + 1)
    assert abs(total / count - exact) <= error


@pytest.mark.parametrize("ring", sorted(RINGS))
def test_the_encoder_gives_the_same_integers_however_it_is_read(ring):
    parameters = SumParameters(FixedPoint.choose(Lanes.named(ring), 5, 0.5), 5 * CHUNK_WORDS + 77, 400, True)
    update = np.random.default_rng(1).normal(0, 0.2, parameters.length).astype(np.float32)
    whole = encode_all(parameters, update, 399)
    encoder, parts, left = Encoder(parameters, update, 399, SecretBytes(bytes(32))), [], parameters.words
    while left:
        part = np.empty(min(left, 2 * 501), dtype="<u8")
        encoder.read_into(part)
        parts.append(part)
        left -= len(part)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (encode_all(parameters, update, 399, bytes([1]) * 32) != whole).any()


def test_encoded_integers_are_pinned():
    """Rounding is a function of the update's bits and the coins' key, on every machine and in every version."""
    parameters = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), 9, 40, True)
    update = np.array([0.1, -0.1, 0.5, -0.5, 0.7, 1e-7, 0.0, -0.3333, 0.25], dtype=np.float32)
    words = encode_all(parameters, update, 37)
    ints = np.concatenate(unpack(parameters.fixed.lanes, words))
    assert int(ints[0]) == 37
    scaled = np.clip(update.astype(np.float64), -0.5, 0.5) * 37 / 40 * parameters.fixed.scale
    assert (np.abs(ints[1:10] - scaled) < 1.01).all()
    assert words.tobytes().hex() == PINNED


PINNED = "2500c0ccc43311fbb85e40333b34b30348a1ffffffffffff9ad9010000000000"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 65_535, 65_536, 99_999])
def test_one_value_that_is_not_finite_stops_the_site(bad, place):
    parameters = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), 100_000, 1, False)
    update = np.zeros(100_000, dtype=np.float32)
    check_update(update, parameters)
    update[place] = bad
    with pytest.raises(LocalMisuseError, match="NaN or infinity"):
        Encoder(parameters, update, 1, SecretBytes(bytes(32)))


@pytest.mark.parametrize("update", [np.zeros(9, np.float32), np.zeros(10, np.float64), np.zeros((2, 5), np.float32)])
def test_another_shape_or_type_stops_the_site(update):
    parameters = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), 10, 1, False)
    with pytest.raises(LocalMisuseError, match=r"float32\[10\]"):
        check_update(update, parameters)


# ---- limbs and the range check


@given(
    ring=RING,
    sites=st.integers(1, 60),
    weight_max=st.sampled_from([1, 2, 15, 16, 40, 255, 4096, 1 << 20, (1 << 24) - 1, 1 << 24]),
    data=st.data(),
)
@settings(deadline=None)
def test_hidden_counts_add_up_exactly(ring, sites, weight_max, data):
    """At the bounds too: every site at the largest weight."""
    parameters = SumParameters(FixedPoint.choose(Lanes.named(ring), sites, 0.5), 2, weight_max, True)
    assert sites * ((1 << parameters.limb_bits) - 1) <= parameters.fixed.lanes.largest_sum
    weight = st.one_of(st.integers(1, weight_max), st.just(weight_max))
    weights = data.draw(st.lists(weight, min_size=sites, max_size=sites))
    for w in weights[:3]:
        limbs = count_limbs(parameters, w)
        assert sum(v << (parameters.limb_bits * i) for i, v in enumerate(limbs)) == w
        assert max(limbs) < 1 << parameters.limb_bits
    update = np.zeros(2, np.float32)
    total = sum((encode_all(parameters, update, w) for w in weights), np.uint64(0))
    assert decode_sum(parameters, total, sites, None).total_weight == sum(weights)


def words_with(parameters: SumParameters, element: int, value: int, weight: int = 0) -> np.ndarray:
    """A sum that is zero but for one element (limbs first) and, where counts are hidden, the weight."""
    lanes, words = parameters.fixed.lanes, parameters.words
    planes = [np.zeros(words, dtype=np.int32) for _ in range(lanes.count)]
    if parameters.hidden_weight:
        for i, limb in enumerate(count_limbs(parameters, weight)):
            planes[i // words][i % words] = limb
    planes[element // words][element % words] = value
    return packed(lanes, planes)


@given(
    ring=RING, sites=st.integers(3, 20), length=st.integers(1, 30), hidden=st.booleans(), sign=st.sampled_from([1, -1])
)
def test_a_sum_at_its_bound_passes_and_one_beyond_is_refused(ring, sites, length, hidden, sign):
    weight_max = 50 if hidden else 1
    parameters = SumParameters(FixedPoint.choose(Lanes.named(ring), sites, 0.5), length, weight_max, hidden)
    survivors = sites - 1  # so that one beyond still fits the lane
    edge = survivors * parameters.fixed.largest
    public = None if hidden else survivors
    for element in (parameters.limbs, parameters.elements - 1):
        decoded = decode_sum(parameters, words_with(parameters, element, sign * edge, survivors), survivors, public)
        mean = decoded.mean[element - parameters.limbs]
        assert mean == np.float32(sign * edge) * np.float32(parameters.fixed.step * weight_max / survivors)
        with pytest.raises(PeerViolationError, match="coordinate outside"):
            decode_sum(parameters, words_with(parameters, element, sign * (edge + 1), survivors), survivors, public)


@given(ring=RING, length=st.integers(1, 30), sign=st.sampled_from([1, -1]))
def test_padding_that_is_not_zero_is_refused(ring, length, sign):
    parameters = SumParameters(FixedPoint.choose(Lanes.named(ring), 5, 0.5), length, 1, False)
    padding = parameters.fixed.lanes.count * parameters.words - length
    assume(padding > 0)
    for element in (length, length + padding - 1):
        with pytest.raises(PeerViolationError, match="coordinate outside"):
            decode_sum(parameters, words_with(parameters, element, sign), 5, 5)


@pytest.mark.parametrize("weight", [0, 2, 5 * 40 + 1])
def test_a_total_weight_that_no_counts_give_is_refused(weight):
    parameters = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), 7, 40, True)
    with pytest.raises(PeerViolationError, match="weight"):
        decode_sum(parameters, words_with(parameters, 3, 0, weight), 5, None)
    for possible in (5, 5 * 40):
        assert decode_sum(parameters, words_with(parameters, 3, 0, possible), 5, None).total_weight == possible


@pytest.mark.parametrize("limb", [-1, 5 * ((1 << 17) - 1) + 1])
def test_a_limb_out_of_range_is_refused(limb):
    parameters = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), 7, 1 << 20, True)
    assert (parameters.limb_bits, parameters.limbs) == (17, 2)
    with pytest.raises(PeerViolationError, match="limb"):
        decode_sum(parameters, words_with(parameters, 0, limb, 5), 5, None)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_sum_of_another_size_is_refused(size):
    parameters = SumParameters(FixedPoint.choose(Lanes.named("3x21"), 5, 0.5), 7, 1, False)
    with pytest.raises(PeerViolationError, match="3 words"):
        decode_sum(parameters, np.zeros(size, np.uint64), 5, 5)


def test_bounds_of_parameters():
    fixed = FixedPoint.choose(Lanes.named("3x21"), 5, 0.5)
    for length, weight in ((0, 1), ((1 << 34) + 1, 1), (5, 0), (5, (1 << 24) + 1)):
        with pytest.raises(ConfigError):
            SumParameters(fixed, length, weight, False)
