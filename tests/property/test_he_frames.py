"""Encrypted frames from a stranger: a value or CodecError; and no worker ends of one, whatever is in it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.encryption.messages import DECRYPT, SIZES
from fedsec.encryption.workers import UNOPENED, EncryptionWorkers, _Worker
from fedsec_secure.errors import CodecError, PeerViolationError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.he.parameters import SEED_BYTES, STANDARD
from fedsec_secure.he.ring import Ring, SumFrames, sum_frames
from fedsec_secure.numeric.keystream import ArraySource
from fedsec_secure.secrets import SecretBytes
from tests.property.fuzz import mutated

Q, N = STANDARD.modulus, STANDARD.degree
HEAD = SEED_BYTES // 8
EDGES = st.sampled_from([0, 1, Q - 1, Q, Q + 1, 2 * Q, 2**63, 2**64 - 1])
VALUES = EDGES | st.integers(0, Q - 1) | st.integers(0, 2**64 - 1)
EDITS = st.lists(st.tuples(st.integers(0, 2**16), VALUES), max_size=4)
"""(which word, what it becomes)."""


def edited(words: np.ndarray, edits: list[tuple[int, int]]) -> np.ndarray:
    found = words.copy()
    for at, value in edits:
        found[at % len(found)] = value
    return found


def residues(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, Q, count, dtype=np.uint64)


@settings(max_examples=200)
@given(st.integers(1, 2 * N + 1), st.integers(1, 2), st.integers(1, 2), EDITS, st.just(0) | st.integers(-N, N))
def test_a_sum_is_a_value_or_a_codec_error(words, addends, told, edits, change):
    """A value if and only if its length is due and every coefficient is a residue; then it has one encoding."""
    blocks = STANDARD.blocks(words)
    data = edited(residues(blocks * (HEAD * addends + N)), edits).tobytes()
    data = (data + bytes(abs(change)))[: len(data) + change]
    due = len(data) == STANDARD.sum_bytes(words, told)
    good = due and max(np.frombuffer(data, dtype="<u8")[blocks * HEAD * told :]) < Q
    try:
        value = SumFrames.decode(memoryview(data), STANDARD, words, told)
    except CodecError:
        assert not good
        return
    assert good
    assert (value.addends, len(value.c0)) == (told, blocks)
    assert b"".join(value.parts()) == data


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 2**64), st.integers(0, 2**16))
def test_arbitrary_bytes_are_no_sum(data, words, addends):
    if len(data) == STANDARD.sum_bytes(words, addends) and addends:
        assert len(SumFrames.decode(data, STANDARD, words, addends).c0) == 0, "of no words at all"
        return
    with pytest.raises(CodecError):
        SumFrames.decode(data, STANDARD, words, addends)


@given(st.lists(VALUES))
def test_only_residues_pass_the_ring(values):
    words = np.array(values, dtype="<u8")
    if all(v < Q for v in values):
        Ring(STANDARD).check(words)
        return
    with pytest.raises(CodecError):
        Ring(STANDARD).check(words)


@settings(max_examples=60)
@given(st.lists(EDITS, min_size=1, max_size=3), st.data())
def test_uploads_are_summed_or_refused(edits, data):
    """Whatever a seed is. A coefficient past q never gets into a sum, weighted or not."""
    uploads = [edited(residues(2 * (HEAD + N)), one) for one in edits]
    weights = data.draw(st.none() | st.lists(st.integers(-100, 100), min_size=len(edits), max_size=len(edits)))
    if weights is not None and not any(weights):
        weights[0] = 1
    hostile = any(u.reshape(2, -1)[:, HEAD:].max() >= Q for u in uploads)
    try:
        total = sum_frames([ArraySource(u) for u in uploads], STANDARD, 2 * N, weights)
    except CodecError:
        assert hostile
        return
    assert not hostile
    assert total.c0.max() < Q
    assert all((total.seeds[:, i].view("<u8") == u.reshape(2, -1)[:, :HEAD]).all() for i, u in enumerate(uploads))


KEY = SecretBytes(bytes(range(32)))
WEIGHTS = st.sampled_from([(), (1, 1), (1, -1), (0, 0), (2, 371), (-(2**31), 2**31 - 1), (1,), (1, 1, 1)])
PLAIN = np.random.default_rng(0).integers(0, 1 << 40, (2, N), dtype=np.uint64)


@pytest.fixture(scope="module")
def worker() -> Iterator[_Worker]:
    made = _Worker(KEY)
    made.reply()
    yield made
    made.close()


@pytest.fixture(scope="module")
def total() -> SumFrames:
    cipher = BfvCipher(KEY)
    uploads = [ArraySource(np.frombuffer(cipher.encrypt(one), dtype="<u8")) for one in PLAIN]
    cipher.close()
    return sum_frames(uploads, STANDARD, N)


def request_of(total: SumFrames, weights: tuple[int, ...] = ()) -> bytes:
    head = SIZES.pack(total.c0.size, total.addends, len(weights)) + struct.pack(f"<{len(weights)}i", *weights)
    return head + b"".join(total.parts())


def answer(worker: _Worker, request: bytes) -> bytes | None:
    """What it decrypts to; None for its refusal. EOFError where the worker ended."""
    worker.ask(DECRYPT, request)
    try:
        return worker.reply()
    except OSError:
        return None


def check_alive(worker: _Worker, total: SumFrames) -> None:
    assert worker._process.poll() is None
    found = answer(worker, request_of(total))
    assert found is not None
    assert np.array_equal(np.frombuffer(found, dtype="<u8"), PLAIN.sum(axis=0)), "and still decrypts"


@settings(max_examples=200)
@given(EDITS, EDITS, st.booleans(), WEIGHTS)
def test_changed_frames_decrypt_or_are_refused(worker, total, seeds, c0, same, weights):
    changed = edited(total.seeds.reshape(-1).view("<u8"), seeds)
    if same:  # with weights 1 and -1 nothing is left that the key is in
        changed[HEAD:] = changed[:HEAD]
    c0 = edited(total.c0.reshape(-1), c0)
    hostile = SumFrames(c0.reshape(1, N), changed.view(np.uint8).reshape(1, 2, SEED_BYTES))
    found = answer(worker, request_of(hostile, weights))
    if c0.max() >= Q or len(weights) not in {0, 2}:
        assert found is None
    assert found is None or len(found) == 8 * N
    check_alive(worker, total)


@pytest.mark.parametrize("fill", [0, 1, Q - 1])
def test_frames_of_one_number_decrypt(worker, total, fill):
    c0 = np.full((1, N), fill, dtype="<u8")
    for seed in (0, 255):
        seeds = np.full((1, 2, SEED_BYTES), seed, dtype=np.uint8)
        found = answer(worker, request_of(SumFrames(c0, seeds)))
        assert found is not None
        assert len(found) == 8 * N
    check_alive(worker, total)


def test_mutated_requests_are_answered(worker, total):
    """Their sizes, weights and lengths too."""
    rng, good, refused = random.Random(1), request_of(total, (1, 1)), 0
    head = SIZES.size + 8
    for case in range(400):
        # Every other time in the sizes and weights alone.
        request = mutated(good[:head], good[:200], rng) + good[head:] if case % 2 else mutated(good, good[:200], rng)
        found = answer(worker, request)
        refused += found is None
        assert found is None or len(found) == 8 * N
    assert 0 < refused < 400
    check_alive(worker, total)


@pytest.mark.parametrize(("bit", "expected"), [(0, N), (63, UNOPENED)])
def test_a_site_sees_words_or_the_one_refusal(total, bit, expected):
    seeds, c0 = total.seeds.copy(), total.c0.copy()
    seeds[0, 1, 7] ^= 1
    c0[0, 99] ^= np.uint64(1 << bit)
    with EncryptionWorkers(KEY, 1) as pool:
        try:
            seen: object = len(pool.decrypt(SumFrames(c0, seeds), N))
        except PeerViolationError as error:
            seen = str(error)
    assert seen == expected
