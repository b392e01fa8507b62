"""The coordinator's arithmetic, against Python's integers; and frames that a stranger made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec_secure.errors import CodecError, ConfigError, LocalMisuseError
from fedsec_secure.he.parameters import SEED_BYTES, STANDARD
from fedsec_secure.he.ring import FRAMES, Ring, SumFrames, add_masks, check_frames, sum_frames
from fedsec_secure.numeric.keystream import ArraySource, Keystream, MaskStreams
from fedsec_secure.secrets import SecretBytes

Q, T, K, N = STANDARD.modulus, STANDARD.plain_modulus, STANDARD.multiple, STANDARD.degree
RING = Ring(STANDARD)
RESIDUES = st.integers(0, Q - 1) | st.sampled_from([0, 1, Q - 1, Q // 2, 2**53, 2**53 + 1])
WEIGHTS = st.integers(-STANDARD.capacity, STANDARD.capacity)


def array(values):
    return np.array(values, dtype="<u8")


@given(st.lists(st.tuples(RESIDUES, RESIDUES), min_size=1), WEIGHTS)
def test_sums_are_those_of_integers(pairs, weight):
    total, other = (array(column) for column in zip(*pairs, strict=True))
    RING.add(total, other)
    assert total.tolist() == [(a + b) % Q for a, b in pairs]
    total, other = (array(column) for column in zip(*pairs, strict=True))
    RING.add_weighted(total, other, weight)
    assert total.tolist() == [(a + weight * b) % Q for a, b in pairs]
    assert other.tolist() == [b for _, b in pairs], "an upload is read, and not written to"


@settings(max_examples=20)
@given(st.integers(1, STANDARD.capacity))
def test_products_next_to_a_multiple_of_q(weight):
    """Where the quotient's floating point is least sure."""
    near = sorted({min(Q - 1, max(0, m * Q // weight + d)) for m in (0, 1, weight // 2, weight) for d in (-1, 0, 1)})
    for sign in (weight, -weight):
        total = np.zeros(len(near), dtype="<u8")
        RING.add_weighted(total, array(near), sign)
        assert total.tolist() == [sign * x % Q for x in near]


@given(st.lists(st.tuples(RESIDUES, st.integers(0, 2**64 - 1)), min_size=1))
def test_a_plaintext_is_added_times_k(pairs):
    total, plain = (array(column) for column in zip(*pairs, strict=True))
    RING.add_plain(total, plain)
    assert total.tolist() == [(a + K * (b % T)) % Q for a, b in pairs]


def test_a_weight_past_the_capacity_is_refused():
    with pytest.raises(LocalMisuseError, match=f"up to {STANDARD.capacity}"):
        RING.add_weighted(array([1]), array([1]), -STANDARD.capacity - 1)


def frames(blocks: int, seed: int = 0) -> np.ndarray:
    """Uploads that no key made: random residues."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, Q, (blocks, SEED_BYTES // 8 + N), dtype=np.uint64)
    return found.reshape(-1)


def split(upload: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = upload.reshape(-1, SEED_BYTES // 8 + N)
    return rows[:, : SEED_BYTES // 8], rows[:, SEED_BYTES // 8 :]


@pytest.mark.parametrize("words", [1, N, N + 1, 9 * N, 20 * N - 3])
@pytest.mark.parametrize("weights", [None, [3, -2, 40]])
def test_uploads_are_summed_block_for_block(words, weights):
    uploads = [frames(STANDARD.blocks(words), seed) for seed in range(3)]
    total = sum_frames([ArraySource(u) for u in uploads], STANDARD, words, weights)
    expected = sum(w * split(u)[1].astype(object) for w, u in zip(weights or [1] * 3, uploads, strict=True)) % Q
    assert np.array_equal(total.c0.astype(object), expected)
    for index, upload in enumerate(uploads):
        assert np.array_equal(total.seeds[:, index].view("<u8"), split(upload)[0])
    again = SumFrames.decode(b"".join(total.parts()), STANDARD, words, 3)
    assert np.array_equal(again.c0, total.c0)
    assert np.array_equal(again.seeds, total.seeds)
    assert again.addends == 3


def test_masks_are_taken_away_as_plaintexts():
    words = 9 * N + 5
    keys = [SecretBytes.random() for _ in range(3)]
    total = sum_frames([ArraySource(frames(STANDARD.blocks(words)))], STANDARD, words)
    before = total.c0.copy()
    with MaskStreams(keys[:1], keys[1:]) as streams:
        add_masks(total, STANDARD, words, streams)
    drawn = np.empty((3, words), dtype="<u8")
    for key, row in zip(keys, drawn, strict=True):
        stream = Keystream(key)
        for start in range(0, words, 1 << 15):
            stream.read_into(row[start : start + (1 << 15)])
    masks = (drawn[0] - drawn[1] - drawn[2]) % np.uint64(T)
    expected = before.reshape(-1).astype(object)
    expected[:words] = (expected[:words] + K * masks.astype(object)) % Q
    assert np.array_equal(total.c0.reshape(-1).astype(object), expected), "and what is past the last word stays"


def test_a_coefficient_outside_the_ring_is_refused():
    upload = frames(2)
    upload[-1] = Q
    with pytest.raises(CodecError, match="no residue"):
        sum_frames([ArraySource(upload)], STANDARD, 2 * N)
    total = sum_frames([ArraySource(frames(2))], STANDARD, 2 * N)
    data = bytearray(b"".join(total.parts()))
    data[-8:] = Q.to_bytes(8, "little")
    with pytest.raises(CodecError, match="no residue"):
        SumFrames.decode(bytes(data), STANDARD, 2 * N, 1)
    data[-8:] = (Q - 1).to_bytes(8, "little")
    assert SumFrames.decode(bytes(data), STANDARD, 2 * N, 1).c0[1, -1] == Q - 1


@pytest.mark.parametrize("change", [-1, 1, -8, 8, SEED_BYTES])
def test_a_sum_of_another_length_is_refused(change):
    data = bytes(STANDARD.sum_bytes(N, 2) + change)
    with pytest.raises(CodecError, match="an encrypted sum of 2 has"):
        SumFrames.decode(data, STANDARD, N, 2)
    with pytest.raises(CodecError):
        SumFrames.decode(b"", STANDARD, N, 0)


def test_too_many_uploads_are_refused_before_one_is_read():
    many = [ArraySource(frames(1))] * (STANDARD.capacity + 1)
    with pytest.raises(ConfigError, match="exact up to"):
        sum_frames(many, STANDARD, N)
    with pytest.raises(LocalMisuseError, match="a weight for each of 1 uploads, found 2"):
        sum_frames(many[:1], STANDARD, N, [1, 1])


@pytest.mark.parametrize("block", [0, FRAMES - 1, FRAMES, FRAMES + 1])
def test_one_upload_is_checked_by_itself_in_every_block(block):
    words = (FRAMES + 1) * N + 1  # of the last block only one
    upload = frames(STANDARD.blocks(words))
    check_frames(ArraySource(upload), STANDARD, words)
    split(upload)[1][block, N - 1] = Q
    with pytest.raises(CodecError, match="no residue"):
        check_frames(ArraySource(upload), STANDARD, words)
