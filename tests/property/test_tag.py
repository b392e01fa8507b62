"""The tag is the number that the protocol defines, exactly: against the definition, in Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec_secure.errors import LocalMisuseError
from fedsec_secure.masking.tag import COLUMNS, PRIME, LinearTag, pads, tag_key
from fedsec_secure.numeric.keystream import CHUNK_WORDS, Keystream
from fedsec_secure.numeric.lanes import RINGS, Lanes
from fedsec_secure.secrets import SecretBytes, derive

KEY = SecretBytes(bytes(range(32)))
LENGTHS = st.sampled_from([1, 2, COLUMNS - 1, COLUMNS, COLUMNS + 1, 2 * COLUMNS + 7])


def stream(key: SecretBytes, count: int) -> list[int]:
    words = np.empty(count, dtype="<u8")
    Keystream(key).read_into(words)
    return [int(w) % 2**61 for w in words]


def defined(key: SecretBytes, planes: list[np.ndarray]) -> int:
    """sum over lanes l and words j of u[l, j // COLUMNS] * v[j % COLUMNS] * q[l, j] modulo p."""
    columns = stream(derive(key, "fedsec v1 tag columns"), COLUMNS)
    total = 0
    for lane, plane in enumerate(planes):
        rows = stream(derive(key, "fedsec v1 tag rows", bytes([lane])), -(-len(plane) // COLUMNS))
        total += sum(rows[j // COLUMNS] * columns[j % COLUMNS] * q for j, q in enumerate(plane.tolist()))
    return total % PRIME


def lanes_of(ring: str, length: int, seed: int) -> list[np.ndarray]:
    lanes, rng = Lanes.named(ring), np.random.default_rng(seed)
    most = lanes.largest_sum
    return [
        rng.integers(-most, most, length, dtype=np.int64, endpoint=True).astype(np.int32) for _ in range(lanes.count)
    ]


def fed(key: SecretBytes, ring: str, planes: list[np.ndarray], chunk: int = CHUNK_WORDS) -> int:
    tag = LinearTag(key, Lanes.named(ring))
    for start in range(0, len(planes[0]), chunk):
        tag.add([p[start : start + chunk] for p in planes])
    return tag.value


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(RINGS)), LENGTHS, st.integers(0, 2**32 - 1), st.sampled_from([COLUMNS, CHUNK_WORDS]))
def test_tag_is_the_defined_sum_whatever_the_chunks(ring, length, seed, chunk):
    planes = lanes_of(ring, length, seed)
    assert fed(KEY, ring, planes, chunk) == defined(KEY, planes)


@pytest.mark.parametrize("ring", sorted(RINGS))
@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_is_rounded_at_the_largest_lanes(ring, sign):
    lanes = Lanes.named(ring)
    for extreme in (lanes.largest_sum, lanes.largest_sum + (sign < 0)):
        planes = [np.full(COLUMNS, sign * extreme, dtype=np.int64).astype(np.int32) for _ in range(lanes.count)]
        assert fed(KEY, ring, planes) == defined(KEY, planes)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(RINGS)), LENGTHS, st.integers(0, 2**32 - 1))
def test_tags_add_as_lanes_add(ring, length, seed):
    one, two = ([p // 4 for p in lanes_of(ring, length, s)] for s in (seed, seed + 1))
    both = [a + b for a, b in zip(one, two, strict=True)]
    assert (fed(KEY, ring, one) + fed(KEY, ring, two)) % PRIME == fed(KEY, ring, both)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2), st.integers(0, 2 * COLUMNS - 1), st.integers(-5, 5).filter(bool), st.integers(0, 2**32 - 1))
def test_one_altered_lane_alters_the_tag(lane, at, by, seed):
    planes = lanes_of("3x21", 2 * COLUMNS, seed)
    before = fed(KEY, "3x21", planes)
    planes[lane][at] += by
    assert fed(KEY, "3x21", planes) != before


def test_another_key_gives_another_tag_and_other_pads():
    planes, other = lanes_of("3x21", 10, 1), SecretBytes(bytes(31) + b"k")
    assert fed(KEY, "3x21", planes) != fed(other, "3x21", planes)
    assert pads(KEY, ["site-a", "site-b"]) == (pads(KEY, ["site-a"]) + pads(KEY, ["site-b"])) % PRIME
    assert len({pads(k, [s]) for k in (KEY, other) for s in ("site-a", "site-b")}) == 4


def test_the_key_depends_on_every_seed_their_order_and_the_context():
    a, b = SecretBytes(bytes(32)), SecretBytes(bytes(31) + b"b")
    keys = [tag_key([a, b], bytes(32)), tag_key([b, a], bytes(32)), tag_key([a], bytes(32)), tag_key([a, b], b"x" * 32)]
    assert len({k.reveal() for k in keys}) == 4


def test_lanes_after_the_last_chunk_and_of_another_ring_are_refused():
    tag = LinearTag(KEY, Lanes.named("3x21"))
    with pytest.raises(LocalMisuseError, match="another ring"):
        tag.add(lanes_of("4x16", 3, 1))
    tag.add(lanes_of("3x21", 3, 1))
    with pytest.raises(LocalMisuseError, match="after its last chunk"):
        tag.add(lanes_of("3x21", COLUMNS, 1))
